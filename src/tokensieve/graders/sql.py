"""Queries are graded by execution accuracy, in the sandbox."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from tokensieve.errors import DataError
from tokensieve.graders.code import extract_block, grade_verdict
from tokensieve.graders.grade import Grade, References, locate, read_reference
from tokensieve.sandbox import Outcome, Query, run_jobs

_LABEL: Final = re.compile(r"\A\s*(?:sql|sqlite|query|answer)\s*:\s*", re.IGNORECASE)


def extract_query(text: str) -> str:
    """Return the query of a text: its first fenced block, or all of it, without a leading `SQL:`.

    >>> extract_query("```sql\\nSELECT 1;\\n```")
    'SELECT 1;'
    """
    return _LABEL.sub("", extract_block(text)).strip()


def grade_queries(texts: Sequence[str], references: References, *, seconds: float, progress: str | None) -> list[Grade]:
    """Compare the rows of each text's query with those of `reference["query"]` on `reference["database"]`, a script.

    Raises:
        DataError: the reference query or the database does not run.
    """
    jobs = []
    for at, (text, reference) in enumerate(zip(texts, references, strict=True)):
        with locate(at):
            database, gold = (read_reference(reference, key, str) for key in ("database", "query"))
        jobs.append(Query(extract_query(text), database, gold))
    verdicts = run_jobs(jobs, seconds=seconds, progress=progress)
    for at, (job, verdict) in enumerate(zip(jobs, verdicts, strict=True)):
        if verdict.outcome is Outcome.INVALID:
            with locate(at):
                raise DataError("reference.query", verdict.reason, received=job.gold[:200], remedy="correct the row")
    return [grade_verdict(verdict) for verdict in verdicts]
