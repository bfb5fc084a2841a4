"""An optimiser step's examples as micro-batches: which go together, and how their tokens lie in a tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tokensieve.records import Batch


@dataclass(frozen=True, slots=True)
class PassShape:
    """How many examples a forward pass takes, and how they lie in it.

    With `max_tokens`, as many as fit into so many tokens, or one that is longer, whatever `max_examples` says: tokens
    of the padded rectangle, or with `padding_free` of the examples alone, which then lie one after another in one row.
    """

    max_examples: int
    max_tokens: int | None = None
    padding_free: bool = False

    def partition(self, lengths: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        """Places in `lengths`, which fall, of each pass: every place once, neighbours together where rows are padded.

        >>> lengths = np.array([6, 4, 2, 2])
        >>> [places.tolist() for places in PassShape(9, max_tokens=8).partition(lengths)]
        [[0], [1, 2], [3]]
        >>> [places.tolist() for places in PassShape(9, max_tokens=8, padding_free=True).partition(lengths)]
        [[0, 2], [1, 3]]
        """
        places = np.arange(len(lengths))
        if self.max_tokens is None:
            return [places[start : start + self.max_examples] for start in range(0, len(places), self.max_examples)]
        parts: list[list[int]] = []
        room: list[int] = []  # tokens that still fit into each part
        for place, length in enumerate(lengths.tolist()):
            open_parts = range(len(parts)) if self.padding_free else range(max(0, len(parts) - 1), len(parts))
            cost = [length if self.padding_free else int(lengths[parts[part][0]]) for part in open_parts]
            found = next((part for part, tokens in zip(open_parts, cost, strict=True) if tokens <= room[part]), None)
            if found is None:
                parts.append([place])
                room.append(self.max_tokens - length)
            else:
                parts[found].append(place)
                room[found] -= cost[open_parts.index(found)]
        return [np.array(part, dtype=np.int64) for part in parts]


def pad(rows: Sequence[Sequence[Any]], value: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows padded on the right with `value`, int64 [B, T], and their attention mask, int64 [B, T].

    >>> pad([[5, 6], [7]], 0)[0].tolist()
    [[5, 6], [7, 0]]
    """
    width = max(len(row) for row in rows)
    padded = np.full((len(rows), width), value, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for slot, row in enumerate(rows):
        padded[slot, : len(row)] = row
        mask[slot, : len(row)] = 1
    return torch.from_numpy(padded), torch.from_numpy(mask)


def lay_out(
    ids: Sequence[Sequence[int]],
    weights: Sequence[Sequence[float]],
    *,
    pad_id: int,
    padding_free: bool,
    step_weight: float,
    seed: int,
) -> Batch:
    """The micro-batch of examples with these token ids and loss weights: padded rows, or one row without padding."""
    lengths = tuple(len(row) for row in ids)
    if padding_free:
        row = torch.from_numpy(np.concatenate([np.asarray(row, dtype=np.int64) for row in ids]))[None]
        weight = torch.from_numpy(np.concatenate([np.asarray(row, dtype=np.float32) for row in weights]))[None]
        return Batch(row, torch.ones_like(row), weight, step_weight, seed, lengths)
    input_ids, attention_mask = pad(ids, pad_id)
    padded = torch.zeros(input_ids.shape)
    for slot, values in enumerate(weights):
        padded[slot, : lengths[slot]] = torch.from_numpy(np.asarray(values, dtype=np.float32))
    return Batch(input_ids, attention_mask, padded, step_weight, seed)


def count_examples(batch: Batch) -> int:
    """Examples of a micro-batch, whichever way they lie."""
    return len(batch.lengths) if batch.lengths is not None else len(batch.input_ids)


def longest_example(batch: Batch) -> int:
    """Tokens of the longest example; where rows are padded, those of a row."""
    return max(batch.lengths) if batch.lengths is not None else batch.input_ids.shape[1]


def split_batch(batch: Batch, examples: int) -> list[Batch]:
    """Micro-batches of at most `examples` examples with the same weights and denominator; `[batch]` if it fits.

    The sum of their losses is that of `batch`, up to rounding; with dropout, they draw other masks.
    """
    total = count_examples(batch)
    if total <= examples:
        return [batch]
    parts = []
    for number, start in enumerate(range(0, total, examples)):
        seed = batch.seed if number == 0 else derive_seed(batch.seed, examples, number)
        part = _take(batch, start, min(start + examples, total))
        parts.append(part._replace(seed=seed))
    return parts


def _take(batch: Batch, start: int, stop: int) -> Batch:
    """The examples `start` to `stop` (not included) of a micro-batch, without columns that only pad."""
    if batch.lengths is None:
        rows = slice(start, stop)
        columns = slice(0, int(batch.attention_mask[rows].sum(1).max()))
        lengths = None
    else:
        ends = (0, *accumulate(batch.lengths))
        rows, columns, lengths = slice(0, 1), slice(ends[start], ends[stop]), batch.lengths[start:stop]
    taken: dict[str, Any] = {
        name: value[rows, columns] for name, value in batch._asdict().items() if isinstance(value, torch.Tensor)
    }
    return batch._replace(**taken, lengths=lengths)


def split_examples(values: torch.Tensor, lengths: Sequence[int]) -> list[torch.Tensor]:
    """The part of each example in `values` [1, T, ...], as [T_i, ...]."""
    ends = accumulate(lengths, initial=0)
    return [values[0, start:stop] for start, stop in pairwise(ends)]


def derive_seed(run_seed: int, step: int, micro_batch: int) -> int:
    """Seed of one micro-batch's dropout: a resumed fit, or another layout of ranks, draws the same masks."""
    text = f"{run_seed}/{step}/{micro_batch}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest())
