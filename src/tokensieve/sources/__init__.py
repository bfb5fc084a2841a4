"""Rows of a source, one dict at a time: the packaged lab, local files, hub datasets. Nothing is held in memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from tokensieve import lab
from tokensieve.errors import ConfigError, DataError
from tokensieve.records import digest
from tokensieve.sources.local_files import check_path, find_split_files, is_one_table
from tokensieve.sources.readers import OnBad, Row, read_rows, split_suffix
from tokensieve.store import file_checksum

__all__ = ["HubSource", "LabSource", "LocalSource", "Row", "Source", "lab_digest", "read_rows"]

log = logging.getLogger(__name__)


class Source(Protocol):
    """Where rows come from. `identity` goes into the stamp: equal identity, equal rows."""

    def identity(self, split: str) -> dict[str, Any]: ...

    def has_split(self, split: str) -> bool:
        """Whether the source publishes this split; one that publishes none is split by `dataset`'s hold-out."""
        ...

    def rows(self, split: str, on_bad: OnBad | None = None) -> Iterator[tuple[str, Row]]:
        """Pairs of (where the row stands, for messages; the row). `on_bad` is told of rows that cannot be read."""
        ...


@dataclass(frozen=True, slots=True)
class LabSource:
    """A family of the packaged world. Training rows may be in the human style; held-out rows have one reference."""

    family: str
    style: str
    seed: int
    counts: Mapping[str, int]

    def identity(self, split: str) -> dict[str, Any]:
        style = self.style if split != "test" else "plain"
        return {"lab": lab_digest(), "family": self.family, "style": style, "seed": self.seed}

    def has_split(self, split: str) -> bool:
        return True

    def rows(self, split: str, on_bad: OnBad | None = None) -> Iterator[tuple[str, Row]]:
        style = self.style if split != "test" else "plain"
        rows = lab.rows(self.family, split=split, num=self.counts[split], seed=self.seed, style=style)
        for number, row in enumerate(rows, start=1):
            yield f"{self.family}/{split}:{number}", row


@dataclass(frozen=True, slots=True)
class LocalSource:
    """One file, a folder of files named after their splits (train.jsonl, test.csv.gz, ...), or an Arrow folder.

    `split_field` and `split_ranges` tell the split of a row in one table: an integer column and its [first, last].
    `split_names` maps train, validation, test to the names under which a folder has them; null: not published.
    """

    path: Path
    split_field: str | None
    split_ranges: Mapping[str, Any]
    split_names: Mapping[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_path(self.path, self.split_names)

    def identity(self, split: str) -> dict[str, Any]:
        files = [[file_checksum(file), *split_suffix(file)] for file in self._files(split)]
        known: dict[str, Any] = {"files": files}
        return known | ({"split_field": self.split_field, "range": self._range(split)} if self.split_field else {})

    def has_split(self, split: str) -> bool:
        if is_one_table(self.path):
            return self.split_field is not None and split in self.split_ranges
        return bool(self._files(split))

    def rows(self, split: str, on_bad: OnBad | None = None) -> Iterator[tuple[str, Row]]:
        bounds = self._range(split)
        for file in self._files(split):
            for number, row in read_rows(file, on_bad):
                where = f"{file}:{number}"
                if bounds is None or self._is_inside(row, bounds, where, on_bad):
                    yield where, row

    def _files(self, split: str) -> list[Path]:
        return find_split_files(self.path, split, self.split_names)

    def _range(self, split: str) -> tuple[int, int] | None:
        if self.split_field is None or not is_one_table(self.path):
            return None
        if split not in self.split_ranges:
            raise ConfigError(
                "dataset.split_ranges",
                f"must say which rows are the {split} split",
                received=", ".join(self.split_ranges),
                remedy=f"add {split}: [first, last], by dataset.split_field={self.split_field}",
            )
        first, last = self.split_ranges[split]
        return int(first), int(last)

    def _is_inside(self, row: Row, bounds: tuple[int, int], where: str, on_bad: OnBad | None) -> bool:
        value = row.get(str(self.split_field))
        try:
            return bounds[0] <= int(value) <= bounds[1]  # type: ignore[arg-type]  # None and text end below
        except (TypeError, ValueError):
            error = DataError(
                where,
                f"column {self.split_field!r} must hold an integer, which tells the split",
                received=value,
                remedy="correct the row, or set dataset.split_field=null",
            )
        if on_bad is None:
            raise error
        on_bad(error)
        return False


@dataclass(frozen=True, slots=True)
class HubSource:
    """A dataset of the Hugging Face hub, streamed; with HF_HUB_OFFLINE=1 it is read from the local cache.

    `split_names` maps train, validation, test to published names; null: not published. With it, planning a run asks
    the network nothing. Without it the hub is asked which splits there are.
    """

    hub_id: str
    subset: str | None
    revision: str | None
    split_names: Mapping[str, str | None] = field(default_factory=dict)

    def identity(self, split: str) -> dict[str, Any]:
        return {
            "hub_id": self.hub_id,
            "subset": self.subset,
            "revision": self.revision,
            "split": self._published_name(split),
        }

    def has_split(self, split: str) -> bool:
        if self.split_names:
            return self.split_names.get(split) is not None
        from datasets import get_dataset_split_names

        return split in self._ask(lambda: get_dataset_split_names(self.hub_id, self.subset, revision=self.revision))

    def rows(self, split: str, on_bad: OnBad | None = None) -> Iterator[tuple[str, Row]]:
        import datasets

        if self.revision is None:
            log.warning("dataset.revision is null: %s may change between two runs; pin a commit", self.hub_id)
        name = self._published_name(split)
        options: dict[str, Any] = {"split": name, "revision": self.revision}
        streamed = not datasets.config.HF_HUB_OFFLINE
        rows = self._ask(lambda: iter(datasets.load_dataset(self.hub_id, self.subset, streaming=streamed, **options)))
        number = 0
        while (row := self._ask(lambda: next(rows, None))) is not None:
            number += 1
            yield f"{self.hub_id}/{name}:{number}", row

    def _published_name(self, split: str) -> str:
        return self.split_names.get(split) or split

    def _ask(self, request: Any) -> Any:
        """What `request` gives; a fault of the hub or the network becomes one line."""
        try:
            return request()
        except Exception as error:  # the hub's, the HTTP client's and the file system's own errors share no base
            raise DataError(
                self.hub_id,
                "must load from the hub",
                received=str(error).split("\n")[0],
                remedy="check dataset.hub_id, subset, revision, the network and HF_TOKEN, "
                "or set dataset.path to a local copy",
            ) from error


@cache
def lab_digest() -> str:
    """Digest of the lab's program text: any change of the packaged world changes the stamps that rest on it."""
    return digest(
        {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(lab.__file__).parent.glob("*.py"))}
    )
