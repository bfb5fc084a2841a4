"""Child process: execution accuracy of two queries on a database file, which is opened read-only.

Run as a module. Request: `file`, `query`, `gold`, `each_seconds` (wall-clock limit of one query; running the gold query
and finding its ties may take twice that). Reply: `outcome` (a value of `Outcome`) and `reason`.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tokensieve.graders.isolated.serve import serve
from tokensieve.sandbox.inside import queries

_STEPS_BETWEEN_CHECKS = 10_000
_MAX_VALUE_BYTES = 100_000_000


def compare(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Run both queries and compare their rows."""
    seconds = float(request["each_seconds"])
    try:
        with closing(open_read_only(Path(request["file"]))) as connection:
            outcome, reason = _compare(connection, request["query"], request["gold"], seconds)
    except sqlite3.Error as error:
        outcome, reason = "invalid", f"the database cannot be read: {error}"
    return {"outcome": outcome, "reason": " ".join(reason.split())[:1000]}


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open a database so that neither the file nor its folder can change, and let it run queries alone.

    A file without a journal is taken for immutable: no locks, no files beside it, so that a folder without write
    permission will do. With one, SQLite needs the journal to read what was committed.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    journals = (path.with_name(path.name + ending) for ending in ("-wal", "-journal"))
    mode = "mode=ro" if any(one.exists() and one.stat().st_size for one in journals) else "mode=ro&immutable=1"
    connection = sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True)
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
    connection.set_authorizer(queries.authorise)
    return connection


def _compare(connection: sqlite3.Connection, query: str, gold: str, seconds: float) -> tuple[str, str]:
    try:
        with _limit(connection, 2 * seconds):
            expected = queries.fetch_rows(connection, gold, queries.MAX_GOLD_ROWS + 1)
            order = queries.find_order(gold)
            ties = expected if order is None else queries.reverse_ties(connection, gold, order, expected)
    except TimeoutError:
        return "invalid", f"the reference takes longer than {2 * seconds:g} s"
    except sqlite3.Error as error:
        return "invalid", f"the reference does not run: {error}"
    if len(expected) > queries.MAX_GOLD_ROWS:
        return "invalid", f"the reference gives more than {queries.MAX_GOLD_ROWS} rows"
    try:
        with _limit(connection, seconds):
            found = queries.fetch_rows(connection, query, len(expected) + 1)
    except TimeoutError:
        return "timeout", f"no end after {seconds:g} s"
    except MemoryError:
        return "memory", "out of memory"
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        return "error", f"{type(error).__name__}: {error}"
    same = queries.match_in_order(found, expected, ties) if order else Counter(found) == Counter(expected)
    return (
        ("passed", f"{len(expected)} rows agree") if same else ("failed", queries.describe_difference(found, expected))
    )


@contextmanager
def _limit(connection: sqlite3.Connection, seconds: float) -> Iterator[None]:
    """Interrupt what runs on the connection after a time; one call into SQLite that checks nothing is the kernel's.

    Raises:
        TimeoutError: it was interrupted.
    """
    deadline = time.monotonic() + seconds
    connection.set_progress_handler(lambda: int(time.monotonic() > deadline), _STEPS_BETWEEN_CHECKS)
    try:
        yield
    except sqlite3.Error as error:
        if time.monotonic() > deadline:
            raise TimeoutError from error
        raise
    finally:
        connection.set_progress_handler(None, 0)


if __name__ == "__main__":
    serve(compare)
