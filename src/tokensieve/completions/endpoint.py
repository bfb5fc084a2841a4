"""The back end behind an OpenAI-compatible HTTP endpoint: vLLM, `transformers serve`, a hosted model."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from tokensieve.completions.chat_protocol import ChatProtocol, EndpointError
from tokensieve.completions.limits import Budget, Patience
from tokensieve.completions.records import Completion, Decoding, Messages
from tokensieve.errors import ConfigError


class EndpointBackend:
    """A model that a server offers, asked by concurrent requests.

    A rate limit (429), a failure of the server (5xx), a lost connection, a stall and an answer that is not one are
    tried again after an exponential back-off with jitter, or after what `Retry-After` asks for, which holds back all
    requests. Other refusals (400, 401, 404 ...) end the call at once: no new request is sent, those in flight may end.

    Args:
        base_url: with the version, without the method: `http://localhost:8000/v1`.
        model: its name at the server.
        api_key_variable: environment variable that holds the key; None, or unset: no key is sent. The key is read when
            requests are sent, and kept nowhere.
        max_concurrency: requests in flight at once, >= 1.
        timeout_seconds: limit of one request, from connecting to the answer's last byte.
        max_requests: budget of HTTP requests over this object's life, repeated ones counted; None: no limit.
        max_attempts: how often one completion is tried, >= 1.
        first_backoff_seconds: bound of the random wait before the second attempt; doubles with each, up to a minute.
        longest_wait_seconds: a `Retry-After` above this ends the call.
        token_limit_field: `max_tokens`, or `max_completion_tokens` where the server wants that.
        with_logprobs: ask for log-probabilities, for `mean_nll`; not every server gives them, and some refuse.
        extra: more fields of the request's body (JSON); null takes a field away.
        deployment: name under which answers are stored in place of `base_url`, for a server whose address changes.

    Raises:
        ConfigError: a `base_url` that is not an http(s) URL, or that carries a password or a query.
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_variable: str | None = "OPENAI_API_KEY",
        max_concurrency: int = 16,
        timeout_seconds: float = 120.0,
        max_requests: int | None = None,
        max_attempts: int = 8,
        first_backoff_seconds: float = 1.0,
        longest_wait_seconds: float = 300.0,
        token_limit_field: str = "max_tokens",
        with_logprobs: bool = False,
        extra: Mapping[str, Any] | None = None,
        deployment: str | None = None,
    ) -> None:
        counts = (max_concurrency, max_attempts, 1 if max_requests is None else max_requests)
        if min(counts) < 1 or min(timeout_seconds, longest_wait_seconds) <= 0 or first_backoff_seconds < 0:
            raise ValueError(
                "counts must be at least 1, the timeout and the longest wait above 0, the back-off not below"
            )
        base_url = _check_url(base_url)
        self._protocol = ChatProtocol(
            url=f"{base_url}/chat/completions",
            model=model,
            token_limit_field=token_limit_field,
            with_logprobs=with_logprobs,
            extra=dict(extra or {}),
            api_key_variable=api_key_variable,
        )
        self._deployment = deployment or base_url
        self._max_concurrency = max_concurrency
        self._patience = Patience(
            timeout_seconds=timeout_seconds,
            max_attempts=max_attempts,
            first_backoff_seconds=first_backoff_seconds,
            longest_wait_seconds=longest_wait_seconds,
        )
        self.budget = Budget(max_requests)

    def identity(self) -> Mapping[str, Any]:
        """Deployment (the address, unless named), model, further fields of the body; never the key."""
        return {
            "backend": "endpoint",
            "deployment": self._deployment,
            "model": self._protocol.model,
            "with_logprobs": self._protocol.with_logprobs,
            "extra": dict(self._protocol.extra),
        }

    def complete(
        self, requests: Sequence[tuple[Messages, int]], decoding: Decoding
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (number of the request, completion) as they arrive.

        Raises:
            EndpointError: after the last that arrived: refused, out of budget, or failing for too long.
            ConfigError: the key's variable holds what cannot be a key.
        """
        if not requests:
            return
        from tokensieve.completions.arrivals import iterate_arrivals

        # The bar and the errors say what there is to say; the library would tell of every request.
        logging.getLogger("httpx2").setLevel(logging.WARNING)
        yield from iterate_arrivals(partial(self._ask_all, requests, decoding))

    async def _ask_all(
        self,
        requests: Sequence[tuple[Messages, int]],
        decoding: Decoding,
        put: Callable[[tuple[int, Completion]], None],
    ) -> None:
        import anyio
        import httpx2

        from tokensieve.completions.exchange import Exchange, Halted

        key = _read_key(self._protocol.api_key_variable)
        num_workers = min(self._max_concurrency, len(requests))
        remaining = iter(enumerate(requests))  # shared: the workers take turns on one thread

        async def work(exchange: Exchange) -> None:
            for number, (messages, sample) in remaining:
                body = self._protocol.write_body(messages, sample, decoding)
                read = partial(self._protocol.read_answer, decoding=decoding, request=f"request {number}")
                try:
                    put((number, await exchange.ask(body, read)))
                except (Halted, EndpointError):
                    return

        async with httpx2.AsyncClient(
            headers={"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {}),
            timeout=None,  # ours is over the whole exchange
            trust_env=not _is_loopback(self._protocol.url),  # no proxy reaches a server of this machine
            limits=httpx2.Limits(max_connections=num_workers, max_keepalive_connections=num_workers),
        ) as client:
            exchange = Exchange(client, self._protocol.url, key, self._patience, self.budget)
            async with anyio.create_task_group() as group:
                for _ in range(num_workers):
                    group.start_soon(work, exchange)
        if exchange.failure is not None:
            raise exchange.failure


def _check_url(base_url: str) -> str:
    """`base_url` without a slash at its end.

    >>> _check_url("http://localhost:8000/v1/")
    'http://localhost:8000/v1'
    """
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            "base_url",
            "must be an http or https URL",
            received=base_url,
            remedy="for instance http://localhost:8000/v1",
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        # Not repeated: it may be a secret.
        raise ConfigError(
            "base_url",
            "must not carry a user, a password, a query or a fragment",
            remedy="give the key by an environment variable",
        )
    return base_url.rstrip("/").removesuffix("/chat/completions").rstrip("/")


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _read_key(variable: str | None) -> str:
    """The key, or "" for none."""
    key = os.environ.get(variable, "").strip() if variable else ""
    if not all("!" <= character <= "~" for character in key):
        raise ConfigError(
            f"environment variable {variable}",
            "must hold a key of visible ASCII characters",
            remedy="set it again without quotes, spaces and line breaks",
        )
    return key
