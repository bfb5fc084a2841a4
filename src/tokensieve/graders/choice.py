"""Multiple choice by generation: which label did the text choose? More than one is none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from tokensieve.errors import DataError
from tokensieve.graders.grade import Grade, read_reference

_DEFAULT_LABELS: Final = ("A", "B", "C", "D")
# markup that may surround a label: Markdown, LaTeX, brackets, quotes
_MARK: Final = r"(?:[\s*_`\"'(\[{$]|\\[(\[]|\\(?:f?boxed|text(?:bf|it|rm)?|math(?:rm|bf|bb|it)|bf)\b)"
_OPEN: Final = rf"(?:{_MARK}|(?i:option|choice|letter)\b){{0,40}}"  # bounded, and so is the time of a search
_CLOSERS: Final = r"[\s*_`\"')\]}$]{0,40}"
_CLOSE: Final = r"(?![\w'’+=-]|[.,]\d)"
_AFFIRMED: Final = r"\s+(?:is|was|would be|must be|should be)\b\s*:?"


class Patterns(NamedTuple):
    """Where a label may stand, most explicit first; a weaker place is read only when the stronger ones are empty."""

    places: tuple[re.Pattern[str], ...]
    hedge: re.Pattern[str]  # "or C", behind a label
    article: re.Pattern[str]  # what follows an "A" that is a word


@lru_cache(maxsize=64)
def _patterns(labels: tuple[str, ...]) -> Patterns:
    label = "(" + "|".join(sorted(map(re.escape, labels), key=len, reverse=True)) + ")"
    answer = rf"(?i:\banswer\b(?:[*_\"']*\s*[:：=]|{_AFFIRMED})[*_]*)"
    option = rf"(?i:\b(?:correct|right|best) (?:option|choice|letter)(?:[*_]*\s*[:：=]|{_AFFIRMED})[*_]*)"
    # "The answer is a bridge" names no label: a small letter must end its phrase.
    named = rf"(?:{label}{_CLOSE}|(?i:{label})(?={_CLOSERS}(?:[.),:;](?!\d)|\n|\Z)))"
    heading = rf"^[ \t]*(?:#+|\*\*)\s*(?i:(?:final )?answer)[*_: \t]*\n{_OPEN}{label}{_CLOSE}"
    boxed = rf"\\f?boxed\s*\{{{_OPEN}{label}{_CLOSE}"
    right = r"\s*(?i:is\s+(?:the\s+)?(?:correct|right)\b)"
    affirmed = rf"(?i:\b(?:option|choice|letter)\s+){_MARK}{{0,40}}{label}{_CLOSERS}{right}"
    whole = rf"\A[\s*_`\"'(\[{{$]*{label}[\s*_`\"')\]}}$.:]*\Z"
    leading = rf"^[ \t*_`\"]{{0,40}}{label}[.):](?=[\s*_]|\Z)"
    return Patterns(
        (
            re.compile(f"{answer}{_OPEN}{named}|{heading}", re.MULTILINE),
            re.compile(boxed),
            re.compile(f"{option}{_OPEN}{named}|{affirmed}"),
            re.compile(whole, re.IGNORECASE),
            re.compile(rf"\({label}\)|\[{label}\]|{leading}", re.MULTILINE),
        ),
        re.compile(rf"{_CLOSERS}(?:,?\s*(?i:\band\b|\bor\b)|[/,&]|\\text\{{\s*(?:and|or)\s*\}}){_OPEN}{label}{_CLOSE}"),
        re.compile(r"[ \t]+(?!(?:because|since|as|is|which|due|for|and|or|with|by|in)\b)[a-z]"),
    )


def extract_label(text: str, labels: Sequence[str]) -> str | None:
    r"""Return the one label that `text` chooses; None when it chooses none, or two.

    Read are, in this order: "Answer: B" and "the answer is B" (any case), \boxed{B}, "the correct option is B" and
    "option B is correct", a text that is nothing but the label, and labels in brackets or at the start of a line before
    a stop. Letters inside words, and the article "A", do not count; "B or C" chooses none.

    >>> extract_label("The capital. Answer: B", "ABCD"), extract_label("Answer: A or B", "ABCD")
    ('B', None)
    """
    known = {label.upper(): label for label in labels}
    patterns = _patterns(tuple(labels))
    for pattern in patterns.places:
        found: set[str] = set()
        for match in pattern.finditer(text):
            chosen = next(group for group in match.groups() if group)
            if chosen == "A" and match[0].endswith("A") and patterns.article.match(text, match.end()):
                continue
            found.add(chosen.upper())
            rest = patterns.hedge.match(text, match.end())
            if rest is not None and not patterns.article.match(text, rest.end()):
                found.add(rest[1].upper())
        if found:
            return known[found.pop()] if len(found) == 1 else None
    return None


def read_labels(reference: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the labels of all options: `reference["labels"]`, else A to D.

    >>> read_labels({"labels": [1, 2, 3]}), read_labels({})
    (('1', '2', '3'), ('A', 'B', 'C', 'D'))
    """
    return tuple(map(str, reference.get("labels") or _DEFAULT_LABELS))


def grade_choice(text: str, reference: Mapping[str, Any]) -> Grade:
    """Compare the chosen label with `reference["answer"]`; `reference["labels"]` lists all (A to D when absent).

    Raises:
        DataError: the answer is not among the labels.

    >>> grade_choice("(B)", {"answer": "B", "labels": ["A", "B"]}).score
    1.0
    """
    answer = str(read_reference(reference, "answer", (str, int)))
    labels = read_labels(reference)
    if answer not in labels:
        raise DataError(
            "reference.answer", f"must be one of {', '.join(labels)}", received=answer, remedy="correct the row"
        )
    found = extract_label(text, labels)
    return Grade(float(found == answer), "no single choice" if found is None else found)
