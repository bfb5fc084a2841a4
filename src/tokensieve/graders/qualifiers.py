r"""Words beside a number that change what it says: "at least 5", "not 5", "1 million"; and the kind of its brackets."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

_TEXT: Final = re.compile(r"\\(?:text(?:rm|bf|it)?|mbox|mathrm)\s?\{([^{}]*)\}")
_QUALIFIER: Final = re.compile(
    r"\b(?:at least|at most|up to|(?:no )?(?:more|less|fewer|greater|larger|smaller) than|not|never|cannot"
    r"|neither|nor|except|between|wrong|incorrect"
    r"|or (?:more|less|fewer|greater|higher|lower|above|below))\b",
    re.IGNORECASE,
)
_SCALES: Final = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_SCALED: Final = re.compile(
    rf"(?<![\w.,}}^/])(\d[\d,]{{0,20}}(?:\.\d{{1,20}})?)\s*\\text\s?\{{\s*({'|'.join(_SCALES)})\b\s*([^{{}}]*)\}}",
    re.IGNORECASE,
)
# "7 apples and 3 pears": the words hide from a parser that there are two numbers.
_SECOND: Final = re.compile(r"\d\s*\\(?:text(?:rm)?|mbox|mathrm)\s?\{[^{}]*[A-Za-z]\s+(?:and|or)\s*\}\s*-?\.?\d")
_DOTS: Final = re.compile(r"(?:\\[lcd]?dots|\.{3}|…)\s*\Z")
_UNIT: Final = re.compile(r"(?<=[\d})])\s?\\(?:text(?:rm)?|mbox|mathrm)\s?\{[^{}]*\}(?:\^\{?\d\}?)?")
_KINDS: Final = {"(": "pair", "[": "pair", "\\{": "list"}
_CLOSERS: Final = (")", "]", "\\}")


def find_qualifiers(words: str) -> list[str]:
    """Phrases that make of a number a bound, a range or its denial, in order.

    >>> find_qualifiers("at least 5, but not 7"), find_qualifiers("5 more apples")
    (['at least', 'not'], [])
    """
    return [match[0].lower() for match in _QUALIFIER.finditer(words)]


def qualifiers_conflict(one: str, other: str) -> bool:
    r"""Whether one answer is bounded or denied in words, goes on, or has a second part, and the other not so.

    >>> qualifiers_conflict("5", r"\text{at least }5"), qualifiers_conflict("5", r"5\text{ apples}")
    (True, False)
    """
    found = [sorted(find_qualifiers(" ".join(_TEXT.findall(answer)))) for answer in (one, other)]
    return found[0] != found[1] or any(bool(sign.search(one)) != bool(sign.search(other)) for sign in (_DOTS, _SECOND))


def spell_out_scales(answer: str) -> str:
    r"""Write a number and the word of its scale as one number.

    >>> spell_out_scales(r"1.5\text{ million}"), spell_out_scales(r"2\text{ dozen eggs}")
    ('1500000', '24\\text{eggs}')
    """

    def spell(match: re.Match[str]) -> str:
        number = Fraction(match[1].replace(",", "")) * _SCALES[match[2].lower()]
        plain = str(number) if number.denominator == 1 else f"{float(number):f}"
        return plain + (f"\\text{{{match[3].strip()}}}" if match[3].strip() else "")

    return _SCALED.sub(spell, answer)


def strip_units_of_list(answer: str) -> str:
    r"""Leave out the units of a list's members: they hide from a parser that there are several.

    >>> strip_units_of_list(r"5\text{ apples},6\text{ apples}"), strip_units_of_list(r"5\text{ cm}")
    ('5,6', '5\\text{ cm}')
    """
    return _UNIT.sub("", answer) if "," in answer else answer


def brackets_conflict(one: str, other: str) -> bool:
    r"""Whether one is an ordered pair (or an interval) and the other a list without order: (1,2) is not 1,2.

    >>> brackets_conflict("(1,2)", "1,2"), brackets_conflict("(1,2),(3,4)", r"\{(3,4),(1,2)\}")
    (True, False)
    """
    if any(sign in answer for answer in (one, other) for sign in ("=", "\\in", "<", ">", "\\le", "\\ge", "\\pm")):
        return False
    kinds = _find_kind(one), _find_kind(other)
    return None not in kinds and kinds[0] != kinds[1]


def _find_kind(answer: str) -> str | None:
    """pair, list, or None for what has no two members."""
    depth, members, closed_at = 0, 1, None
    for at, symbol in enumerate(answer):
        if symbol in "([{":
            depth += 1
        elif symbol in ")]}":
            depth -= 1
            if depth == 0 and closed_at is None:
                closed_at = at
        elif symbol == "," and depth <= 1:
            members += 1
    opener = next((start for start in _KINDS if answer.startswith(start)), None)
    if opener is not None and answer.endswith(_CLOSERS) and closed_at == len(answer) - 1:
        return _KINDS[opener] if members > 1 else None
    return "list" if _has_outer_comma(answer) else None


def _has_outer_comma(answer: str) -> bool:
    depth = 0
    for symbol in answer:
        depth += (symbol in "([{") - (symbol in ")]}")
        if symbol == "," and depth == 0:
            return True
    return False
