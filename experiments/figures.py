"""Figures of a design: every claim's difference, and a curve of arms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from claims import Finding

# Okabe and Ito's colours, told apart by markers too.
LOOKS = {"confirmed": ("o", "#0072B2"), "refuted": ("X", "#D55E00"), "undecided": ("s", "#666666")}
_PANELS = {"target": "target, points against the base", "others": "other tasks, points against the base"}


def draw_claims(findings: Sequence[Finding], path: Path) -> None:
    """Every difference in points with its interval, marked by verdict; trends have another unit and are left out."""
    from matplotlib.figure import Figure

    shown = [finding for finding in findings if finding.verdict in LOOKS and not finding.is_trend][::-1]
    figure = Figure(figsize=(8, 1.2 + 0.28 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for verdict, (marker, colour) in LOOKS.items():
        own = [(place, one.difference) for place, one in enumerate(shown) if one.verdict == verdict]
        if own:
            places, found = zip(*own, strict=True)
            spread = [[_width(one.value - one.low) for one in found], [_width(one.high - one.value) for one in found]]
            values = [one.value for one in found]
            axes.errorbar(values, places, xerr=spread, fmt=marker, color=colour, capsize=2, label=verdict)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [f"{one.compared} ({one.claim['of']})" for one in shown], fontsize=7)
    axes.set_ylim(-0.8, len(shown) - 0.2)
    axes.set_xlabel("difference in points, 95 % interval")
    if shown:
        axes.legend(loc="best", fontsize=8)
    figure.savefig(path, dpi=120)


def draw_curve(curve: Mapping[str, Any], arms: pd.DataFrame, path: Path) -> bool:
    """The arms of `curve["arms"]` as a line, those of `curve["beside"]` as points; False where none has run."""
    from matplotlib.figure import Figure

    known = arms.set_index("arm")
    line = [name for name in curve["arms"] if name in known.index]
    beside = [name for name in curve.get("beside") or () if name in known.index]
    if not line:
        return False
    figure = Figure(figsize=(8, 6), layout="constrained")
    names = [*line, *beside]
    for axes, (of, title) in zip(figure.subplots(2, 1, sharex=True), _PANELS.items(), strict=True):
        for group, style in ((line, {"fmt": "o-", "color": "#0072B2"}), (beside, {"fmt": "s", "color": "#D55E00"})):
            rows = known.loc[group]
            values = rows[f"{of}_points"]
            spread = [
                [_width(value) for value in values - rows[f"{of}_points_low"]],
                [_width(value) for value in rows[f"{of}_points_high"] - values],
            ]
            if group:
                axes.errorbar([names.index(name) for name in group], values, yerr=spread, capsize=3, **style)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_title(title, fontsize=10, loc="left")
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    labels = [f"{name}\n{known.loc[name, 'kept_percent']:.0f} % kept" for name in names]
    axes.set_xticks(range(len(names)), labels, fontsize=8, rotation=30, ha="right")
    figure.savefig(path, dpi=120)
    return True


def _width(value: float) -> float:
    """An error bar's length; an interval that is not known has none."""
    return max(0.0, value) if math.isfinite(value) else 0.0
