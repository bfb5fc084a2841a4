"""What a generation back end is asked for and what it gives, whichever back end it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Messages = Sequence[Mapping[str, str]]
"""A conversation of {role, content} that the completion continues; the last turn is the user's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How a completion is drawn.

    Attributes:
        max_new_tokens: longest completion, >= 1.
        temperature: 0 is greedy.
        top_p: nucleus mass in (0, 1]; 1 keeps the whole distribution.
        stop: strings that end a completion and are not part of it; none of them empty.
        seed: of sampling; with the prompt and the sample's number it decides the random stream of one completion.

    Raises:
        ValueError: a value out of its range.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1; got {self.max_new_tokens}")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be 0 or above; got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1]; got {self.top_p}")
        if "" in self.stop:
            raise ValueError("a stop string must not be empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answer.

    Attributes:
        text: without special tokens and without the stop string.
        is_complete: it ended by itself (end token or stop string), not at the token limit.
        mean_nll: mean negative log-probability of the text's tokens (without the end token and the stop string) under
            the untempered model, in nats; None where the back end does not tell, or the text has no token.
        mean_entropy: mean entropy of the untempered next-token distribution at its tokens, in nats; None likewise.
    """

    text: str
    is_complete: bool
    mean_nll: float | None = None
    mean_entropy: float | None = None


class Backend(Protocol):
    """A model that completes conversations."""

    def identity(self) -> Mapping[str, Any]:
        """JSON values that decide what it answers: part of the stamp and of every stored completion's digest."""
        ...

    def complete(
        self, requests: Sequence[tuple[Messages, int]], decoding: Decoding
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (number of the request, completion) as they come, in any order, each request once.

        A request is a conversation and the number of the sample (0, 1, ...) wanted of it. A back end that must stop
        yields what had arrived before it raises; so does one into which an exception is thrown (`Generator.throw`).
        """
        ...
