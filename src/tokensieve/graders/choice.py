"""Multiple choice by generation: which label did the text choose? More than one is none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from tokensieve.errors import DataError
from tokensieve.graders.grade import Grade, read_reference

_DEFAULT_LABELS: Final = ("A", "B", "C", "D")
# markup that may surround a label: Markdown, LaTeX, brackets, quotes
_OPEN: Final = r"(?:[\s*_`\"'(\[{$]|\\(?:boxed|text|textbf|mathrm|mathbf)|(?i:option|choice|letter)\b)*"
_CLOSE: Final = r"(?![\w'’+=-])"


@lru_cache(maxsize=64)
def _patterns(labels: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    """Where a label may stand, most explicit first; a weaker place is read only when the stronger ones are empty."""
    label = "(" + "|".join(sorted(map(re.escape, labels), key=len, reverse=True)) + ")"
    answer = r"(?i:\banswer\b(?:[*_]*\s*[:=]|\s+(?:is|was|would be|must be)\b\s*:?)[*_]*)"
    # "The answer is a bridge" names no label: a small letter must end its phrase.
    announced = rf"{answer}{_OPEN}(?:{label}{_CLOSE}|(?i:{label})(?=[\s*_`\"')\]}}$]*(?:[.),:;\n]|\Z)))"
    boxed = rf"\\boxed\s*\{{{_OPEN}{label}{_CLOSE}"
    whole = rf"\A[\s*_`\"'(\[{{$]*{label}[\s*_`\"')\]}}$.:]*\Z"
    bracketed = rf"\({label}\)|\[{label}\]"
    leading = rf"^[\s*_`\"]*{label}[.):](?=[\s*_]|\Z)"
    return (
        re.compile(announced),
        re.compile(boxed),
        re.compile(whole, re.IGNORECASE),
        re.compile(f"{bracketed}|{leading}", re.MULTILINE),
    )


def extract_label(text: str, labels: Sequence[str]) -> str | None:
    r"""Return the one label that `text` chooses; None when it chooses none, or two.

    Read are, in this order: "Answer: B" (any case), \boxed{B}, a text that is nothing but the label, and labels in
    brackets or at the start of a line before a stop. Letters inside words, and the article "A", do not count.

    >>> extract_label("The capital. Answer: B", "ABCD"), extract_label("Answer: A or Answer: B", "ABCD")
    ('B', None)
    """
    known = {label.upper(): label for label in labels}
    for pattern in _patterns(tuple(labels)):
        found = {next(group for group in match.groups() if group).upper() for match in pattern.finditer(text)}
        if found:
            return known[found.pop()] if len(found) == 1 else None
    return None


def grade_choice(text: str, reference: Mapping[str, Any]) -> Grade:
    """Compare the chosen label with `reference["answer"]`; `reference["labels"]` lists all (A to D when absent).

    Raises:
        DataError: the answer is not among the labels.

    >>> grade_choice("(B)", {"answer": "B", "labels": ["A", "B"]}).score
    1.0
    """
    answer = str(read_reference(reference, "answer", (str, int)))
    labels = tuple(map(str, reference.get("labels") or _DEFAULT_LABELS))
    if answer not in labels:
        raise DataError(
            "reference.answer", f"must be one of {', '.join(labels)}", received=answer, remedy="correct the row"
        )
    found = extract_label(text, labels)
    return Grade(float(found == answer), "no single choice" if found is None else found)
