"""Retrieval of similar rows of the corpus, to be shown before a question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tokensieve.records import Corpus
from tokensieve.retrieval import TextIndex
from tokensieve.variant.example import Example, read_examples

Positions = npt.NDArray[np.int64]
_ROWS_AT_ONCE = 1024


def questions(corpus: Corpus, positions: Positions | None = None) -> Iterator[str]:
    """The questions of the rows at `positions` (None: of all), in that order."""
    rows = corpus.rows if positions is None else corpus.rows.select(positions)
    for examples in read_examples(rows, _ROWS_AT_ONCE):
        for example in examples:
            yield example.question


def find_neighbours(
    corpus: Corpus, index: TextIndex, positions: Positions | None, examples: Sequence[Example], k: int
) -> list[list[Example]]:
    """For each example the k nearest rows of the index, nearest first, never the example itself.

    `positions[i]`, ascending, is the row of the corpus that the index calls i; None: it holds the whole corpus.
    """
    own = [_find(positions, example.position) for example in examples]
    found = index.nearest([example.question for example in examples], k, own)
    wanted = [[at if positions is None else int(positions[at]) for at in row] for row in found]
    needed = sorted({row for near in wanted for row in near})
    known = dict(zip(needed, _read_rows(corpus, needed), strict=True))
    return [[known[row] for row in near] for near in wanted]


def _read_rows(corpus: Corpus, needed: Sequence[int]) -> list[Example]:
    return [example for some in read_examples(corpus.rows.select(needed), _ROWS_AT_ONCE) for example in some]


def _find(positions: Positions | None, row: int) -> int | None:
    if positions is None:
        return row
    at = int(np.searchsorted(positions, row))
    return at if at < len(positions) and positions[at] == row else None
