r"""Final-number answers (GSM8K protocol): the number after the last `####`, else the last number.

Texts that do not keep to the protocol are read kindly: before the last number of all, a \boxed{} and "the answer is"
are looked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

from tokensieve.errors import DataError
from tokensieve.graders.grade import Grade, read_reference

_NUMBER: Final = re.compile(
    r"""(?<![A-Za-z_])                                    # not the 2 of x2
        (?P<sign>(?<![\w)\]])-(?=[\d.$€£]))?              # not the minus of 10-3
        (?:[$€£]\s?)?
        (?:(?P<whole>\d{1,6})\s(?=\d{1,4}/\d{1,4}(?!\d)))?  # 2 1/2
        (?P<digits>(?:\d{1,3}(?:,\d{3})+(?![\d])|\d+)(?:\.\d+)?|(?<!\d)\.\d+)
        (?P<power>[eE][-+]?\d{1,3}(?!\w))?
        (?:\s?/\s?(?P<under>\d+)(?![\d.]))?
        (?:\s?(?P<scale>thousand|million|billion|trillion)\b)?
    """,
    re.VERBOSE | re.ASCII,
)
_MARK: Final = "####"
_MAX_DIGITS: Final = 1000  # Python refuses to read integers above 4300 digits
_SCALES: Final = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_STATED: Final = (
    re.compile(r"\\boxed\s*\{"),
    re.compile(r"\banswer\b[*_]*\s*(?::|\bis\b\s*:?)", re.IGNORECASE),
)
_END: Final = re.compile(r"\n|[.!?](?=\s|\Z)")
# minus signs that are not ASCII, and LaTeX's spellings of a thousands separator, a dollar and a percent sign
_SPELLINGS: Final = (
    ("\u2212", "-"),
    ("\uff0d", "-"),
    ("{,}", ","),
    ("\\,", ""),
    ("\\!", ""),
    ("\\$", "$"),
    ("$-", "-$"),
)
_THIN_SPACES: Final = re.compile(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))")
_FRACTION: Final = re.compile(r"\\[dtc]?frac\s*\{(\d+)\}\s*\{(\d+)\}", re.ASCII)


def find_numbers(text: str) -> list[Fraction]:
    r"""Return all numbers of a text as exact fractions, in order.

    Thousands separators, currency signs, percent signs and a final full stop are dropped; `3/4`, `\frac{3}{4}` and
    `2 3/4` are one number each, and so is `1.5 million`.

    >>> [str(number) for number in find_numbers("$1,234.50 of 3/4, 10-3 and -2.0%.")]
    ['2469/2', '3/4', '10', '3', '-2']
    """
    for spelling, plain in _SPELLINGS:
        text = text.replace(spelling, plain)
    text = _FRACTION.sub(r" \1/\2", _THIN_SPACES.sub("", text))
    return [_read(match) for match in _NUMBER.finditer(text) if len(match[0]) <= _MAX_DIGITS]


def _read(match: re.Match[str]) -> Fraction:
    number = Fraction(match["digits"].replace(",", "") + (match["power"] or ""))
    number = (number / (int(match["under"] or 1) or 1) + int(match["whole"] or 0)) * _SCALES.get(match["scale"], 1)
    return -number if match["sign"] else number


def extract_number(text: str) -> Fraction | None:
    r"""Return the number that a text answers, exactly; None when there is none.

    After a mark (the last `####`; else the last \boxed{}; else the last "answer is" or "Answer:") it is the first
    number of the sentence, behind its last equals sign if it has one. A `####` without a number is no answer; another
    mark without one is ignored. Without a mark it is the last number of the text.

    >>> extract_number("3 + 4 = 7\n#### 7"), extract_number("It costs $1,000 in 2 years: 500.50"), extract_number("?")
    (Fraction(7, 1), Fraction(1001, 2), None)
    """
    _, mark, tail = text.rpartition(_MARK)
    if mark:
        numbers = find_numbers(_last_side(tail.strip())) or find_numbers(tail)
        return numbers[0] if numbers else None
    for pattern in _STATED:
        starts = [match.end() for match in pattern.finditer(text)]
        numbers = find_numbers(_last_side(text[starts[-1] :].lstrip())) if starts else []
        if numbers:
            return numbers[0]
    numbers = find_numbers(text)
    return numbers[-1] if numbers else None


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
        return Grade(0.0, f"no number after {_MARK}" if _MARK in text else "no number")
    return Grade(float(found == expected), show_number(found))


def show_number(number: Fraction) -> str:
    """Write a number exactly, cut to 60 characters: a float shows at most 17 digits, and none above its range.

    >>> show_number(Fraction("1234.50"))
    '2469/2'
    """
    return str(number)[:60]
