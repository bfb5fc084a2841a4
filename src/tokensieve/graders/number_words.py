"""What stands around a number and changes it: spellings of its sign and fractions, bounds, denials, a second part."""

from __future__ import annotations

import re
from typing import Final

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
_NEGATIVE: Final = re.compile(r"\bnegative\s+(?=[$€£]?\.?\d)", re.IGNORECASE)
_MINUS: Final = re.compile(r"(\A\s*|[:=#*$(]\s*|\b(?:is|are|be|equals)\s+)minus\s+(?=[$€£]?\.?\d)", re.IGNORECASE)
_NEGATIVE_BRACKET: Final = re.compile(r"(?<![\w)\]])(?<!\d )-\s?\((?=[$€£]?\.?\d[\d.,]*\))")  # "-(42)", not "50 -(8)"
_THIN_SPACES: Final = re.compile(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))")
_FRACTION: Final = re.compile(r"((?<![\w)\]}])-\s?)?\\[dtc]?frac\s*\{(-?)(\d+)\}\s*\{(\d+)\}", re.ASCII)
_ONE_SIGN: Final = {
    "½": "1/2",
    "⅓": "1/3",
    "⅔": "2/3",
    "¼": "1/4",
    "¾": "3/4",
    "⅕": "1/5",
    "⅛": "1/8",
    "⅜": "3/8",
    "⅝": "5/8",
    "⅞": "7/8",
}
_SIGNS: Final = re.compile(f"[{''.join(_ONE_SIGN)}]")
_MIXED: Final = re.compile(r"(?<=\d)\s+and\s+(?=\d{1,4}/\d{1,4}(?!\d))", re.ASCII)
_PARTS: Final = {"half": "1/2", "quarter": "1/4", "third": "1/3"}
_MIXED_WORDS: Final = re.compile(rf"(?<=\d)\s+and\s+(?:a|one)\s+({'|'.join(_PARTS)})\b", re.IGNORECASE)

_DENIED: Final = re.compile(
    r"(?:\bnot|n't|\bnever|\bcannot be|\bneither"
    r"|\b(?:less|more|fewer|greater|larger|higher|lower|smaller) than(?: or equal to)?"
    r"|\bat (?:least|most)|\bup to|\b(?:over|under|above|below|half of|twice|double|triple)|\\?sqrt|√"
    r"|\\(?:leq?|geq?|neq?|[lg]t)|[≤≥≠]|(?<!<)<|(?:\A|(?<=[ \t$(]))>)[\s*_$({]*\Z",
    re.IGNORECASE,
)
_DENIAL_CHARS: Final = 32
_AMOUNT: Final = r"[$€£]?\d[\d.,]*"
_LARGE: Final = r"(?:h|hrs?|hours?|ft|feet|foot|lbs?|pounds?|kg|min|minutes?|days?|weeks?|years?|dollars?|km|m)"
_SMALL: Final = r"(?:hrs?|hours?|m|min|minutes?|s|sec|seconds?|in|inches|oz|ounces?|days?|months?|weeks?|cents?|g|cm)"
_MORE: Final = re.compile(
    rf"""(?:[ ]?(?:%|percent\b)[ ]*of[ ]+{_AMOUNT}               # 10% of 420
          |[⁰¹²³⁴⁵⁶⁷⁸⁹]
          |\+(?![\w.])                                           # 42+
          |[ ]+(?:more|less|fewer|greater)[ ]+than[ ]+{_AMOUNT}  # 12 more than 30
          |(?:[ ]+[A-Za-z]{{1,15}})?[ ]+(?:or|and)[ ]+(?:more|above|over|up|fewer|less|below)\b
          |[ ]+[A-Za-z]{{1,15}}[ ]+and[ ]+{_AMOUNT}[ ]?[A-Za-z]  # 30 dollars and 50 cents
          |[ ]?{_LARGE},?[ ]+{_AMOUNT}[ ]?{_SMALL}\b)            # 2 h 30 min
    """,
    re.VERBOSE | re.IGNORECASE,
)


def respell(text: str) -> str:
    r"""Write signs, separators and fractions as a reader of plain numbers expects them.

    >>> respell(r"-\frac{1}{2}, 2½, 5 and a half, minus 3")
    ' -1/2, 2 1/2, 5 1/2, minus 3'
    """
    for spelling, plain in _SPELLINGS:
        text = text.replace(spelling, plain)
    text = _NEGATIVE_BRACKET.sub("-", _MINUS.sub(r"\1-", _NEGATIVE.sub("-", text)))
    text = _FRACTION.sub(_write_fraction, _THIN_SPACES.sub("", text))
    text = _MIXED_WORDS.sub(lambda match: f" {_PARTS[match[1].lower()]}", _SIGNS.sub(_write_sign, text))
    return _MIXED.sub(" ", text)


def _write_fraction(match: re.Match[str]) -> str:
    sign = "-" if bool(match[1]) != bool(match[2]) else ""
    return f" {sign}{match[3]}/{match[4]}"


def _write_sign(match: re.Match[str]) -> str:
    return f" {_ONE_SIGN[match[0]]}"


def is_denied(text: str, start: int) -> bool:
    """Whether the number at `start` is denied, bounded, or the argument of something not worked out.

    >>> is_denied("not 42", 4), is_denied("at least 42", 9), is_denied("twice 21", 6), is_denied("so 42", 3)
    (True, True, True, False)
    """
    return _DENIED.search(text, max(0, start - _DENIAL_CHARS), start) is not None


def is_part_of_more(text: str, end: int) -> bool:
    """Whether the number that ends at `end` is only a part of what is said: a bound, a power, one of two units.

    >>> is_part_of_more("30 dollars and 50 cents", 2), is_part_of_more("42+", 2), is_part_of_more("42 apples", 2)
    (True, True, False)
    """
    return _MORE.match(text, end) is not None
