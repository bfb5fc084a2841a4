"""Which texts give the same answer? The comparison that checkers and baselines rest on; it reads no correct answer."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import Any, Final

from tokensieve.graders import EXTRACTORS, RowError, grade_samples, grade_texts
from tokensieve.graders.sql import extract_query

References = Sequence[Mapping[str, Any]]
Texts = Sequence[Sequence[str | None]]
Groups = list[list[int | None]]
Keys = list[list[str | None]]

# Graders whose answers may be equivalent without being equal -> what the grader calls the one that it compares with.
_COMPARED: Final[Mapping[str, str]] = {"sql": "query", "math": "answer", "fuzzy_match": "answer"}
_DATABASES: Final = ("database", "database_file")
_PASSES: Final = "passes its tests"  # not Python: no failing program is spelled like it


def group_answers(grader: str | None, texts: Texts, references: References, *, seconds: float = 5.0) -> Groups:
    """For each row of texts a number a text: equal numbers, equal answers; None where a text gives no answer.

    Answers are read and spelled as the grader's own extractor does. Beyond equal spelling, answers of math and
    fuzzy_match are compared with each other by the grader. SQL queries are compared by the rows they give on the row's
    database; one that does not run is no answer. Programs that pass the row's tests are one answer (the tests are part
    of such a question); a text that is no program is none. Without a grader two texts agree when they are equal but
    for case and white space.

    Args:
        grader: key of `tokensieve.graders.GRADERS`, or None.
        texts: for each row, the texts to compare; None stands for no text.
        references: one a row; only labels, database and tests are read, never the correct answer.
        seconds: wall-clock limit of one program or query.

    Raises:
        RowError: a reference without tests or a database; it says in which row.

    >>> group_answers("choice", [["Answer: B", "I say (B)", "Answer: A", "no idea"]], [{"labels": ["A", "B"]}])
    [[0, 0, 1, None]]
    """
    keys = [[_spell(grader, text, reference) for text in row] for row, reference in zip(texts, references, strict=True)]
    if grader == "code":
        keys = _join_passing(keys, texts, references, seconds)
    elif grader is not None and grader in _COMPARED:
        if grader == "sql":
            keys = _drop_failing(keys, references, seconds)
        keys = _join_equivalent(grader, keys, references, seconds)
    return [_number(row) for row in keys]


def _spell(grader: str | None, text: str | None, reference: Mapping[str, Any]) -> str | None:
    if text is None or not text.strip():
        return None
    if grader == "sql":
        return extract_query(text) or None  # as it stands: it is run
    if grader is None or grader not in EXTRACTORS:
        return " ".join(text.split()).casefold()
    return EXTRACTORS[grader](text, reference)


def _number(keys: Sequence[Hashable | None]) -> list[int | None]:
    known: dict[Hashable, int] = {}
    return [None if key is None else known.setdefault(key, len(known)) for key in keys]


def _join_passing(keys: Keys, texts: Texts, references: References, seconds: float) -> Keys:
    """One key for all programs that pass the row's tests; others keep their own, and what is no program has none."""
    first: list[dict[str, str]] = []  # of each distinct program of a row, a text that holds it
    for row, own in zip(texts, keys, strict=True):
        first.append({})
        for text, key in zip(row, own, strict=True):
            if text is not None and key is not None:
                first[-1].setdefault(key, text)
    grades = grade_samples("code", [list(row.values()) for row in first], references, seconds=seconds)
    passing = [
        {key for key, grade in zip(row, own, strict=True) if grade.score >= 1}
        for row, own in zip(first, grades, strict=True)
    ]
    return [
        [_PASSES if key in good else key if key is not None and _is_program(key) else None for key in row]
        for row, good in zip(keys, passing, strict=True)
    ]


def _is_program(text: str) -> bool:
    """Whether it is Python that does more than name or say something: a stray word parses, too."""
    try:
        with warnings.catch_warnings():  # of odd escapes in the text
            warnings.simplefilter("ignore")
            body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(not isinstance(statement, ast.Expr) for statement in body)


def _drop_failing(keys: Keys, references: References, seconds: float) -> Keys:
    """None for queries that do not run: compared with a trivial one, those that do either differ or agree."""
    distinct = [_distinct(row) for row in keys]
    trivial = [{**reference, "query": "SELECT 1"} for reference in references]
    grades = grade_samples("sql", distinct, trivial, seconds=seconds)
    runs = [
        {query for query, grade in zip(row, own, strict=True) if grade.score >= 1 or grade.reason.startswith("failed")}
        for row, own in zip(distinct, grades, strict=True)
    ]
    return [[key if key in good else None for key in row] for row, good in zip(keys, runs, strict=True)]


def _join_equivalent(grader: str, keys: Keys, references: References, seconds: float) -> Keys:
    """Give each answer the spelling of the first of its row that the grader takes for the same."""
    pairs = [(at, one, other) for at, row in enumerate(keys) for one, other in combinations(_distinct(row), 2)]
    # Of the reference only a database is passed on: a correct answer must not be read in place of the one compared.
    databases = [{key: reference[key] for key in _DATABASES if key in reference} for reference in references]
    golds = [{**databases[at], _COMPARED[grader]: one} for at, one, _ in pairs]
    try:
        grades = grade_texts(grader, [other for _, _, other in pairs], golds, seconds=seconds)
    except RowError as error:
        error.row = pairs[error.row][0]
        raise
    same: list[dict[str, str]] = [{} for _ in keys]
    for (at, one, other), grade in zip(pairs, grades, strict=True):
        if grade.score >= 1:
            same[at].setdefault(other, same[at].get(one, one))
    return [
        [None if key is None else known.get(key, key) for key in row] for row, known in zip(keys, same, strict=True)
    ]


def _distinct(row: Sequence[str | None]) -> list[str]:
    return [key for key in dict.fromkeys(row) if key is not None]
