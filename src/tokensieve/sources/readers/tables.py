"""CSV, Parquet and Arrow, a batch of rows at a time."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tokensieve.errors import DataError
from tokensieve.sources.readers.row import OnBad, Row, refuse
from tokensieve.sources.readers.streams import CHUNK_BYTES

_BATCH_ROWS: Final = 1024
_MAX_CELL: Final = 1 << 26  # characters; an unclosed quote would otherwise swallow the rest of the file
_ARROW_FILE: Final = b"ARROW1"


def read_csv(stream: io.BufferedReader, path: Path, on_bad: OnBad | None) -> Iterator[tuple[int, Row]]:
    """Pairs of (number of the row's last line, row); the first row names the columns. Sets `csv.field_size_limit`."""
    csv.field_size_limit(_MAX_CELL)
    with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, strict=True)  # else a quote that is never closed makes one cell of all that follows
        try:
            header = next(reader, [])
            if len(set(header)) != len(header):
                remedy = "rename the columns that share a name"
                raise DataError(f"{path}:1", "column names must be unique", received=header, remedy=remedy)
            for cells in reader:
                if len(cells) == len(header):
                    yield reader.line_num, dict(zip(header, cells, strict=True))
                elif cells:  # not a blank line
                    refuse(_wrong_cells(f"{path}:{reader.line_num}", len(header), len(cells)), on_bad)
        except (csv.Error, UnicodeDecodeError) as error:
            remedy = "save it as UTF-8, and look for a quote that is not closed"
            where = f"{path}:{reader.line_num + 1}"
            raise DataError(where, "must be CSV in UTF-8", received=str(error), remedy=remedy) from None


def _wrong_cells(where: str, wanted: int, received: int) -> DataError:
    remedy = "quote cells that hold commas, quotes or line breaks"
    return DataError(where, f"must have {wanted} cells, as the header has", received=received, remedy=remedy)


def read_parquet(file: Path, path: Path) -> Iterator[tuple[int, Row]]:
    """Pairs of (row number from 1, row) of `file`, which messages call `path`."""
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file, buffer_size=CHUNK_BYTES, pre_buffer=False) as table:
            for batch in table.iter_batches(batch_size=_BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, number, "Parquet", error) from error


def read_arrow(file: Path, path: Path) -> Iterator[tuple[int, Row]]:
    """As `read_parquet`, for Arrow's stream format (which `datasets` writes) and its file format."""
    import pyarrow.ipc

    number = 0
    try:
        with pyarrow.memory_map(str(file)) as source:
            for batch in _record_batches(source):
                for start in range(0, batch.num_rows, _BATCH_ROWS):
                    for row in batch.slice(start, _BATCH_ROWS).to_pylist():
                        number += 1
                        yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, number, "Arrow", error) from error


def _record_batches(source: Any) -> Iterator[Any]:
    import pyarrow.ipc

    is_file = source.read(len(_ARROW_FILE)) == _ARROW_FILE
    source.seek(0)
    if not is_file:
        yield from pyarrow.ipc.open_stream(source)
        return
    reader = pyarrow.ipc.open_file(source)
    yield from (reader.get_batch(number) for number in range(reader.num_record_batches))


def _damaged(path: Path, number: int, kind: str, error: Exception) -> DataError:
    return DataError(
        f"{path}:{number + 1}", f"must be {kind} that can be read", received=str(error), remedy="write the file again"
    )
