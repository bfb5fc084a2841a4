"""Which files below a local path hold which split."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tokensieve.errors import ConfigError, DataError
from tokensieve.sources.readers import FILE_SUFFIXES, check_file, file_suffixes, split_suffix

SPLITS: Final = ("train", "validation", "test")
_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
_TABLE_STATE: Final = "state.json"  # what datasets.save_to_disk writes beside the Arrow files of one table
_SHARD: Final = re.compile(r"-(?P<part>\d+)-of-(?P<total>\d+)(?:-\w+)?(?P<suffix>\..+)")  # older ones have a hash
_TABLES: Final = "dataset_dict.json"  # the same for a folder of tables, one a split


def is_one_table(path: Path) -> bool:
    """Whether `path` is a single table: a file, or an Arrow folder without splits."""
    return path.is_file() or (path / _TABLE_STATE).is_file()


def find_split_files(path: Path, split: str, names: Mapping[str, str | None]) -> list[Path]:
    """The files of a split in the order of their rows; empty when there are none. One table is every split's.

    `names` gives a split another published name, or null where it is not published. Without an entry, or where
    nothing has the name, the usual names are tried (validation: also valid, val, dev).

    Raises:
        ConfigError: two files claim to be the split.
        DataError: an Arrow folder, or a set of numbered files, that is not whole.
    """
    if path.is_file():
        return [path]
    if (path / _TABLE_STATE).is_file():
        return _find_shards(path)
    if split in names and names[split] is None:
        return []
    taken = {name for other, name in names.items() if other != split and name is not None}
    tried = [names[split], *_ALIASES[split]] if names.get(split) else [*_ALIASES[split]]
    for name in tried:
        if name is not None and (name not in taken or name == names.get(split)):
            found = _find_named(path, name)
            if found:
                return found
    return []


def check_path(path: Path, names: Mapping[str, str | None]) -> None:
    """Raise what is wrong with `dataset.path` before any row is read.

    Raises:
        ConfigError: nothing is there, or nothing that can be read.
        DataError: an empty file; an Arrow folder that is not whole.
    """
    if not path.exists():
        raise ConfigError(
            "dataset.path",
            "must be an existing file or folder",
            received=str(path),
            remedy="check the spelling; relative paths start at the working directory",
        )
    files = [file for split in SPLITS for file in find_split_files(path, split, names)]
    if not files:
        raise ConfigError(
            "dataset.path",
            "a folder must hold train, validation or test files, or be one that datasets.save_to_disk wrote",
            received=str(path),
            remedy=f"name them train.jsonl, test.jsonl, ... ({', '.join(FILE_SUFFIXES)}), or set dataset.splits",
        )
    for file in dict.fromkeys(files):
        check_file(file)


def _find_named(folder: Path, name: str) -> list[Path]:
    """`name.jsonl` and its like, `name-00000-of-00002.parquet` and its like, or the Arrow folder `name`."""
    if (folder / _TABLES).is_file():
        return _find_shards(folder / name) if (folder / name / _TABLE_STATE).is_file() else []
    whole = [folder / f"{name}{suffix}" for suffix in file_suffixes() if (folder / f"{name}{suffix}").is_file()]
    shards = sorted(file for file in folder.glob(f"{_escape(name)}-*-of-*") if split_suffix(file)[0])
    if len(whole) + bool(shards) > 1:
        found = [file.name for file in (*whole, *shards[:1])]
        remedy = "remove all but one, or name the file itself in dataset.path"
        raise ConfigError("dataset.path", f"must hold one file for {name}", received=found, remedy=remedy)
    if shards:
        _check_shards(folder, name, shards)
    return whole or shards


def _check_shards(folder: Path, name: str, shards: Sequence[Path]) -> None:
    """Refuse a set that lacks a part, or mixes two: rows would be missing, or stand there twice.

    Raises:
        DataError: so it is.
    """
    found = [_SHARD.fullmatch(file.name.removeprefix(name)) for file in shards]
    parts = [match for match in found if match is not None]
    numbers = sorted(int(match["part"]) for match in parts)
    sets = {(int(match["total"]), match["suffix"]) for match in parts}
    total = max((number for number, _ in sets), default=0)
    if len(sets) > 1 or (sets and numbers not in ([*range(total)], [*range(1, total + 1)])):
        raise DataError(
            str(folder / f"{name}-*-of-*"),
            "must be one whole set, from the first part to the last",
            received=", ".join(file.name for file in shards[:6]),
            remedy="copy what is missing, or remove what belongs to another set",
        )


def _escape(name: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


def _find_shards(folder: Path) -> list[Path]:
    try:
        state: Any = json.loads((folder / _TABLE_STATE).read_text(encoding="utf-8"))
        files = [folder / str(entry["filename"]) for entry in state["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        remedy = "write it again with datasets.save_to_disk"
        raise DataError(
            str(folder / _TABLE_STATE), "must list the Arrow files", received=str(error), remedy=remedy
        ) from None
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError(str(folder), "must hold its Arrow files", received=f"no {missing[0]}", remedy="copy it again")
    return files
