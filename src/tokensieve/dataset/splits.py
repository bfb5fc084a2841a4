"""Which rows of a source belong to a split, where the source itself does not say so."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from tokensieve.sources import Source
from tokensieve.sources.readers import OnBad, Row


def held_out_fractions(source: Source, validation: float, test: float) -> dict[str, float]:
    """The shares of train that stand for the splits which `source` does not publish."""
    return {
        name: fraction for name, fraction in (("validation", validation), ("test", test)) if not source.has_split(name)
    }


def select_split(
    source: Source, split: str, held_out: Mapping[str, float], seed: int, on_bad: OnBad | None = None
) -> Iterator[tuple[str, int, Row | None]]:
    """Triples of (where, position, row) of the rows read; the row is None where it belongs to another split."""
    published = source.has_split(split)
    for position, (where, row) in enumerate(source.rows(split if published else "train", on_bad)):
        inside = (published and split != "train") or held_out_split(position, held_out, seed) == split
        yield where, position, row if inside else None


def held_out_split(position: int, held_out: Mapping[str, float], seed: int) -> str:
    """The split of a train row, drawn by a hash of the seed and its position: no row is in two splits.

    >>> held_out_split(3, {"validation": 0.0}, seed=0)
    'train'
    """
    draw = int.from_bytes(hashlib.blake2b(f"{seed}/{position}".encode(), digest_size=8).digest()) / 2**64
    for name, fraction in held_out.items():
        if draw < fraction:
            return name
        draw -= fraction
    return "train"
