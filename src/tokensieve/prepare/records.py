"""What was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokensieve.records import MaskStats


@dataclass(frozen=True, slots=True)
class PreparedSplit:
    """One file. `num_rows` examples are in it; those of `stats.num_examples` that train no token are not."""

    name: str
    file: str
    num_rows: int
    num_bytes: int
    checksum: str
    stats: MaskStats

    @property
    def num_left_out(self) -> int:
        return self.stats.num_examples - self.num_rows


@dataclass(frozen=True, slots=True)
class Prepared:
    """A written folder. `num_examples` tells how many training examples there were after each stage that makes texts.

    `num_longer` rows have more than one assistant turn, of which `train_on` (all, last) says what was to be trained.
    """

    folder: Path
    format: str
    splits: tuple[PreparedSplit, ...]
    num_examples: Mapping[str, int]
    train_on: str
    num_longer: int
