"""Tables into a file, row by row (JSON Lines) or in row groups of bounded size (Parquet)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pyarrow as pa

_GROUP_BYTES: Final = 1 << 25


def _write_json_lines(path: Path, tables: Iterable[pa.Table]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for table in tables:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())


def _write_parquet(path: Path, tables: Iterable[pa.Table]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: pq.ParquetWriter | None = None
    held: list[pa.Table] = []

    def flush() -> None:
        nonlocal writer
        if held:
            group = pa.concat_tables(held)
            writer = writer or pq.ParquetWriter(path, group.schema, compression="zstd")
            writer.write_table(group)
            held.clear()

    try:
        for table in tables:
            held.append(table)
            if sum(part.nbytes for part in held) >= _GROUP_BYTES:
                flush()
        flush()
    finally:
        if writer is not None:
            writer.close()


FILE_FORMATS: Final[Mapping[str, Callable[[Path, Iterable[pa.Table]], None]]] = {
    "jsonl": _write_json_lines,
    "parquet": _write_parquet,
}
