"""Whether a measured number agrees with a printed one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

_Z: Final = 1.959963984540054  # normal quantile of a 95 % interval
_ROUNDING: Final = 0.005 + 1e-9  # half of a second decimal

Finding = Literal["inside", "outside", "not comparable"]


@dataclass(frozen=True, slots=True)
class Measured:
    """Our number in the printed one's unit, its standard error over items (and seeds, where there are several)."""

    value: float
    standard_error: float
    n: int
    num_seeds: int = 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """`low` and `high`: where a second measurement of the printed quantity falls in 95 of 100 cases; NaN if unknown."""

    finding: Finding
    why: str
    low: float = math.nan
    high: float = math.nan


def judge(
    printed: float | None,
    standard_error: float | None,
    ours: Measured | None,
    *,
    obstacle: str = "",
    same_data: bool = False,
) -> Verdict:
    """The verdict on one row.

    The interval is printed +- 1.96 * sqrt(se_printed^2 + se_ours^2): both numbers are measurements of the same quantity
    with errors of their own. Where the very same values were averaged there is no sampling between the two, and `why`
    says whether they agree to the second decimal.

    Args:
        printed: the paper's number.
        standard_error: its sampling error.
        ours: our number.
        obstacle: why the two are not the same quantity; empty when they are.
        same_data: both are of the very same values.

    >>> judge(10.0, 1.0, Measured(12.0, 1.0, 100)).finding
    'inside'
    >>> judge(10.0, 1.0, Measured(13.0, 1.0, 100)).finding
    'outside'
    >>> judge(10.0, None, Measured(10.0, 1.0, 100)).why
    'the printed number has no known sampling error'
    >>> judge(7.04, 0.5, Measured(7.0504, 0.5, 374), same_data=True).why
    'ours - printed = +0.01; same data, so more than rounding'
    """
    reason = obstacle or _missing(printed, standard_error, ours)
    if reason or printed is None or standard_error is None or ours is None:
        return Verdict("not comparable", reason)
    error = standard_error if same_data else math.hypot(standard_error, ours.standard_error)
    difference = ours.value - printed
    why = f"ours - printed = {difference:+.2f}"
    if same_data:
        agrees = abs(difference) <= _ROUNDING
        why += "; same data, " + ("equal as printed" if agrees else "so more than rounding")
    finding: Finding = "inside" if abs(difference) <= _Z * error else "outside"
    return Verdict(finding, why, printed - _Z * error, printed + _Z * error)


def _missing(printed: float | None, standard_error: float | None, ours: Measured | None) -> str:
    if ours is None:
        return "not run"
    if math.isnan(ours.value):
        return "our number is undefined"
    if printed is None:
        return "the paper shows a curve without numbers"
    return "the printed number has no known sampling error" if standard_error is None else ""


def describe_lab(printed: float | None, ours: Measured | None, standard_error: float | None = None) -> Verdict:
    """The verdict on a lab run: another model on other tasks, so that only the direction can be set beside it.

    `standard_error` is that of the printed number: one that is within 1.96 of them of 0 has no direction itself.

    >>> describe_lab(-34.71, Measured(-20.0, 2.0, 600), 2.21).why
    'lab: another model and other tasks; same sign'
    >>> describe_lab(6.37, Measured(-2.2, 0.9, 200), 6.88).why
    'lab: another model and other tasks; the printed sign is not clear'
    """
    if ours is None or math.isnan(ours.value):
        return Verdict("not comparable", "not run" if ours is None else "our number is undefined")
    text = "lab: another model and other tasks"
    if printed is not None:
        sign = "same sign" if ours.value * printed > 0 else "opposite sign"
        if abs(ours.value) <= _Z * ours.standard_error:
            sign = "no clear sign"
        elif printed == 0 or abs(printed) <= _Z * (standard_error or 0.0):
            sign = "the printed sign is not clear"
        text += f"; {sign}"
    return Verdict("not comparable", text)
