"""Rows of one file, one dict at a time, whatever its format and compression. No file is held in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tokensieve.errors import ConfigError, DataError
from tokensieve.sources.readers.json_text import is_json_list, read_json_lines, read_json_list
from tokensieve.sources.readers.row import OnBad, Row
from tokensieve.sources.readers.streams import COMPRESSIONS, open_bytes, open_seekable
from tokensieve.sources.readers.tables import read_arrow, read_csv, read_parquet

__all__ = ["FILE_SUFFIXES", "OnBad", "Row", "check_file", "file_suffixes", "read_rows", "split_suffix"]

FILE_SUFFIXES: Final = (".jsonl", ".json", ".csv", ".parquet", ".arrow")


def file_suffixes() -> list[str]:
    """All endings of a data file: each format plain and compressed."""
    return [suffix + packed for suffix in FILE_SUFFIXES for packed in ("", *COMPRESSIONS)]


def split_suffix(path: Path) -> tuple[str, str | None]:
    """Format and compression of a file name; the format is "" when it is none of `FILE_SUFFIXES`.

    >>> split_suffix(Path("rows.jsonl.gz")), split_suffix(Path("rows.xlsx"))
    (('.jsonl', 'gzip'), ('', None))
    """
    compression = COMPRESSIONS.get(path.suffix)
    inner = path.with_suffix("").suffix if compression else path.suffix
    return (inner if inner in FILE_SUFFIXES else ""), compression


def check_file(path: Path) -> None:
    """Raise what the name and the size of a data file tell before it is read.

    Raises:
        ConfigError: a name whose format is unknown.
        DataError: an empty file.
    """
    if not split_suffix(path)[0]:
        raise ConfigError(
            "dataset.path",
            f"must end in one of {', '.join(FILE_SUFFIXES)}, or in one of them plus {' or '.join(COMPRESSIONS)}",
            received=str(path),
            remedy="convert the file, or rename it to its true format",
        )
    if path.stat().st_size == 0:
        raise DataError(str(path), "must hold at least one row", received="an empty file", remedy="check the export")


def read_rows(path: Path, on_bad: OnBad | None = None) -> Iterator[tuple[int, Row]]:
    """Pairs of (line or row number from 1, row).

    `on_bad` is told of each row that is no JSON object or has too many or too few cells, and reading goes on.

    Raises:
        DataError: such a row when `on_bad` is None; a file that cannot be read on (damaged, in another encoding).
    """
    suffix, compression = split_suffix(path)
    try:
        if suffix in (".parquet", ".arrow"):
            with open_seekable(path, compression) as file:
                yield from (read_parquet if suffix == ".parquet" else read_arrow)(file, path)
            return
        with open_bytes(path, compression) as stream:
            if suffix == ".csv":
                yield from read_csv(stream, path, on_bad)
            elif suffix == ".json" and is_json_list(stream):
                yield from read_json_list(stream, path, on_bad)
            else:
                yield from read_json_lines(stream, path, on_bad)
    except OSError as error:
        if compression is None or error.errno is not None:  # a fault of the disk keeps its kind
            raise
        remedy = "copy it again, or correct its suffix"
        rule = f"must be a whole {compression} file"
        raise DataError(str(path), rule, received=str(error), remedy=remedy) from error
