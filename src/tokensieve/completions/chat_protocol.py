"""The wire format of /v1/chat/completions: what is sent, and what an answer means."""

from __future__ import annotations

import email.utils
import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tokensieve.completions.records import Completion, Decoding, Messages
from tokensieve.completions.store import completion_key
from tokensieve.errors import TokensieveError

# Timeouts, conflicts, too early, rate limits; of the server's own failures all but "not implemented".
_TRANSIENT_STATUSES: Final = frozenset({408, 409, 425, 429})
_NOT_IMPLEMENTED: Final = 501
_UNENDED: Final = frozenset({"length", "max_tokens", "content_filter", None})
_EXCERPT_CHARACTERS: Final = 300


class EndpointError(TokensieveError):
    """An endpoint that cannot answer: refused, out of budget, or failing for too long."""


class TransientFault(Exception):
    """An attempt that failed in a way that may pass. `retry_after`: seconds that the server asks to wait, or None."""

    def __init__(self, what: str, retry_after: float | None = None) -> None:
        super().__init__(what)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatProtocol:
    """How one endpoint is spoken to.

    Attributes:
        url: of the chat completions, for messages.
        model: its name there.
        token_limit_field: name of the body's field for `max_new_tokens`.
        with_logprobs: ask for the log-probabilities of the tokens.
        extra: more fields of the body; null takes a field away.
        api_key_variable: environment variable of the key, for messages.
    """

    url: str
    model: str
    token_limit_field: str
    with_logprobs: bool
    extra: Mapping[str, Any]
    api_key_variable: str | None

    def write_body(self, messages: Messages, sample: int, decoding: Decoding) -> bytes:
        """The JSON of one request. The seed is decided by the decoding's, the conversation and the sample's number."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [dict(message) for message in messages],
            self.token_limit_field: decoding.max_new_tokens,
            "temperature": decoding.temperature,
        }
        if decoding.temperature > 0:
            key = completion_key({}, messages, decoding, sample)
            body["seed"] = int.from_bytes(hashlib.blake2b(key, digest_size=4).digest()) >> 1  # 31 bits: all accept it
            if decoding.top_p < 1:
                body["top_p"] = decoding.top_p
        if decoding.stop:
            body["stop"] = list(decoding.stop)
        if self.with_logprobs:
            body["logprobs"] = True
        body |= self.extra
        return json.dumps({key: value for key, value in body.items() if value is not None}).encode("ascii")

    def read_answer(
        self, status: int, headers: Mapping[str, str], content: bytes, decoding: Decoding, request: str
    ) -> Completion:
        """The completion that a response carries.

        Raises:
            TransientFault: it may be better next time: rate limits, the server's failures, what is not an answer.
            EndpointError: it will not.
        """
        if status == 200:
            return _read_completion(content, decoding)
        may_pass = (status in _TRANSIENT_STATUSES or status >= 500) and status != _NOT_IMPLEMENTED
        if may_pass and _error_field(content, "code") != "insufficient_quota":
            raise TransientFault(f"HTTP {status}: {_excerpt(content)}", _read_retry_after(headers))
        raise self._refusal(status, content, request)

    def _refusal(self, status: int, content: bytes, request: str) -> EndpointError:
        if status in (401, 403):
            # The body is left out: some servers repeat the key, or a part of it.
            variable = self.api_key_variable
            remedy = f"set {variable} to a key that may use {self.model}" if variable else "name the key's variable"
            return EndpointError(self.url, "must accept the key", received=f"HTTP {status}", remedy=remedy)
        found = f"HTTP {status}: {_excerpt(content)}"
        if status in (404, 405) or 300 <= status < 400:
            remedy = f"check that base_url ends as the server wants it (most: /v1) and that it serves {self.model!r}"
            return EndpointError(self.url, "must serve chat completions", received=found, remedy=remedy)
        if status == 429:
            remedy = "add credit; what was answered is kept and not asked for again"
            return EndpointError(self.url, "must have quota left", received=found, remedy=remedy)
        remedy = "correct the conversation or the decoding options; `extra` with null takes a field away"
        return EndpointError(f"{self.url}, {request}", "must be accepted", received=found, remedy=remedy)


def _read_completion(content: bytes, decoding: Decoding) -> Completion:
    try:
        choice = json.loads(content)["choices"][0]
        text, reason = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise TransientFault(f"not a chat completion ({type(error).__name__}): {_excerpt(content)}") from None
    if not isinstance(text, str | None) or not isinstance(reason, str | None):
        raise TransientFault(f"not a chat completion: {_excerpt(content)}")
    # JSON may escape halves of surrogate pairs, which are no text and cannot be stored.
    whole = (text or "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    # Some servers (transformers serve) leave the stop string in.
    cut = min((at for string in decoding.stop if (at := whole.find(string)) >= 0), default=None)
    return Completion(
        text=whole[:cut],
        is_complete=cut is not None or reason not in _UNENDED,
        mean_nll=_read_mean_nll(choice, whole, whole[:cut]),
    )


def _read_mean_nll(choice: Mapping[str, Any], content: str, text: str) -> float | None:
    """Mean over the tokens of `text`, which `content` begins with; None where the server does not give them all.

    Some servers give the tokens of a thought first, which is no part of the content: its last place counts.
    """
    try:
        entries = [(_token_bytes(entry), float(entry["logprob"])) for entry in choice["logprobs"]["content"]]
    except (LookupError, TypeError, ValueError):
        return None
    begin = b"".join(token for token, _ in entries).rfind(content.encode())
    end, at, nlls = begin + len(text.encode()), 0, []
    for token, logprob in entries:
        if at < end and at + len(token) > begin:
            nlls.append(-logprob)
        at += len(token)
    if begin < 0 or not nlls or not all(map(math.isfinite, nlls)):
        return None
    return sum(nlls) / len(nlls)


def _token_bytes(entry: Mapping[str, Any]) -> bytes:
    """The bytes of a token's text."""
    stated = entry.get("bytes")
    return bytes(stated) if stated is not None else entry["token"].encode(errors="replace")


def _error_field(content: bytes, name: str) -> object:
    try:
        return json.loads(content)["error"][name]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _excerpt(content: bytes) -> str:
    """The server's own message, or the beginning of what it sent, on one line."""
    message = _error_field(content, "message")
    text = message if isinstance(message, str) else content[: 4 * _EXCERPT_CHARACTERS].decode(errors="replace")
    line = " ".join(text.split())
    return line if len(line) <= _EXCERPT_CHARACTERS else line[:_EXCERPT_CHARACTERS] + "..."


def _read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header, which holds a number or a date.

    >>> _read_retry_after({"retry-after": "7"})
    7.0
    """
    stated = headers.get("retry-after", "").strip()
    try:
        seconds = float(stated)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(stated).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
