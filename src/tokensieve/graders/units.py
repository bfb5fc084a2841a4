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
_NUMBER_BEFORE: Final = re.compile(r"[\d})]\s*\Z")


def find_unit(answer: str) -> str | None:
    r"""Return the name of the unit that follows a number; None when there is none, or none that is known.

    >>> find_unit(r"10\text{ centimeters}"), find_unit("3 ft"), find_unit(r"\text{even}"), find_unit("5x")
    ('cm', 'ft', None, None)
    """
    for match in _WORD.finditer(answer):
        if _NUMBER_BEFORE.search(answer[: match.start()]):
            word = (match[1] if match[1] is not None else match[2]).strip(" .").lower()
            known = _NAMES.get(word) or _NAMES.get(word.removesuffix("s"))
            if known is not None:
                return known
    return None


def units_conflict(one: str, other: str) -> bool:
    r"""Whether both name a known unit, and not the same. A missing unit conflicts with none.

    >>> units_conflict(r"10\text{ cm}", r"10\text{ m}"), units_conflict(r"10\text{ cm}", "10")
    (True, False)
    """
    units = find_unit(one), find_unit(other)
    return None not in units and units[0] != units[1]
