"""Graders: (text, reference) -> score and reason. Pure but for the sandbox, which runs what must be run.

A grader takes a whole task's texts at once, so that programs can be judged side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tokensieve.graders.choice import grade_choice
from tokensieve.graders.code import grade_programs
from tokensieve.graders.grade import Grade, References, RowError, locate
from tokensieve.graders.number import grade_number
from tokensieve.graders.sql import grade_queries

__all__ = ["GRADERS", "Grade", "Grader", "RowError", "grade_texts"]

Grader = Callable[..., list[Grade]]


def _each(grade: Callable[[str, Mapping[str, Any]], Grade]) -> Grader:
    """Turn a grader of one text into one of many; it runs nothing, so it has no use for the time limit."""

    def grade_all(texts: Sequence[str], references: References, *, seconds: float, progress: str | None) -> list[Grade]:
        grades = []
        for at, (text, reference) in enumerate(zip(texts, references, strict=True)):
            with locate(at):
                grades.append(grade(text, reference))
        return grades

    return grade_all


GRADERS: Final[Mapping[str, Grader]] = {
    "code": grade_programs,
    "number": _each(grade_number),
    "choice": _each(grade_choice),
    "sql": grade_queries,
}


def grade_texts(
    grader: str, texts: Sequence[str], references: References, *, seconds: float = 5.0, progress: str | None = None
) -> list[Grade]:
    """Grade N texts against N references with the named grader.

    Args:
        grader: a key of `GRADERS`.
        texts: generated texts.
        references: what `Example.reference` holds, parsed.
        seconds: wall-clock limit of one program or query.
        progress: label of a progress bar where grading runs something; None: no bar.

    Raises:
        DataError: a reference lacks what the grader reads, or does not work itself; a `RowError` says in which row.
        SandboxError: nothing can be run here.

    >>> grade_texts("number", ["2 * 21 = 42", "none"], [{"answer": "42"}] * 2)
    [Grade(score=1.0, reason='42'), Grade(score=0.0, reason='no number')]
    """
    return GRADERS[grader](texts, references, seconds=seconds, progress=progress)
