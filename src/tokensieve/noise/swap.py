"""`answer_swap`: a row gets another row's response, as if two answers had been filed under the wrong questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from tokensieve.noise.plan import Plan, order_key, take_first
from tokensieve.noise.rows import Example, read_responses, stream_examples

if TYPE_CHECKING:
    import datasets

KIND: Final = "answer_swap"


def plan_swap(rows: datasets.Dataset, ratio: float, seed: int) -> Plan:
    """Each row takes the response of the next row, in the order of the seed, that says something else.

    Without equal responses this is one cycle through all rows: a derangement in which every response is used once.
    Surrounding blanks do not make two responses different. Memory: 25 bytes a row.
    """
    keys, texts = np.empty(len(rows), np.uint64), np.empty(len(rows), np.uint64)
    for example in stream_examples(rows):
        keys[example.position] = order_key(seed, example.id)
        texts[example.position] = xxhash.xxh3_64_intdigest(example.response.strip().encode())
    order = np.argsort(keys, kind="stable")
    following = _next_different(texts[order])
    donors = np.empty(len(rows), np.int64)
    donors[order] = order[following]
    applies = texts[donors] != texts
    changed = take_first(order, applies, ratio, KIND)

    def rewrite(examples: Sequence[Example]) -> list[str]:
        return read_responses(rows, [int(donors[example.position]) for example in examples])

    return Plan(changed, rewrite)


def _next_different(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each place of a ring the next place with another value; where all are equal, some place.

    >>> _next_different(np.array([7, 7, 8, 7], np.uint64)).tolist()
    [2, 2, 3, 2]
    """
    number = len(values)
    starts = np.flatnonzero(values != np.roll(values, 1))  # places where a run of equal values starts
    if not len(starts):
        return np.arange(number)
    after = np.searchsorted(starts, np.arange(number), side="right")
    return starts[after % len(starts)]
