"""What tasks ask of a model, and the model's replies to what several of them ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tokensieve.completions.records import Decoding
from tokensieve.evaluate.questions import Questions
from tokensieve.generate import decoding_order, generate_completions
from tokensieve.log_likelihood import Continuation, score_continuations

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


class TextRequest(NamedTuple):
    """A prompt to continue, in token ids. `sample`: its number among those drawn for one item."""

    prompt: Sequence[int]
    decoding: Decoding
    sample: int = 0


class OptionRequest(NamedTuple):
    """A continuation whose log-probability after `context` is wanted; both in token ids, neither empty."""

    context: Sequence[int]
    continuation: Sequence[int]


Request = TextRequest | OptionRequest
Reply = str | Continuation
"""The text, or how likely the continuation is."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Of N items: `scores` in [0, 1], `outputs`, whether the prompt was too long; and how all were made."""

    scores: list[float]
    outputs: list[str]
    too_long: list[bool]
    decoding: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Inquiry:
    """A task's items as requests, all of one kind, and `grade`, which makes answers of one reply to each of them."""

    questions: Questions
    requests: Sequence[Request]
    grade: Callable[[Sequence[Any]], Answers]


def order_requests(requests: Sequence[Request]) -> list[int]:
    """Their numbers as they are best put to a model: like beside like, and the options of one context together."""

    def place(at: int) -> tuple[Any, ...]:
        request = requests[at]
        if isinstance(request, TextRequest):
            return (0, *decoding_order(request.prompt, request.decoding))
        return 1, -len(request.context)  # sorting is stable: the options of an item stay side by side

    return sorted(range(len(requests)), key=place)


def put_requests(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    *,
    batch_size: int,
    max_length: int | None,
    progress: str | None = None,
) -> list[Reply]:
    """One reply a request: all texts from one stream of rows, all options from batches sorted by length.

    Args:
        model: a causal LM or a PEFT model on it.
        tokenizer: its tokenizer.
        requests: of any number of tasks.
        batch_size: rows at once.
        max_length: tokens of prompt and answer together; None: the model's own limit.
        progress: label of a progress bar; None: no bar.
    """
    texts = {at: request for at, request in enumerate(requests) if isinstance(request, TextRequest)}
    options = {at: request for at, request in enumerate(requests) if isinstance(request, OptionRequest)}
    replies: dict[int, Reply] = {}
    completions = generate_completions(
        model,
        tokenizer,
        [request.prompt for request in texts.values()],
        [request.decoding for request in texts.values()],
        samples=[request.sample for request in texts.values()],
        batch_size=batch_size,
        max_length=max_length,
        progress=progress,
    )
    numbers = list(texts)
    for at, completion in completions:
        replies[numbers[at]] = completion.text
    scored = score_continuations(
        model, list(options.values()), batch_size=batch_size, max_length=max_length, progress=progress
    )
    replies.update(zip(options, scored, strict=True))
    return [replies[at] for at in range(len(requests))]
