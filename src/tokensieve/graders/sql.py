"""Queries are graded by execution accuracy: on a database made by a script, in the sandbox; on a file, read-only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tokensieve.errors import DataError
from tokensieve.graders.code import extract_block, grade_verdict
from tokensieve.graders.grade import Grade, References, locate, read_reference
from tokensieve.graders.isolated import ask_all
from tokensieve.sandbox import Outcome, Query, Verdict, run_jobs

_CHILD: Final = "tokensieve.graders.isolated.compare_on_file"
_MEMORY_BYTES: Final = 2 * 2**30
_MAGIC: Final = b"SQLite format 3\0"
_LABEL: Final = re.compile(r"\A\s*(?:sql|sqlite|query|answer)\s*:\s*", re.IGNORECASE)
_START: Final = re.compile(r"^[ \t]*(?:(?:sql|sqlite|query|answer)\s*:\s*)?(?=(?:select|with)\b)", re.IGNORECASE | re.M)
_STATEMENT: Final = re.compile(r"(?:select|with|values|insert|update|delete|drop|create)\b", re.IGNORECASE)
_CLAUSE: Final = re.compile(
    r"[,()]|(?:from|where|group|having|order|limit|offset|join|left|inner|cross|natural|on|using|union|except|intersect"
    r"|and|or|as|case|when|then|else|end|window)\b|--|/\*",
    re.IGNORECASE,
)
_TOKEN: Final = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|--[^\n]*|/\*.*?\*/|;|\n[ \t]*\n", re.DOTALL)


def extract_query(text: str) -> str:
    """Return the query of a text: its first fenced block; else from the first line that begins with SELECT or WITH
    up to a semicolon or an empty line; else all of it, without a leading `SQL:`.

    >>> extract_query("```sql\\nSELECT 1;\\n```")
    'SELECT 1;'
    >>> extract_query("The query counts them:\\nSELECT COUNT(*) FROM t;\\nIt gives one row.")
    'SELECT COUNT(*) FROM t;'
    """
    block = extract_block(text)
    start = _START.search(block)
    if start is None or block != text.replace("\r\n", "\n"):
        return _LABEL.sub("", block).strip()
    query = block[start.end() :]
    for match in _TOKEN.finditer(query):
        following = query[match.end() :].lstrip()
        if match[0] == ";" or match[0][0] == "\n":
            # A second query makes two answers, and an empty line may stand within one.
            if _STATEMENT.match(following) or (match[0] != ";" and _CLAUSE.match(following)):
                continue
            return query[: match.end()].strip()
    return query.strip()


def canonicalise_query(text: str) -> str | None:
    """Return the query of a text with blanks and letters outside of quotes made alike; None when there is none.

    >>> canonicalise_query("SQL: select  A\\nfrom T where b = 'X y';")
    "select a from t where b = 'X y'"
    """
    query = extract_query(text).rstrip("; \n\t")
    pieces = re.split(r"('(?:[^']|'')*'|\"(?:[^\"]|\"\")*\")", query)
    plain = [piece if at % 2 else re.sub(r"\s+", " ", piece).lower() for at, piece in enumerate(pieces)]
    return "".join(plain).strip() or None


def grade_queries(texts: Sequence[str], references: References, *, seconds: float, progress: str | None) -> list[Grade]:
    """Compare the rows of each text's query with those of `reference["query"]`.

    The database is `reference["database"]`, a script, or `reference["database_file"]`, the path of an SQLite file that
    is opened read-only. Columns are compared by place, rows as a multiset, in order only where the reference query
    orders its outermost SELECT.

    Raises:
        DataError: the reference query or the database does not run, or not in time.
    """
    jobs = []
    for at, (text, reference) in enumerate(zip(texts, references, strict=True)):
        with locate(at):
            gold = read_reference(reference, "query", str)
            database = _read_database(reference)
        jobs.append((extract_query(text), database, gold))
    verdicts = _run(jobs, seconds, progress)
    for at, ((_, _, gold), verdict) in enumerate(zip(jobs, verdicts, strict=True)):
        if verdict.outcome is Outcome.INVALID:
            with locate(at):
                remedy = "correct the row, or raise eval.code_seconds when it needs longer"
                raise DataError("reference.query", verdict.reason, received=gold[:200], remedy=remedy)
    return [grade_verdict(verdict) for verdict in verdicts]


def _read_database(reference: Mapping[str, object]) -> str | Path:
    if reference.get("database_file") is None:
        return str(read_reference(reference, "database", str))
    path = Path(read_reference(reference, "database_file", str)).expanduser().absolute()
    try:
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
    except OSError as error:
        remedy = "unpack the databases there, or correct the path"
        raise DataError(str(path), f"cannot be read: {error.strerror}", remedy=remedy) from error
    if head != _MAGIC:
        raise DataError(str(path), "must be an SQLite database", received=head, remedy="correct the path")
    return path


def _run(jobs: Sequence[tuple[str, str | Path, str]], seconds: float, progress: str | None) -> list[Verdict]:
    """Scripts go to the sandbox, which can make them; files to a child that can read them."""
    scripts = [at for at, (_, database, _) in enumerate(jobs) if isinstance(database, str)]
    files = [at for at, (_, database, _) in enumerate(jobs) if isinstance(database, Path)]
    queries = [Query(query, database, gold) for query, database, gold in jobs if isinstance(database, str)]
    requests = [
        {"query": query, "file": str(database), "gold": gold, "seconds": 4 * seconds, "each_seconds": seconds}
        | {"memory_bytes": _MEMORY_BYTES}
        for query, database, gold in jobs
        if isinstance(database, Path)
    ]
    found: dict[int, Verdict] = dict(zip(scripts, run_jobs(queries, seconds=seconds, progress=progress), strict=True))
    replies = ask_all(_CHILD, requests, subject="grader sql", progress=progress)
    for at, reply in zip(files, replies, strict=True):
        outcome = Outcome(reply.get("outcome", Outcome.TIMEOUT))
        found[at] = Verdict(outcome, reply.get("reason", f"no end after {seconds:g} s"), 0.0)
    return [found[at] for at in range(len(jobs))]
