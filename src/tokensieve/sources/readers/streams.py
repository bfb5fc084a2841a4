"""Bytes of a file, decompressed on the way."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

COMPRESSIONS: Final[Mapping[str, str]] = {".gz": "gzip", ".zst": "zstd"}
CHUNK_BYTES: Final = 1 << 20


def open_bytes(path: Path, compression: str | None) -> io.BufferedReader:
    """The decompressed bytes of a file, read as they are asked for; several gzip or zstd frames are one text."""
    if compression is None:
        return io.BufferedReader(io.FileIO(path), CHUNK_BYTES)
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(str(path), compression=compression), CHUNK_BYTES)


@contextmanager
def open_seekable(path: Path, compression: str | None) -> Iterator[Path]:
    """The file itself, or its content in a temporary file: Parquet and Arrow are not read from start to end."""
    if compression is None:
        yield path
        return
    with tempfile.NamedTemporaryFile(suffix=path.with_suffix("").suffix) as copy:
        with open_bytes(path, compression) as stream:
            shutil.copyfileobj(stream, copy, CHUNK_BYTES)
        copy.flush()
        yield Path(copy.name)
