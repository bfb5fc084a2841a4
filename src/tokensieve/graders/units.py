r"""Units of measure behind a number: which two answers name units that cannot be the same?"""

from __future__ import annotations

import re
from typing import Final

# Every spelling of a unit, the first is its name. Units that are not listed are never in conflict.
_UNITS: Final = (
    ("mm", "millimeter", "millimetre"),
    ("cm", "centimeter", "centimetre"),
    ("m", "meter", "metre"),
    ("km", "kilometer", "kilometre"),
    ("in", "inch", "inches"),
    ("ft", "foot", "feet"),
    ("yd", "yard"),
    ("mi", "mile"),
    ("mg", "milligram"),
    ("g", "gram"),
    ("kg", "kilogram"),
    ("lb", "lbs", "pound"),
    ("oz", "ounce"),
    ("s", "sec", "second"),
    ("min", "minute"),
    ("h", "hr", "hour"),
    ("day",),
    ("week",),
    ("month",),
    ("year",),
    ("cent",),
    ("dollar",),
    ("mph",),
    ("degree",),
    ("radian", "rad"),
)
_NAMES: Final = {spelling: names[0] for names in _UNITS for spelling in names}
_WORD: Final = re.compile(r"\\(?:text|mathrm|mbox|textrm|operatorname)\s*\{\s*([^{}]*?)\s*\}|([A-Za-z]+)\s*\Z")
_POWER: Final = re.compile(r"\^\{?([23])\}?|[²³]")
_POWER_WORD: Final = re.compile(r"\b(?:sq(?:uare|\.)?|cu(?:bic|\.)?)\s+|\s+(?:squared|cubed)\b")
_NUMBER_BEFORE: Final = re.compile(r"[\d})]\s*\Z")


def find_unit(answer: str) -> str | None:
    r"""Return the name of the unit behind a number, with its power; None when there is none, or none that is known.

    >>> find_unit(r"10\text{ cm}^2"), find_unit(r"10\text{ square centimeters}")
    ('cm^2', 'cm^2')
    >>> find_unit(r"10\text{ centimeters}"), find_unit("3 ft"), find_unit(r"\text{even}"), find_unit("5x")
    ('cm', 'ft', None, None)
    """
    for match in _WORD.finditer(answer):
        if _NUMBER_BEFORE.search(answer[: match.start()]):
            word = (match[1] if match[1] is not None else match[2]).strip(" .").lower()
            base = _POWER.sub("", _POWER_WORD.sub("", word)).strip(" .")
            known = _NAMES.get(base) or _NAMES.get(base.removesuffix("s"))
            if known is not None:
                return known + _read_power(word, answer[match.end() :])
    return None


def _read_power(word: str, behind: str) -> str:
    written = _POWER.match(behind.lstrip()) or _POWER.search(word)
    if written is not None:
        return f"^{written[1] or '23'['²³'.index(written[0])]}"
    named = _POWER_WORD.search(word)
    return ("^3" if "cu" in named[0] else "^2") if named is not None else ""


def units_conflict(one: str, other: str) -> bool:
    r"""Whether both name a known unit, and not the same. A missing unit conflicts with none.

    >>> units_conflict(r"10\text{ cm}", r"10\text{ m}"), units_conflict(r"10\text{ cm}", "10")
    (True, False)
    """
    units = find_unit(one), find_unit(other)
    return None not in units and units[0] != units[1]
