"""Log-probabilities of continuations under a causal model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from tqdm import tqdm

from tokensieve.errors import DataError
from tokensieve.generate import evaluating
from tokensieve.head import split_head
from tokensieve.length_limits import length_limit
from tokensieve.log_likelihood.states import Request, predicting_states
from tokensieve.loss import compute_logits

if TYPE_CHECKING:
    from torch import nn

# Logits of one chunk: 64 MiB in float32.
_CHUNK_ELEMENTS: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Continuation:
    """How likely a model finds a continuation.

    Attributes:
        log_probability: sum over its tokens, in nats.
        num_tokens: at least 1.
        is_greedy: whether each of its tokens is the most likely one.
    """

    log_probability: float
    num_tokens: int
    is_greedy: bool


def score_continuations(
    model: nn.Module,
    requests: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    batch_size: int,
    max_length: int | None = None,
    progress: str | None = None,
) -> list[Continuation]:
    """Score N continuations, each after its context, in the order of the requests.

    Logits exist at the continuations' positions only, in float32. A context that requests of a batch share, as the
    options of one item do, is computed once. The batch size changes results by the rounding of float sums only.

    Args:
        model: a causal LM or a PEFT model on it; it leaves in the mode (training or not) in which it came.
        requests: N pairs of token ids, of a context and of a continuation, neither empty (see `encode_continuation`).
        batch_size: continuations scored at once, >= 1.
        max_length: tokens fed at most, not counting a continuation's last, which is only predicted; None: the model's
            own limit, if it has one. A context too long for it loses its first tokens.
        progress: label of a progress bar over requests; None: no bar.

    Raises:
        DataError: an empty context or continuation, a continuation above the limit, or a log-probability that is not a
            number; it says of which request (from 0).
        ValueError: `batch_size` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    limit = min((n for n in (max_length, length_limit(model)) if n is not None), default=None)
    contexts: dict[tuple[int, ...], tuple[int, ...]] = {}  # one tuple an item, not one an option
    cut = (_cut(at, context, continuation, limit) for at, (context, continuation) in enumerate(requests))
    todo = _order([entry._replace(context=contexts.setdefault(entry.context, entry.context)) for entry in cut])
    results: dict[int, Continuation] = {}
    with (
        evaluating(model),
        torch.inference_mode(),
        tqdm(total=len(todo), desc=progress, disable=None if progress else True, leave=False, delay=2) as bar,
    ):
        for start in range(0, len(todo), batch_size):
            batch = todo[start : start + batch_size]
            for request, found in zip(batch, _score_batch(model, batch), strict=True):
                results[request.at] = found
            bar.update(len(batch))
    return [results[at] for at in range(len(todo))]


def _cut(at: int, context: Sequence[int], continuation: Sequence[int], limit: int | None) -> Request:
    """The request, its context shortened on the left to what fits."""
    for name, ids in (("context", context), ("continuation", continuation)):
        if len(ids) == 0:
            raise DataError(f"request {at}", f"its {name} must have a token", remedy="correct the item")
    if limit is not None and len(continuation) > limit:
        raise DataError(
            f"request {at}",
            f"its continuation must fit into the limit of {limit} tokens",
            received=f"{len(continuation)} tokens",
            remedy="leave the item out, or raise model.max_length if the model allows more",
        )
    first = 0 if limit is None else max(0, len(context) + len(continuation) - (limit + 1))
    return Request(at, tuple(context[first:]), continuation)


def _order(requests: list[Request]) -> list[Request]:
    """Longest first, so that memory fails early, but those of one context side by side."""
    longest: dict[tuple[int, ...], int] = {}
    for request in requests:
        longest[request.context] = max(longest.get(request.context, 0), len(request.continuation))
    by_length = sorted(longest, key=lambda context: len(context) + longest[context], reverse=True)
    place = {context: number for number, context in enumerate(by_length)}
    return sorted(requests, key=lambda request: (place[request.context], -len(request.continuation)))


def _score_batch(model: nn.Module, batch: list[Request]) -> list[Continuation]:
    decoder, head = split_head(model)
    hidden_KD = predicting_states(model, decoder, batch)
    targets_K = torch.tensor([t for request in batch for t in request.continuation], device=head.weight.device)
    rows = max(1, _CHUNK_ELEMENTS // head.weight.shape[0])
    nlls, hits = [], []
    for hidden, targets in zip(hidden_KD.split(rows), targets_K.split(rows), strict=True):
        logits = compute_logits(hidden, head)
        nlls.append(F.cross_entropy(logits, targets, reduction="none"))
        hits.append(logits.argmax(dim=-1) == targets)
    lengths = [len(request.continuation) for request in batch]
    parts = zip(batch, torch.cat(nlls).double().cpu().split(lengths), torch.cat(hits).cpu().split(lengths), strict=True)
    return [_sum_up(request, nll, hit) for request, nll, hit in parts]


def _sum_up(request: Request, nll: torch.Tensor, hit: torch.Tensor) -> Continuation:
    total = -float(nll.sum())
    if math.isnan(total):
        raise DataError(
            f"request {request.at}",
            "its log-probability must be a number",
            received=total,
            remedy="look for NaN in the model's weights, or load it with model.dtype=float32",
        )
    return Continuation(total, len(request.continuation), bool(hit.all()))
