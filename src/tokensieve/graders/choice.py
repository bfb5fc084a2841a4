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
_AFFIRMED: Final = (
    r"\s+(?:is|was|would be|must be|should be)\b\s*:?"
    r"(?:\s+(?:definitely|clearly|certainly|probably|likely|most likely|obviously|therefore|thus|then|indeed)\b)?"
)
_PERHAPS: Final = r"(?:\s+(?:maybe|perhaps|possibly|probably|even|also|else)\b)?"
# "Not (B)", "cannot be B", "(A) is wrong": a label that is named to be refused
_DENIED: Final = re.compile(r"(?:\bnot|n't|\bnever|\bcannot be|\bneither|\bnor)[\s*_`\"'(\[{$]*\Z", re.IGNORECASE)
_DENIAL_CHARS: Final = 24
_REFUSED: Final = re.compile(
    r"[\s*_`\"')\]}$.]{0,40}\s(?:(?:is|are|was)\s+(?:definitely\s+|clearly\s+)?(?:not\b|wrong\b|incorrect\b|false\b)"
    r"|(?:isn't|wasn't|cannot|can't)\b)"
    r"|[\s*_`\"')\]}$]{0,40}:\s*(?:no|wrong|incorrect|false)\b",
    re.IGNORECASE,
)


class Patterns(NamedTuple):
    """Where a label may stand, most explicit first; a weaker place is read only when the stronger ones are empty."""

    places: tuple[re.Pattern[str], ...]
    hedge: re.Pattern[str]  # "or C", behind a label
    article: re.Pattern[str]  # what follows an "A" that is a word


@lru_cache(maxsize=64)
def _patterns(labels: tuple[str, ...]) -> Patterns:
    names = "|".join(sorted(map(re.escape, labels), key=len, reverse=True))
    label = f"({names})"
    answer = rf"(?i:\banswer\b(?:[*_\"']*\s*[:：=>]|[ \t]+[-–—][ \t]+|{_AFFIRMED})[*_]*)"
    option = rf"(?i:\b(?:correct|right|best) (?:option|choice|letter)(?:[*_]*\s*[:：=]|{_AFFIRMED})[*_]*)"
    # "The answer is a bridge" names no label: a small letter must end its phrase.
    named = rf"(?:{label}{_CLOSE}|(?i:{label})(?={_CLOSERS}(?:[.),:;](?!\d)|\n|\Z)))"
    heading = rf"^[ \t]*(?:#+|\*\*)\s*(?i:(?:final )?answer)[*_: \t]*\n{_OPEN}{label}{_CLOSE}"
    boxed = rf"\\f?boxed\s*\{{{_OPEN}{label}{_CLOSE}"
    # "The answer is A. No wait, it is B": taken back, so that there are two
    revised = (
        r"(?i:\b(?:no|wait|actually|sorry|correction|rather|instead)\b[^\n.]{0,20}\bit(?:['’]s|\s+(?:is|must be)))\s+"
    )
    right = r"\s*(?i:is\s+(?:the\s+)?(?:correct|right)\b)"
    affirmed = rf"(?i:\b(?:option|choice|letter)\s+){_MARK}{{0,40}}{label}{_CLOSERS}{right}"
    chosen = (
        rf"(?<![\w'’-]){label}{_CLOSERS}\s+(?i:is\s+(?:(?:the\s+)?(?:correct|right|best)\s+(?:answer|option|choice)\b"
        r"|(?:correct|right)(?=\s*(?:[.,;:!)]|\b(?:because|since|as)\b|\Z|\n))))"
    )
    whole = rf"\A[\s*_`\"'(\[{{$]*{label}[\s*_`\"')\]}}$.:]*\Z"
    ends = r"[ \t*_`\"')\]}$.:]*$"
    first = rf"\A[\s*_`\"'(\[{{$]*{label}{ends}(?![\s\S]*^[ \t*_`\"'(\[{{$]*(?:{names}){ends})"
    leading = rf"^[ \t*_`\"]{{0,40}}{label}[.):](?=[\s*_]|\Z)"
    return Patterns(
        (
            re.compile(f"(?:{answer}|{revised}){_OPEN}{named}|{heading}", re.MULTILINE),
            re.compile(boxed),
            re.compile(f"{option}{_OPEN}{named}|{affirmed}|{chosen}"),
            re.compile(whole, re.IGNORECASE),
            re.compile(first, re.MULTILINE),
            re.compile(rf"\({label}\)|\[{label}\]|{leading}", re.MULTILINE),
        ),
        re.compile(
            rf"{_CLOSERS}(?:,?\s*(?i:\band\b|\bor\b|\bplus\b){_PERHAPS}|[/,;&|→]|-+>|\\text\{{\s*(?:and|or)\s*\}})"
            rf"{_OPEN}{label}{_CLOSE}|[ \t]+{label}(?=[ \t.)]*(?:\n|\Z)|[ \t,]+(?:{names})(?!\w))"
            rf"|[.)][ \t]+{label}[.)](?=\s|\Z)"
        ),
        re.compile(r"[ \t]+(?!(?:because|since|as|is|which|due|for|and|or|with|by|in)\b)[a-z]"),
    )


def extract_label(text: str, labels: Sequence[str]) -> str | None:
    r"""Return the one label that `text` chooses; None when it chooses none, or two.

    Read are, in this order: "Answer: B" and "the answer is B" (any case), \boxed{B}, "the correct option is B" and
    "option B is correct", a text or a first line that is nothing but the label, and labels in brackets or at the start
    of a line before a stop. Letters inside words, the article "A", and labels that are refused ("not B", "B is wrong")
    do not count; "B or C" chooses none.

    >>> extract_label("The capital. Answer: B", "ABCD"), extract_label("Answer: A or B", "ABCD")
    ('B', None)
    """
    known = {label.upper(): label for label in labels}
    patterns = _patterns(tuple(labels))
    for pattern in patterns.places:
        found: set[str] = set()
        for match in pattern.finditer(text):
            place = match.lastindex or 0
            chosen = match[place]
            if _DENIED.search(text, max(0, match.start(place) - _DENIAL_CHARS), match.start(place)):
                continue
            if _REFUSED.match(text, match.end(place)):
                continue
            if chosen == "A" and match[0].endswith("A") and patterns.article.match(text, match.end()):
                continue
            found.add(chosen.upper())
            rest = patterns.hedge.match(text, match.end())
            if rest is None or _REFUSED.match(text, rest.end()):
                continue
            if not patterns.article.match(text, rest.end()):
                found.add(rest[rest.lastindex or 0].upper())
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
