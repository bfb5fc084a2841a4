"""Completions on disk: one SQLite file, one row a completion, committed at once as it arrives.

A row is found by what was asked, never by which run asked; so there is no state in which a store is "whole", and a
killed run costs what was in flight. Several processes of one machine may read and write it at once (SQLite's
write-ahead log needs shared memory: do not write one file from two machines).
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tokensieve.completions.records import Completion, Decoding, Messages
from tokensieve.errors import CacheError

_FORMAT: Final = 1  # of the file; 0 is what SQLite gives a new one
_LOCK_SECONDS: Final = 60.0
_KEYS_PER_QUERY: Final = 500
_TABLE: Final = """
    CREATE TABLE IF NOT EXISTS completions (
        key BLOB PRIMARY KEY CHECK (typeof(key) = 'blob' AND length(key) = 32),
        text TEXT NOT NULL CHECK (typeof(text) = 'text'),
        is_complete INTEGER NOT NULL CHECK (is_complete IN (0, 1)),
        mean_nll REAL,
        mean_entropy REAL
    ) WITHOUT ROWID"""


def completion_key(identity: Mapping[str, Any], messages: Messages, decoding: Decoding, sample: int) -> bytes:
    """32 bytes that name one completion: the digest of all that decides it.

    What greedy decoding does not read (seed, nucleus, number of the sample) does not enter its key.
    """
    asked = asdict(decoding) | {"temperature": float(decoding.temperature), "top_p": float(decoding.top_p)}
    if decoding.temperature == 0:
        asked |= {"seed": 0, "top_p": 1.0}
        sample = 0
    parts = {"model": dict(identity), "messages": [dict(m) for m in messages], "decoding": asked, "sample": sample}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode("ascii")).digest()


class CompletionStore:
    """The completions in the SQLite file at `path`, which is made with its folder when it is missing.

    Close it, or use it as a context. Not to be shared between threads.

    Args:
        path: the file.
        lock_seconds: how long to wait for another process that writes.

    Raises:
        CacheError: here and in every method: not such a file, damaged, locked for long, or not writable.
    """

    def __init__(self, path: Path, *, lock_seconds: float = _LOCK_SECONDS) -> None:
        self.path = path
        with self._reporting():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=lock_seconds, isolation_level=None)
        try:
            with self._reporting():
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        run = self._connection.execute
        run("PRAGMA journal_mode = WAL")
        # With the log, a killed process loses nothing; only a power failure may take the last rows.
        run("PRAGMA synchronous = NORMAL")
        found = run("PRAGMA user_version").fetchone()[0]
        if found == _FORMAT:
            run("SELECT key, text, is_complete, mean_nll, mean_entropy FROM completions LIMIT 1").fetchone()
            return
        if found != 0 or run("SELECT count(*) FROM sqlite_master WHERE name != 'completions'").fetchone()[0]:
            raise CacheError(
                str(self.path),
                f"must be a store of completions of format {_FORMAT}",
                received=f"format {found}",
                remedy="move the file away; what it holds is asked for again",
            )
        run(_TABLE)
        run(f"PRAGMA user_version = {_FORMAT}")

    def put(self, key: bytes, completion: Completion) -> Completion:
        """Keep a completion; return what is kept: of two for one key, the first."""
        row = (
            key,
            completion.text,
            int(completion.is_complete),
            completion.mean_nll,
            completion.mean_entropy,
        )
        with self._reporting():
            done = self._connection.execute("INSERT OR IGNORE INTO completions VALUES (?, ?, ?, ?, ?)", row)
            if done.rowcount:
                return completion
        return self.find([key])[key]

    def find(self, keys: Iterable[bytes]) -> dict[bytes, Completion]:
        """Those of `keys` that are kept."""
        remaining = iter(keys)
        found: dict[bytes, Completion] = {}
        while some := list(islice(remaining, _KEYS_PER_QUERY)):
            marks = ",".join("?" * len(some))
            with self._reporting():
                rows = self._connection.execute(
                    f"SELECT key, text, is_complete, mean_nll, mean_entropy FROM completions WHERE key IN ({marks})",
                    some,
                ).fetchall()
            for key, text, is_complete, nll, entropy in rows:
                found[key] = Completion(text=text, is_complete=bool(is_complete), mean_nll=nll, mean_entropy=entropy)
        return found

    def __len__(self) -> int:
        with self._reporting():
            return int(self._connection.execute("SELECT count(*) FROM completions").fetchone()[0])

    def close(self) -> None:
        """Let the file go; it stays."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Say what a failure of the database means for the user."""
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as error:
            raise self._explain(error) from error

    def _explain(self, error: sqlite3.DatabaseError | OSError) -> CacheError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code of an extended one
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            rule, remedy = "must be free to write", "end the process that holds it, or wait for it"
        elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or (
            code == sqlite3.SQLITE_ERROR and "no such" in str(error)
        ):
            rule = "must be an intact store of completions"
            remedy = "move the file away and run again; what it held is asked for again"
        else:
            rule, remedy = "the store of completions must be writable", "free space, or choose a folder you may write"
        return CacheError(str(self.path), rule, received=str(error), remedy=remedy)
