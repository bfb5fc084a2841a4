"""Rows of a source, one dict at a time: the packaged lab, local files, hub datasets. Nothing is held in memory."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from tokensieve import lab
from tokensieve.errors import ConfigError, DataError
from tokensieve.records import digest
from tokensieve.store import file_checksum

Row = Mapping[str, Any]
SPLITS = ("train", "validation", "test")
FILE_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_SPLIT_FILE_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


class Source(Protocol):
    """Where rows come from. `identity` goes into the stamp: equal identity, equal rows."""

    def identity(self, split: str) -> dict[str, Any]: ...

    def has_split(self, split: str) -> bool:
        """Whether the source publishes this split; one that publishes none is split by `dataset`'s hold-out."""
        ...

    def rows(self, split: str) -> Iterator[tuple[str, Row]]:
        """Pairs of (where the row stands, for messages; the row)."""
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

    def rows(self, split: str) -> Iterator[tuple[str, Row]]:
        style = self.style if split != "test" else "plain"
        rows = lab.rows(self.family, split=split, num=self.counts[split], seed=self.seed, style=style)
        for number, row in enumerate(rows, start=1):
            yield f"{self.family}/{split}:{number}", row


@dataclass(frozen=True, slots=True)
class LocalSource:
    """One file, or a folder of files named after their splits (train.jsonl, test.csv, ...)."""

    path: Path
    split_field: str | None
    split_ranges: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not self.path.exists():
            raise ConfigError(
                "dataset.path",
                "must be an existing file or folder",
                received=str(self.path),
                remedy="check the spelling; relative paths start at the working directory",
            )
        if self.path.is_file():
            _check_file(self.path)
        elif not any(self._split_file(split) for split in SPLITS):
            raise ConfigError(
                "dataset.path",
                "a folder must hold train, validation or test files",
                received=str(self.path),
                remedy=f"name them train.jsonl, test.jsonl, ... ({', '.join(FILE_SUFFIXES)})",
            )

    def identity(self, split: str) -> dict[str, Any]:
        file = self._split_file(split)
        if file is None:
            return {}
        known = {"file": file_checksum(file), "suffix": file.suffix}
        return known | ({"split_field": self.split_field, "range": self._range(split)} if self.split_field else {})

    def has_split(self, split: str) -> bool:
        if self.path.is_dir():
            return self._split_file(split) is not None
        return self.split_field is not None and split in self.split_ranges

    def rows(self, split: str) -> Iterator[tuple[str, Row]]:
        file = self._split_file(split)
        if file is None:
            return
        bounds = self._range(split)
        for number, row in read_rows(file):
            where = f"{file}:{number}"
            if bounds is None or self._is_inside(row, bounds, where):
                yield where, row

    def _split_file(self, split: str) -> Path | None:
        if self.path.is_file():
            return self.path
        candidates = [self.path / f"{name}{suffix}" for name in _SPLIT_FILE_NAMES[split] for suffix in FILE_SUFFIXES]
        return next((file for file in candidates if file.is_file()), None)

    def _range(self, split: str) -> tuple[int, int] | None:
        if self.split_field is None or self.path.is_dir():
            return None
        first, last = self.split_ranges[split]
        return int(first), int(last)

    def _is_inside(self, row: Row, bounds: tuple[int, int], where: str) -> bool:
        value = row.get(str(self.split_field))
        try:
            return bounds[0] <= int(value) <= bounds[1]  # type: ignore[arg-type]  # None and text end below
        except (TypeError, ValueError):
            raise DataError(
                where,
                f"column {self.split_field!r} must hold an integer, which tells the split",
                received=value,
                remedy="correct the row, or set dataset.split_field=null",
            ) from None


@dataclass(frozen=True, slots=True)
class HubSource:
    """A dataset of the Hugging Face hub, read through its local cache."""

    hub_id: str
    subset: str | None
    revision: str | None

    def identity(self, split: str) -> dict[str, Any]:
        return {"hub_id": self.hub_id, "subset": self.subset, "revision": self.revision}

    def has_split(self, split: str) -> bool:
        from datasets import get_dataset_split_names

        return split in get_dataset_split_names(self.hub_id, self.subset, revision=self.revision)

    def rows(self, split: str) -> Iterator[tuple[str, Row]]:
        from datasets import load_dataset

        try:
            rows = load_dataset(self.hub_id, self.subset, split=split, revision=self.revision)
        except (OSError, ValueError) as error:
            raise DataError(
                self.hub_id,
                f"split {split!r} must load from the hub",
                received=str(error).split("\n")[0],
                remedy="check the id, the network and HF_TOKEN, or set dataset.path to a local copy",
            ) from error
        for number, row in enumerate(rows, start=1):
            yield f"{self.hub_id}/{split}:{number}", row


def _check_file(path: Path) -> None:
    if path.suffix not in FILE_SUFFIXES:
        raise ConfigError(
            "dataset.path",
            f"must end in one of {', '.join(FILE_SUFFIXES)}",
            received=str(path),
            remedy="convert the file, or rename it to its true format",
        )
    if path.stat().st_size == 0:
        raise DataError(str(path), "must hold at least one row", received="an empty file", remedy="check the export")


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Pairs of (line or row number from 1, row)."""
    if path.suffix == ".jsonl":
        yield from _read_json_lines(path)
    elif path.suffix == ".json":
        yield from _read_json(path)
    elif path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            for row in reader:
                yield reader.line_num, row
    else:
        import pyarrow.parquet

        number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _read_json_lines(path: Path) -> Iterator[tuple[int, Row]]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield number, _parse_object(line, f"{path}:{number}")


def _parse_object(text: bytes, where: str) -> Row:
    try:
        value = json.loads(text)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise DataError(
            where, "must be one JSON object", received=str(error), remedy="correct or remove the line"
        ) from None
    if not isinstance(value, dict):
        raise DataError(where, "must be one JSON object", received=type(value).__name__, remedy="correct the line")
    return value


def _read_json(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(
            str(path), "must be a JSON list of objects", received=str(error), remedy="correct the file"
        ) from None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise DataError(
            str(path),
            "must be a JSON list of objects",
            received=type(values).__name__,
            remedy="wrap the rows in [...], or use one object a line and the suffix .jsonl",
        )
    yield from enumerate(values, start=1)


@cache
def lab_digest() -> str:
    """Digest of the lab's program text: any change of the packaged world changes the stamps that rest on it."""
    return digest(
        {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(lab.__file__).parent.glob("*.py"))}
    )
