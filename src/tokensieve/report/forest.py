"""Many named arms under each other, each with its interval: a plot for arms that no number orders."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tokensieve.report.arms import Arm
from tokensieve.report.figure import WIDTH, new_figure
from tokensieve.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS_OF_LABEL = 30
_ROW_HEIGHT, _LINE_HEIGHT, _MARGIN = 0.12, 0.13, 0.9  # inches
_BASE = "#555555"
_MASKED: dict[str, Any] = {"color": "#0072B2", "marker": "o", "zorder": 3}
_UNMASKED: dict[str, Any] = {"color": "#D55E00", "marker": "D", "zorder": 3}
Quantity = Callable[[Arm], Interval | None]


def needs_rows(labels: Sequence[str]) -> bool:
    """Whether these labels would not fit under a plot, side by side."""
    return len(labels) > 8 or sum(map(len, labels)) > 90


def draw_forest(arms: Sequence[Arm], panels: Sequence[tuple[Quantity, str]]) -> Figure:
    """A panel a quantity, side by side, a row an arm, in the order of the tables; the base is a vertical line."""
    trained = [arm for arm in arms if not arm.is_base]
    labels = [_wrap(arm.label) for arm in trained]
    lines = [label.count("\n") + 1 for label in labels]
    heights = [_ROW_HEIGHT + _LINE_HEIGHT * number for number in lines]
    places = [sum(heights[:row]) + heights[row] / 2 for row in range(len(heights))]
    figure = new_figure(WIDTH * (1 + 0.7 * (len(panels) - 1)), _MARGIN + sum(heights), len(panels))
    for number, (axes, (quantity, title)) in enumerate(zip(figure.axes, panels, strict=True)):
        _draw_panel(axes, arms, places, quantity)
        axes.set_ylim(sum(heights), 0.0)
        axes.set_yticks(places, labels if number == 0 else [""] * len(places), fontsize=8)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(title)
    return figure


def _draw_panel(axes: Axes, arms: Sequence[Arm], places: Sequence[float], quantity: Quantity) -> None:
    for arm in arms:
        value = quantity(arm)
        if arm.is_base and value is not None and math.isfinite(value.value):
            axes.axvline(value.value, color=_BASE, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1)
            if value.high > value.low:
                axes.axvspan(value.low, value.high, color=_BASE, alpha=0.08, linewidth=0, zorder=0)
    for arm, place in zip((arm for arm in arms if not arm.is_base), places, strict=True):
        value = quantity(arm)
        if value is None or not math.isfinite(value.value):
            continue
        style = _UNMASKED if arm.rule == "none" else _MASKED
        spread = [[_length(value.value - value.low)], [_length(value.high - value.value)]]
        axes.errorbar([value.value], [place], xerr=spread, markersize=4.5, capsize=2.5, elinewidth=1.1, **style)


def _length(value: float) -> float:
    return max(0.0, value) if math.isfinite(value) else 0.0


def _wrap(label: str) -> str:
    """Lines that break between settings, and inside of one that is too long."""
    lines = [""]
    for part in label.split(" · "):
        joined = f"{lines[-1]} · {part}" if lines[-1] else part
        if len(joined) > _COLUMNS_OF_LABEL and lines[-1]:
            lines.append(part)
        else:
            lines[-1] = joined
    wrapped = [piece for line in lines for piece in textwrap.wrap(line, _COLUMNS_OF_LABEL) or [""]]
    return "\n".join(wrapped).replace("$", r"\$")
