"""Graders: (text, reference) -> score and reason. Pure but for the sandbox, which runs what must be run.

A grader takes a whole task's texts at once, so that programs can be judged side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tokensieve.graders.choice import extract_label, grade_choice, read_labels
from tokensieve.graders.code import extract_program, grade_programs
from tokensieve.graders.drop import canonicalise_spans, grade_drop_em, grade_drop_f1
from tokensieve.graders.grade import Grade, References, RowError, locate
from tokensieve.graders.latex import extract_math, grade_math
from tokensieve.graders.number import extract_number, grade_number
from tokensieve.graders.sql import canonicalise_query, grade_queries
from tokensieve.graders.words import extract_words, grade_exact, grade_fuzzy

__all__ = ["EXTRACTORS", "GRADERS", "Extractor", "Grade", "Grader", "RowError", "grade_samples", "grade_texts"]

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
    "choice": _each(grade_choice),
    "code": grade_programs,
    "drop_em": _each(grade_drop_em),
    "drop_f1": _each(grade_drop_f1),
    "exact_match": _each(grade_exact),
    "fuzzy_match": _each(grade_fuzzy),
    "math": grade_math,
    "number": _each(grade_number),
    "sql": grade_queries,
}

Extractor = Callable[[str, Mapping[str, Any]], str | None]


def _number_text(text: str, reference: Mapping[str, Any]) -> str | None:
    found = extract_number(text)
    return None if found is None else str(found)


EXTRACTORS: Final[Mapping[str, Extractor]] = {
    "choice": lambda text, reference: extract_label(text, read_labels(reference)),
    "code": lambda text, reference: extract_program(text),
    "drop_em": lambda text, reference: canonicalise_spans(text),
    "drop_f1": lambda text, reference: canonicalise_spans(text),
    "exact_match": lambda text, reference: extract_words(text),
    "fuzzy_match": lambda text, reference: extract_words(text),
    "math": lambda text, reference: extract_math(text),
    "number": _number_text,
    "sql": lambda text, reference: canonicalise_query(text),
}
"""What a text answers, in canonical form, for the grader of that name; None when it answers nothing.

Of the reference only what belongs to the question is read (the labels of its options), never the answer: so two texts
can be compared without one. Equal results agree; unequal ones of `math`, `code` and `sql` may still be equivalent.
"""


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
    [Grade(score=1.0, reason='42'), Grade(score=0.0, reason='no single number')]
    """
    return GRADERS[grader](texts, references, seconds=seconds, progress=progress)


def grade_samples(
    grader: str,
    samples: Sequence[Sequence[str]],
    references: References,
    *,
    seconds: float = 5.0,
    progress: str | None = None,
) -> list[list[Grade]]:
    """Grade several texts for each of N references, all at once; for pass@k see `statistics.score_samples`.

    Args:
        grader: a key of `GRADERS`.
        samples: for each reference its texts.
        references: as for `grade_texts`.
        seconds: wall-clock limit of one program or query.
        progress: label of a progress bar where grading runs something; None: no bar.

    Raises:
        DataError: as `grade_texts`; the `RowError` says at which reference.
        SandboxError: nothing can be run here.

    >>> [[grade.score for grade in item] for item in grade_samples("number", [["1", "2"], []], [{"answer": "1"}] * 2)]
    [[1.0, 0.0], []]
    """
    owners = [at for at, texts in enumerate(samples) for _ in texts]
    texts = [text for item in samples for text in item]
    try:
        grades = grade_texts(grader, texts, [references[at] for at in owners], seconds=seconds, progress=progress)
    except RowError as error:
        error.row = owners[error.row]
        raise
    found: list[list[Grade]] = [[] for _ in samples]
    for at, grade in zip(owners, grades, strict=True):
        found[at].append(grade)
    return found
