"""HTTP requests that are tried again, within a budget, until one of them shows that there is no point."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import anyio
import httpx2
import tenacity

from tokensieve.completions.chat_protocol import EndpointError, TransientFault
from tokensieve.completions.limits import Budget, Patience

_LONGEST_BACKOFF_SECONDS: Final = 60.0
_SHORTEST_SECRET: Final = 8  # a shorter one ("EMPTY", "x") is a placeholder
T = TypeVar("T")
Read = Callable[[int, Mapping[str, str], bytes], T]
"""Make the answer of status, headers and content, or raise TransientFault or EndpointError."""


class Halted(Exception):
    """This request was given up because another one has shown that there is no point."""


class Exchange:
    """The requests of one call: concurrent tasks of one event loop, which halt together.

    Args:
        client: an HTTP client without a timeout of its own.
        url: that is posted to.
        secret: what no error may repeat.
        patience: when to try again.
        budget: of attempts.
    """

    def __init__(self, client: httpx2.AsyncClient, url: str, secret: str, patience: Patience, budget: Budget) -> None:
        self._client = client
        self._url = url
        self._secret = secret.encode() if len(secret) >= _SHORTEST_SECRET else b""
        self._patience = patience
        self._budget = budget
        self._halted = anyio.Event()
        self._open_at = 0.0  # the loop's time until which a rate limit holds all requests back
        self._jitter = random.Random()  # own: the process's generator belongs to the caller
        self.failure: EndpointError | None = None

    async def ask(self, body: bytes, read: Read[T]) -> T:
        """The answer to one request.

        Raises:
            EndpointError: there is none; it is now `failure`, no new attempt is made, those in flight may end.
            Halted: another request has failed.
        """
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(TransientFault),
            stop=tenacity.stop_after_attempt(self._patience.max_attempts),
            wait=self._choose_wait,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return await retrying(self._attempt, body, read)
        except TransientFault as fault:
            failure = EndpointError(
                self._url,
                f"must answer within {self._patience.max_attempts} attempts",
                received=str(fault),
                remedy="check that the server runs, then run again; what was answered is kept",
            )
        except EndpointError as error:
            failure = error
        self.failure = self.failure or failure
        self._halted.set()
        raise failure

    async def _attempt(self, body: bytes, read: Read[T]) -> T:
        while (wait := self._open_at - anyio.current_time()) > 0:
            await self._sleep(wait)
        if self._halted.is_set():
            raise Halted
        self._budget.spend()
        try:
            with anyio.fail_after(self._patience.timeout_seconds):
                response = await self._client.post(self._url, content=body)
        except TimeoutError:
            raise TransientFault(f"no answer within {self._patience.timeout_seconds:g} s") from None
        except httpx2.RequestError as error:
            raise TransientFault(f"{type(error).__name__}: {error}".rstrip(": ")) from None
        content = response.content
        if response.status_code != 200 and self._secret:
            content = content.replace(self._secret, b"[key]")  # some servers repeat what they were sent
        return read(response.status_code, response.headers, content)

    def _choose_wait(self, state: tenacity.RetryCallState) -> float:
        """Full jitter under an exponential bound, after what the server asks for."""
        bound = min(self._patience.first_backoff_seconds * 2 ** (state.attempt_number - 1), _LONGEST_BACKOFF_SECONDS)
        wait = self._jitter.uniform(0, bound)
        fault = state.outcome.exception() if state.outcome is not None else None
        if not isinstance(fault, TransientFault) or fault.retry_after is None:
            return wait
        if fault.retry_after > self._patience.longest_wait_seconds:
            raise EndpointError(
                self._url,
                f"must be free within {self._patience.longest_wait_seconds:g} s",
                received=f"{fault}; Retry-After {fault.retry_after:.0f} s",
                remedy="run again later; what was answered is kept",
            )
        self._open_at = max(self._open_at, anyio.current_time() + fault.retry_after)
        return fault.retry_after + wait

    async def _sleep(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._halted.wait()
            raise Halted
