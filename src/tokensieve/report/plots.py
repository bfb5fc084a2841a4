"""Figures of a report: small, printable, in colours that colour-blind readers tell apart."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tokensieve.report.arms import Arm
from tokensieve.report.axis import Axis, choose_axis
from tokensieve.report.curves import mean_curve, smooth
from tokensieve.report.figure import HEIGHT, WIDTH, new_figure
from tokensieve.report.forest import draw_forest, needs_rows
from tokensieve.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito (2008), without their yellow, which does not show on white.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
UNMASKED = "#D55E00"
MAX_LEGEND = 18
_LEGEND_COLUMNS, _LEGEND_ROW, _ROWS_THAT_FIT = 58, 0.16, 4  # characters of a line; inches
MARKERS = ("o", "s", "^", "v", "P", "X", "<", ">", "h")  # one a series: colours are not all that tells them apart
UNMASKED_MARKER = "D"
Quantity = Callable[[Arm], Interval | None]


def target_score(arm: Arm) -> Interval | None:
    """Score on the target task, in percent."""
    return Interval(*(100 * part for part in arm.target.score)) if arm.target else None


def forgetting(arm: Arm) -> Interval | None:
    """Mean change of the other tasks, in points; 0 for the base."""
    return Interval(0.0, 0.0, 0.0) if arm.is_base else arm.others_change


def kept_share(arm: Arm) -> Interval | None:
    """Kept share of response tokens, in percent; counted, so without an interval."""
    return None if arm.is_base else Interval(100 * arm.kept_fraction, math.nan, math.nan)


def draw_dose_response(arms: Sequence[Arm]) -> Figure:
    """Target score and forgetting side by side: the picture of the finding."""
    axis = choose_axis(arms)
    panels = [(target_score, f"{_target_name(arms)}, % (target)"), (forgetting, "other tasks, points vs base")]
    if axis.is_categorical and needs_rows(list(axis.places)):
        return draw_forest(arms, panels)
    figure = new_figure(2 * WIDTH * 0.9, HEIGHT * 1.05, 2)
    for axes, (quantity, title) in zip(figure.axes, panels, strict=True):
        _draw(axes, arms, axis, quantity, title)
    _legend(figure, columns=4)
    return figure


def draw_quantity(arms: Sequence[Arm], quantity: Quantity, title: str) -> Figure:
    """One quantity of every arm against the swept axis."""
    axis = choose_axis(arms)
    if axis.is_categorical and needs_rows(list(axis.places)):
        return draw_forest(arms, [(quantity, title)])
    figure = new_figure(WIDTH, HEIGHT, 1)
    _draw(figure.axes[0], arms, axis, quantity, title)
    _legend(figure, columns=2)
    return figure


def draw_curves(arms: Sequence[Arm], key: str, title: str) -> Figure | None:
    """A metric over optimiser steps, one line an arm (mean over its seeds); None where no run logged it."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(WIDTH, HEIGHT, 1)
    axes = figure.axes[0]
    trained = [arm for arm in arms if not arm.is_base]
    drawn = 0
    for arm, (colour, dashes) in zip(trained, _line_styles(trained), strict=True):
        steps, values = mean_curve([run.folder for run in arm.runs], key)
        if len(steps) == 0:
            continue
        smoothed = smooth(values) if key.startswith("train/") else values
        marker = UNMASKED_MARKER if arm.rule == "none" else MARKERS[drawn % len(MARKERS)]
        axes.plot(
            steps,
            smoothed,
            color=colour,
            linestyle=dashes,
            marker=marker,
            markersize=3.5,
            markevery=max(1, len(steps) // 8),
            linewidth=1.4,
            label=textwrap.fill(arm.label, _LEGEND_COLUMNS).replace("$", r"\$"),
        )
        drawn += 1
    if drawn == 0:
        return None
    if all(len(line.get_xdata()) == 1 for line in axes.lines):  # type: ignore[arg-type]  # one validation: no range
        axes.set_xlim(left=0)
    axes.set_xlabel("optimiser step")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.set_ylabel(title)
    widest = max(len(arm.label) for arm in trained)
    columns = max(1, min(4, 50 // (widest + 5)))
    if drawn > MAX_LEGEND:  # a search: the lines are a cloud, and their names a wall
        axes.set_title(f"{drawn} arms", fontsize=9)
        return figure
    rows = -(-drawn // columns) * (1 + (widest - 1) // _LEGEND_COLUMNS)
    figure.set_figheight(HEIGHT + _LEGEND_ROW * max(0, rows - _ROWS_THAT_FIT))
    figure.legend(loc="outside lower center", fontsize=8, frameon=False, ncols=columns)
    return figure


def _draw(axes: Axes, arms: Sequence[Arm], axis: Axis, quantity: Quantity, title: str) -> None:
    for arm in arms:
        value = quantity(arm)
        if arm.is_base and value is not None and math.isfinite(value.value):
            axes.axhline(
                value.value,
                color="#555555",
                linestyle=(0, (5, 3)),
                linewidth=1.2,
                label=arm.label.replace("$", r"\$"),
                zorder=1,
            )
            if value.high > value.low:
                axes.axhspan(value.low, value.high, color="#555555", alpha=0.08, linewidth=0, zorder=0)
    names = [name for name in axis.series if name != "unmasked"]
    styles = _series_styles(list(axis.series))
    for name, members in axis.series.items():
        number = names.index(name) if name in names else 0
        points = [(axis.place(arm), interval) for arm in members if (interval := quantity(arm)) is not None]
        points = sorted((x, interval) for x, interval in points if math.isfinite(interval.value))
        if not points:
            continue
        colour, marker = styles[name]
        x = [axis.shifted(x, number) for x, _ in points]
        y = [interval.value for _, interval in points]
        errors = list(zip(*(_arms_of_error_bar(interval) for _, interval in points), strict=True))
        line = "none" if axis.is_categorical or axis.is_scatter or len(points) == 1 else "-"
        axes.errorbar(x, y, yerr=errors, color=colour, marker=marker, markersize=5, linestyle=line, linewidth=1.5,
                      capsize=3, elinewidth=1.1, label=name.replace("$", r"\$") or None, zorder=3)  # fmt: skip
    axis.apply(axes)
    axes.set_ylabel(title)


def _arms_of_error_bar(interval: Interval) -> tuple[float, float]:
    below, above = interval.value - interval.low, interval.high - interval.value
    return tuple(max(0.0, length) if math.isfinite(length) else 0.0 for length in (below, above))  # type: ignore[return-value]


def _series_styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each series: of one setting the colour tells rules apart, of several it tells settings.

    No two share a marker, but for the unmasked arms, which are single points.
    """
    settings = list(dict.fromkeys(name.partition(", ")[2] for name in names))
    others = [name for name in names if name.partition(", ")[0] != "unmasked"]
    styles = {}
    for name in names:
        is_unmasked = name not in others
        marker = UNMASKED_MARKER if is_unmasked else MARKERS[others.index(name) % len(MARKERS)]
        if len(settings) > 1:
            colour = PALETTE[settings.index(name.partition(", ")[2]) % len(PALETTE)]
        else:
            colour = UNMASKED if is_unmasked else PALETTE[others.index(name) % len(PALETTE)]
        styles[name] = colour, marker
    return styles


def _legend(figure: Figure, *, columns: int) -> None:
    """Below the axes: inside, it would hide error bars."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    if len(unique) > 1:
        rows = list(unique.values()), list(unique.keys())
        figure.legend(*rows, loc="outside lower center", fontsize=8.5, frameon=False, ncols=columns)


def _target_name(arms: Sequence[Arm]) -> str:
    names = {arm.target_task for arm in arms if arm.target_task}
    return names.pop() if len(names) == 1 else "target"


def _line_styles(arms: Sequence[Arm]) -> list[tuple[Any, Any]]:
    """Unmasked is vermilion; thresholds go from dark to light in their order, other arms through the palette."""
    import matplotlib as mpl

    ordered = [arm for arm in arms if arm.rule == "high_ppl"]
    ramp = mpl.colormaps["viridis"]
    styles: list[tuple[Any, Any]] = []
    others = 0
    for arm in arms:
        if arm.rule == "none" and sum(other.rule == "none" for other in arms) == 1:
            styles.append((UNMASKED, "-"))
        elif arm.rule == "high_ppl" and len(ordered) > 1:
            place = ordered.index(arm)
            styles.append(
                (ramp(0.75 * place / (len(ordered) - 1)), ("-", "--", ":")[place % 3] if len(ordered) > 4 else "-")
            )
        else:
            styles.append((PALETTE[others % len(PALETTE)], ("-", "--", "-.", ":")[others // len(PALETTE) % 4]))
            others += 1
    return styles
