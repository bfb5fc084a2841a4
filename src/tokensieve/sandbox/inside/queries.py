"""Execution accuracy of one SQL query against another on one in-memory database."""

from __future__ import annotations

import itertools
import re
import sqlite3
from collections import Counter
from typing import Any

_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
_BLOCKED_FUNCTIONS = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"}
_STEPS_BETWEEN_CHECKS = 1000
_MAX_CHECKS = 50_000  # 5e7 virtual machine steps, some seconds
MAX_GOLD_ROWS = 200_000
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)

_PARENTHESES = re.compile(r"\([^()]*\)")
_ORDER = re.compile(r"\border\s+by\b", re.IGNORECASE)
_AFTER_ORDER = re.compile(r"\b(?:limit|offset)\b|;", re.IGNORECASE)

Row = tuple[object, ...]


def find_order(query: str) -> tuple[int, int] | None:
    """Where the ORDER BY of the outermost SELECT starts, and where its terms end; None without one.

    Subqueries, strings and comments do not count.

    >>> query = "SELECT a FROM (SELECT a FROM t ORDER BY b) ORDER BY a LIMIT 3"
    >>> start, end = find_order(query)
    >>> query[start:end]
    'ORDER BY a'
    """
    flat = _QUOTED.sub(_blank, query)
    while (inner := _PARENTHESES.sub(_blank, flat)) != flat:
        flat = inner
    found = _ORDER.search(flat)
    if found is None:
        return None
    tail = _AFTER_ORDER.search(flat, found.end())
    return found.start(), len(flat[: tail.start()].rstrip() if tail else flat.rstrip())


def _blank(match: re.Match[str]) -> str:
    return "_" * len(match[0]) if match[0][0] not in "-/" else " " * len(match[0])


def normalise(value: object) -> object:
    """Make values comparable: 3.0 is 3, and a float counts to 10 significant digits (sums depend on their order)."""
    if not isinstance(value, float):
        return value
    if value.is_integer() and abs(value) < 2**53:
        return int(value)
    return float(f"{value:.10g}")


def compare_queries(database: str, query: str, gold: str) -> tuple[str, str]:
    """Run `gold` and `query` on the database that the script makes; return (outcome, reason).

    Rows are compared as a multiset, and in order when the gold query orders. Rows that tie under the gold order may
    come in either order.
    """
    connection = sqlite3.connect(":memory:")
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    try:
        connection.executescript(database)
        connection.commit()
        connection.set_authorizer(authorise)
        expected = fetch_rows(connection, gold, MAX_GOLD_ROWS + 1)
    except sqlite3.Error as error:
        return "invalid", f"the reference does not run: {error}"
    if len(expected) > MAX_GOLD_ROWS:
        return "invalid", f"the reference gives more than {MAX_GOLD_ROWS} rows"
    order = find_order(gold)
    reversed_ties = expected if order is None else reverse_ties(connection, gold, order, expected)
    checks = 0

    def step() -> int:
        nonlocal checks
        checks += 1
        return int(checks > _MAX_CHECKS)

    connection.set_progress_handler(step, _STEPS_BETWEEN_CHECKS)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000_000)
    try:
        found = fetch_rows(connection, query, len(expected) + 1)
    except MemoryError:
        return "memory", "out of memory"
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        return ("timeout", "too many steps") if checks > _MAX_CHECKS else ("error", f"{type(error).__name__}: {error}")
    same = match_in_order(found, expected, reversed_ties) if order else Counter(found) == Counter(expected)
    return ("passed", f"{len(expected)} rows agree") if same else ("failed", describe_difference(found, expected))


def fetch_rows(connection: sqlite3.Connection, query: str, most: int) -> list[Row]:
    """The first `most` rows that a query gives; none for a statement that gives no rows."""
    cursor = connection.execute(query)
    if cursor.description is None:
        raise sqlite3.ProgrammingError("the query gives no rows")
    return [tuple(normalise(value) for value in row) for row in cursor.fetchmany(most)]


def reverse_ties(connection: sqlite3.Connection, gold: str, order: tuple[int, int], expected: list[Row]) -> list[Row]:
    """The gold query's rows with tying rows in the other order: a falling number is its last sort key."""
    start, end = order
    falling = itertools.count(0, -1)
    connection.create_function("tokensieve_falling", 0, lambda: next(falling))
    last_key, most = f", tokensieve_falling(){gold[end:]}", MAX_GOLD_ROWS + 1
    try:
        return fetch_rows(connection, gold[:end] + last_key, most)
    except sqlite3.Error:  # a compound SELECT may only sort by its columns: sort it from outside
        try:
            found = fetch_rows(connection, f"SELECT * FROM ({gold[:start]}) {gold[start:end]}{last_key}", most)
        except sqlite3.Error:
            return expected
        return found if Counter(found) == Counter(expected) else expected
    finally:
        connection.create_function("tokensieve_falling", 0, None)


def authorise(action: int, first: str | None, second: str | None, *_: Any) -> int:
    """SQLite's authoriser: reading alone is allowed."""
    if action in _ALLOWED:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in _BLOCKED_FUNCTIONS:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def match_in_order(found: list[Row], expected: list[Row], reversed_ties: list[Row]) -> bool:
    """Compare sequences. Where the gold query's two runs differ only by order, their rows tie."""
    if found in (expected, reversed_ties):
        return True
    if len(found) != len(expected) or Counter(expected) != Counter(reversed_ties):
        return False  # a LIMIT that cuts a tie: only the two runs are known to be right
    balance: Counter[Row] = Counter()
    start = 0
    for end, (one, other) in enumerate(zip(expected, reversed_ties, strict=True), 1):
        for row, step in ((one, 1), (other, -1)):
            balance[row] += step
            if not balance[row]:
                del balance[row]
        if balance:
            continue
        if Counter(found[start:end]) != Counter(expected[start:end]):
            return False
        start = end
    return True


def describe_difference(found: list[Row], expected: list[Row]) -> str:
    """Say in one line how the rows of two queries differ."""
    if len(found) != len(expected):
        count = f"more than {len(expected)}" if len(found) > len(expected) else str(len(found))
        return f"{count} rows, expected {len(expected)}"
    wrong = next((pair for pair in zip(found, expected, strict=True) if pair[0] != pair[1]), None)
    return "rows differ" if wrong is None else f"rows differ, first {str(wrong[0])[:80]}"
