r"""Final-number answers (GSM8K protocol): the number after the last `####`, else the last number.

Texts that do not keep to the protocol are read kindly: before the last number of all, a \boxed{} and "the answer is"
are looked for. "7 or 8" and a number that is denied or bounded are no answer; after a mark nor are a range ("18-20"), a
time of day and a product that is not worked out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

from tokensieve.errors import DataError
from tokensieve.graders.grade import Grade, read_reference
from tokensieve.graders.number_words import is_denied, is_part_of_more, respell

_NUMBER: Final = re.compile(
    r"""(?<![A-Za-z_])                                    # not the 2 of x2
        (?P<sign>(?<![\w)\]])-(?=[\d.$€£]))?              # not the minus of 10-3
        (?P<currency>[$€£]\s?)?
        (?:(?P<whole>\d{1,6})\s(?=\d{1,4}/\d{1,4}(?!\d)))?  # 2 1/2
        (?P<digits>(?:\d{1,3}(?:,\d{3})+(?![\d])|\d+)(?:\.\d+)?|(?<!\d)\.\d+)
        (?P<power>[eE][-+]?\d{1,3}(?!\w))?
        (?:\s?/\s?(?P<under>\d+)(?![\d.]))?
        (?:\s?(?P<scale>(?i:hundred|thousand|million|billion|trillion|bn))\b|(?P<kilo>[kK])\b)?
        (?(currency)(?:(?P<letter>[MB])\b)?)              # $1.5M; a bare 5M may be metres
    """,
    re.VERBOSE | re.ASCII,
)
_MARK: Final = "####"
_MAX_DIGITS: Final = 1000  # Python refuses to read integers above 4300 digits
_SCALES: Final = {
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "bn": 10**9,
    "M": 10**6,
    "B": 10**9,
}
_STATED: Final = (
    re.compile(r"\\boxed\s*\{"),
    re.compile(r"\banswer\b[*_]*\s*(?::|\bis\b\s*:?)", re.IGNORECASE),
)
_END: Final = re.compile(r"\n|[.!?](?=\s|\Z)")
# A `####` before other words, with an answer stated below it, is a heading.
_HEADING: Final = re.compile(r"[ \t]*[A-Za-z][^\n=]*\n")
_STEP: Final = re.compile(r"\b(?:step|part|stage|case)[ \t]*#?\d+", re.IGNORECASE)  # numbers a heading, answers nothing
# What makes of two numbers side by side another number, or none: an operator, a range, a ratio, an alternative.
_JOINED: Final = re.compile(
    r"""[ \t*_$)%]{0,8}
        (?:[-–—^×*+:;,&'x.]|/|\\times|\\cdot|\b(?:and|to|plus|minus|times)\b|(?:[A-Za-z]{1,15}[ \t]{1,4})?\bor\b)
        [ \t*_$({^]{0,8}[$€£]?-?\.?\d""",
    re.VERBOSE | re.IGNORECASE,
)
_ALIKE: Final = re.compile(r"[^,;\d]*(?:[,;]|\b(?:or|and)\b)")  # what may stand between two names of one number
_OR: Final = re.compile(r"[^\w\n]*\bor\b[^\w\n]*")


def find_numbers(text: str) -> list[Fraction]:
    r"""Return all numbers of a text as exact fractions, in order.

    Thousands separators, currency signs, percent signs and a final full stop are dropped; `3/4`, `\frac{3}{4}` and
    `2 3/4` are one number each, and so are `1.5 million`, `$1.5M` and `42k`.

    >>> [str(number) for number in find_numbers("$1,234.50 of 3/4, 10-3 and -2.0%.")]
    ['2469/2', '3/4', '10', '3', '-2']
    """
    return [_read(match) for match in _find(respell(text))]


def _find(text: str) -> list[re.Match[str]]:
    """The numbers; nothing that is divided by zero is one."""
    found = (match for match in _NUMBER.finditer(text) if len(match[0]) <= _MAX_DIGITS)
    return [match for match in found if match["under"] is None or int(match["under"]) != 0]


def _read(match: re.Match[str]) -> Fraction:
    number = Fraction(match["digits"].replace(",", "") + (match["power"] or ""))
    scale = 1000 if match["kilo"] else _SCALES.get((match["scale"] or "").lower() or match["letter"], 1)
    number = (number / int(match["under"] or 1) + int(match["whole"] or 0)) * scale
    return -number if match["sign"] else number


def extract_number(text: str) -> Fraction | None:
    r"""Return the number that a text answers, exactly; None when there is none, or no single one.

    After a mark (the last `####`; else the last \boxed{}; else the last "answer is" or "Answer:") it is the first
    number of the sentence, behind its last equals sign if it has one; below a heading ("#### Total") that of the next
    line, and of the last step ("#### Step 2") the last. A `####` without a number is no answer; another mark without
    one is ignored. Without a mark it is the last number of the text. Numbers that are denied ("not 42")
    or bounded ("at least 42") are passed over.

    >>> extract_number("3 + 4 = 7\n#### 7"), extract_number("It costs $1,000 in 2 years: 500.50"), extract_number("?")
    (Fraction(7, 1), Fraction(1001, 2), None)
    >>> extract_number("#### 7 or 8"), extract_number("It is 43, not 42.")
    (None, Fraction(43, 1))
    """
    _, mark, tail = text.rpartition(_MARK)
    if mark:
        heading, title = _HEADING.match(tail), _STEP.sub("", tail)
        found = (_read_announced(tail) if heading else []) or _read_first(_last_side(title.strip()))
        if heading and not found:
            below = tail[heading.end() :].strip()
            found = [_read_last(below)] if _STEP.search(heading[0]) else _read_first(_last_side(below))
        return next(iter(found or _read_first(title)), None)
    stated = _read_announced(text)
    return stated[0] if stated else _read_last(text)


def _read_announced(text: str) -> list[Fraction | None]:
    """What the last box or announcement states, as `_read_first`."""
    for pattern in _STATED:
        starts = [match.end() for match in pattern.finditer(text)]
        stated = _read_first(_last_side(text[starts[-1] :].lstrip())) if starts else []
        if stated:
            return stated
    return []


def _read_first(text: str) -> list[Fraction | None]:
    """The first number; None in its place where it is joined to another; nothing where there is none."""
    text = respell(text)
    found = [match for match in _find(text) if not is_denied(text, match.start())]
    if not found:
        return []
    if is_part_of_more(text, found[0].end()):
        return [None]
    number, joined = _read(found[0]), _JOINED.match(text, found[0].end())
    if joined is None or (_ALIKE.match(joined[0]) and len(found) > 1 and _read(found[1]) == number):
        return [number]
    return [None]


def _read_last(text: str) -> Fraction | None:
    text = respell(text)
    found = [match for match in _find(text) if not is_denied(text, match.start())]
    if not found or is_part_of_more(text, found[-1].end()):
        return None
    if len(found) > 1 and is_part_of_more(text, found[-2].end()):
        return None
    if (
        len(found) > 1
        and _OR.fullmatch(text, found[-2].end(), found[-1].start())
        and _read(found[-2]) != _read(found[-1])
    ):
        return None
    return _read(found[-1])


def _last_side(tail: str) -> str:
    """The first sentence of `tail`, behind its last equals sign."""
    end = _END.search(tail)
    return (tail[: end.start()] if end else tail).rpartition("=")[2]


def read_number(reference: Mapping[str, Any]) -> Fraction:
    """Return `reference["answer"]` as a number; a GSM8K solution is read behind its `####`.

    Raises:
        DataError: the reference is not one number.

    >>> read_number({"answer": "6 * 7 = 42\\n#### 42"}), read_number({"answer": "1,234"})
    (Fraction(42, 1), Fraction(1234, 1))
    """
    answer = str(read_reference(reference, "answer", (str, int, float)))
    expected = find_numbers(answer.rpartition(_MARK)[2])
    if len(expected) != 1:
        raise DataError("reference.answer", "must be one number", received=answer, remedy="correct the row")
    return expected[0]


def grade_number(text: str, reference: Mapping[str, Any]) -> Grade:
    """Compare the final number of `text` with `reference["answer"]`, exactly: 42 is 42.0 and -0 is 0.

    Raises:
        DataError: the reference is not one number.

    >>> grade_number("7 * 6 = 42\\n#### 42", {"answer": "42"}).score
    1.0
    """
    expected = read_number(reference)
    found = extract_number(text)
    if found is None:
        return Grade(0.0, f"no single number after {_MARK}" if _MARK in text else "no single number")
    return Grade(float(found == expected), show_number(found))


def show_number(number: Fraction) -> str:
    """Write a number exactly, cut to 60 characters: a float shows at most 17 digits, and none above its range.

    >>> show_number(Fraction("1234.50"))
    '2469/2'
    """
    return str(number)[:60]
