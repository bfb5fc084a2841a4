"""The search's part of the page: its best trials, a figure, all trials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokensieve.report.figure import HEIGHT, WIDTH, new_figure, to_svg
from tokensieve.report.load import Sweep
from tokensieve.report.plots import PALETTE, UNMASKED
from tokensieve.report.search import Search, Trial, describe, read_search, trial_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def search_section(sweep: Sweep) -> dict[str, Any] | None:
    """What search.html.j2 shows; None for a sweep of given values."""
    search = read_search(sweep)
    if search is None:
        return None
    header, best = trial_table(search, search.best)
    _, every = trial_table(search, search.trials)
    return {
        "title": search.best_title,
        "header": header,
        "best": best,
        "trials": list(zip(search.trials, every, strict=True)),
        "notes": describe(search),
        "figure": _inline(search),
    }


def _inline(search: Search) -> tuple[Any, str] | None:
    from markupsafe import Markup

    finished = [trial for trial in search.trials if trial.values is not None]
    if not finished:
        return None
    if len(search.objectives) > 1:
        caption = "Every finished trial, on validation items. The line joins the Pareto set; numbers are of trials."
        return Markup(to_svg(draw_pareto(search), caption, "pareto")), caption
    caption = "Every finished trial in its order, on validation items. The line is the best so far."
    return Markup(to_svg(draw_course(search), caption, "course")), caption


def draw_pareto(search: Search) -> Figure:
    """The first objective against the second."""
    figure = new_figure(WIDTH, HEIGHT, 1)
    axes = figure.axes[0]
    first, second = list(search.objectives)[:2]
    others = [trial for trial in search.trials if trial.values is not None and not trial.is_best]
    axes.plot(*_points(others), "o", color="#999999", markersize=4, label="other trials", zorder=2)
    best = sorted(search.best, key=lambda trial: _values(trial)[1])
    axes.plot(*_points(best), "o-", color=UNMASKED, markersize=6, linewidth=1.3, label="Pareto set", zorder=3)
    for trial in best:
        values = _values(trial)
        axes.annotate(str(trial.number), (values[1], values[0]), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel(f"{second} ({_better(search, second)})")
    axes.set_ylabel(f"{first} ({_better(search, first)})")
    axes.legend(loc="best", fontsize=8.5, frameon=False)
    return figure


def draw_course(search: Search) -> Figure:
    """The one objective by trial, and the best so far."""
    figure = new_figure(WIDTH, HEIGHT, 1)
    axes = figure.axes[0]
    [(name, kind)] = search.objectives.items()
    finished = [trial for trial in search.trials if trial.values is not None]
    numbers, values = [trial.number for trial in finished], [_values(trial)[0] for trial in finished]
    axes.plot(numbers, values, "o", color="#999999", markersize=4, label="trials")
    choose = max if kind == "max" else min
    so_far = [choose(values[: place + 1]) for place in range(len(values))]
    axes.plot(numbers, so_far, "-", drawstyle="steps-post", color=PALETTE[0], linewidth=1.5, label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(f"{name} ({_better(search, name)})")
    axes.legend(loc="best", fontsize=8.5, frameon=False)
    return figure


def _better(search: Search, name: str) -> str:
    return "more is better" if search.objectives[name] == "max" else "less is better"


def _points(trials: list[Trial]) -> tuple[list[float], list[float]]:
    return [_values(trial)[1] for trial in trials], [_values(trial)[0] for trial in trials]


def _values(trial: Trial) -> tuple[float, ...]:
    assert trial.values is not None
    return trial.values
