"""Final-number answers (GSM8K protocol): the number after the last `####`, else the last number."""

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
        [$€£]?
        (?P<digits>(?:\d{1,3}(?:,\d{3})+(?![\d])|\d+)(?:\.\d+)?|(?<!\d)\.\d+)
        (?P<power>[eE][-+]?\d{1,3}(?!\w))?
        (?:\s?/\s?(?P<under>\d+)(?![\d.]))?
    """,
    re.VERBOSE | re.ASCII,
)
_MARK: Final = "####"
_MAX_DIGITS: Final = 1000  # Python refuses to read integers above 4300 digits
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


def find_numbers(text: str) -> list[Fraction]:
    """Return all numbers of a text as exact fractions, in order.

    Thousands separators, currency signs, percent signs and a final full stop are dropped; `3/4` is one number.

    >>> [str(number) for number in find_numbers("$1,234.50 of 3/4, 10-3 and -2.0%.")]
    ['2469/2', '3/4', '10', '3', '-2']
    """
    for spelling, plain in _SPELLINGS:
        text = text.replace(spelling, plain)
    return [_read(match) for match in _NUMBER.finditer(text) if len(match[0]) <= _MAX_DIGITS]


def _read(match: re.Match[str]) -> Fraction:
    number = Fraction(match["digits"].replace(",", "") + (match["power"] or ""))
    under = int(match["under"] or 1)
    return (-number if match["sign"] else number) / (under or 1)


def grade_number(text: str, reference: Mapping[str, Any]) -> Grade:
    """Compare the final number of `text` with `reference["answer"]`, exactly: 42 is 42.0 and -0 is 0.

    Raises:
        DataError: the reference is not one number.

    >>> grade_number("7 * 6 = 42\\n#### 42", {"answer": "42"}).score
    1.0
    """
    answer = str(read_reference(reference, "answer", (str, int, float)))
    expected = find_numbers(answer)
    if len(expected) != 1:
        raise DataError("reference.answer", "must be one number", received=answer, remedy="correct the row")
    _, mark, tail = text.rpartition(_MARK)
    numbers = find_numbers(tail)
    if not numbers:
        return Grade(0.0, f"no number after {_MARK}" if mark else "no number")
    found = numbers[0] if mark else numbers[-1]
    return Grade(float(found == expected[0]), _show(found))


def _show(number: Fraction) -> str:
    # A float shows at most 17 digits, and none for a number above its range.
    return str(number)[:60]
