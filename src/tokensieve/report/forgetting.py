"""How well forgetting could have been foretold before any training: each predictor against what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from tokensieve.plain_table import align_lines
from tokensieve.report.arms import Arm
from tokensieve.report.load import Run, Sweep
from tokensieve.report.predictors import PREDICTORS, Foreknowledge, measure_predictors
from tokensieve.statistics import Interval
from tokensieve.statistics.rank_correlation import (
    Array,
    Group,
    correlate_ranks,
    correlate_without_each,
    leave_one_out_error,
)

if TYPE_CHECKING:
    import pandas as pd

MIN_MASKS: Final = 5
# Axes that change the data or its mask, which predictors see. Runs that differ in another one are taken apart.
_SEEN: Final = ("stm", "seed", "dataset", "variant", "noise")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One predictor against measured forgetting, over the runs of one setting of all that it cannot see.

    Attributes:
        settings: the swept values that these runs share (`optim.lr=1e-3`); empty where nothing else was swept.
        predictor: a key of `PREDICTORS`.
        num_runs: R runs, of A arms.
        num_arms: A; an arm's seeds share their mask.
        correlation: Spearman's over the runs, positive where more of the predictor goes with more forgetting; its
            interval draws whole arms.
        without_one: lowest and highest correlation when one arm is left out.
        error: points: each arm's mean forgetting foretold from the other arms by a monotone fit, mean absolute error.
        blind_error: points: the same, foretold as the other arms' mean.
    """

    settings: str
    predictor: str
    num_runs: int
    num_arms: int
    correlation: Interval
    without_one: tuple[float, float]
    error: float
    blind_error: float


@dataclass(frozen=True, slots=True)
class ForgettingStudy:
    """`runs`: the predictors of each run; `predictions`: how they did. Both empty for too few masks."""

    runs: Sequence[Foreknowledge] = ()
    predictions: Sequence[Prediction] = ()


def study_forgetting(sweep: Sweep, arms: Sequence[Arm]) -> ForgettingStudy:
    """Every predictor, where a sweep has runs on other tasks and at least five different masks.

    Forgetting of a run: the mean loss on the tasks that it was not trained for, in points against the base.
    """
    trained = [arm for arm in arms if not arm.is_base and arm.other_tasks]
    if max((_count_masks(group) for group in _by_settings(trained).values()), default=0) < MIN_MASKS:
        return ForgettingStudy()
    runs = measure_predictors(sweep)
    values = {found.run.job_id: found for found in runs}
    predictions = [
        prediction
        for settings, group in ((_describe(group[0]), group) for group in _by_settings(trained).values())
        if _count_masks(group) >= MIN_MASKS
        for name in PREDICTORS
        if (prediction := _assess(settings, name, group, values)) is not None
    ]
    if not any(math.isfinite(one.correlation.value) for one in predictions):  # nothing was masked, or all alike
        return ForgettingStudy()
    return ForgettingStudy(runs, predictions)


def forgetting_of(run: Run) -> float:
    """Points lost on the tasks beside the target, their mean; NaN where the run has no such task with a base score."""
    if run.result is None:
        return math.nan
    before = {entry.task: entry.value for entry in run.result.base_evals}
    lost = [
        100.0 * (before[entry.task] - entry.value)
        for entry in run.result.evals
        if entry.task != run.result.target_task and entry.task in before and entry.num_items
    ]
    return float(np.mean(lost)) if lost else math.nan


def tabulate_predictors(study: ForgettingStudy) -> pd.DataFrame:
    """One row a run: name, label of its arm, seed, the predictors, and the forgetting that was measured, in points."""
    import pandas as pd

    rows = [
        {"run": found.run.name, "arm": found.run.arm, "seed": found.run.seed, **found.run.axes, **found.values}
        | {"forgetting_points": forgetting_of(found.run)}
        for found in study.runs
    ]
    return pd.DataFrame(rows, columns=None if rows else ["run", "arm", "seed", *PREDICTORS, "forgetting_points"])


TITLES: Final = (
    "known before training",
    "Spearman with forgetting [95 %]",
    "one arm left out",
    "error, points",
    "error without it",
    "n = arms (runs)",
)


def cells(prediction: Prediction) -> list[str]:
    """The columns of `TITLES`."""
    correlation = prediction.correlation
    name = PREDICTORS[prediction.predictor] + (f" · {prediction.settings}" if prediction.settings else "")
    interval = f" [{_signed(correlation.low)}, {_signed(correlation.high)}]" if math.isfinite(correlation.low) else ""
    low, high = prediction.without_one
    return [
        name,
        _signed(correlation.value) + interval,
        f"{_signed(low)} to {_signed(high)}" if math.isfinite(low) else "-",
        _points(prediction.error),
        _points(prediction.blind_error),
        f"{prediction.num_arms} ({prediction.num_runs})",
    ]


def explain_predictions(study: ForgettingStudy) -> list[str]:
    """What the table says, and what it does not."""
    if not study.predictions:
        return []
    first = study.predictions[0]
    lines = [
        "Forgetting: points lost on the tasks beside the target, their mean. Above 0: the more, the more is forgotten.",
        "Intervals draw whole arms: seeds share a mask. Error: an arm's forgetting foretold from the other arms by a "
        "monotone fit; the predictor is worth something where that is below the error without it (the others' mean).",
        "KL: of the kept tokens as they are written, which is their NLL; a response token that is masked counts 0.",
    ]
    found = [one.correlation.value for one in study.predictions if one.settings == first.settings]
    if len(found) > 1 and all(map(math.isfinite, found)) and len({f"{abs(value):.6f}" for value in found}) == 1:
        lines.append(
            "All predictors put these arms into one order: only count-matched controls (random, low) tell them apart."
        )
    if len({one.num_arms for one in study.predictions if one.settings == first.settings}) > 1:
        lines.append("Rows of fewer arms lack those that have no such number: compare rows of one n.")
    if any(not math.isfinite(prediction.correlation.value) for prediction in study.predictions):
        lines.append("-: the same in all runs, or no longer in the cache.")
    return lines


def predictor_lines(study: ForgettingStudy) -> list[str]:
    """The table as aligned text."""
    return align_lines([list(TITLES), *(cells(prediction) for prediction in study.predictions)])


def predictor_markdown(study: ForgettingStudy) -> str:
    """The table and its notes as Markdown; empty without predictions."""
    if not study.predictions:
        return ""
    rows = [f"| {' | '.join(text.replace('|', '/') for text in cells(one))} |" for one in study.predictions]
    head = ["", "**Forgetting, foretold before training**", "", f"| {' | '.join(TITLES)} |", "|---|" + "---:|" * 5]
    lines = [*head, *rows, "", *(f"{line}  " for line in explain_predictions(study))]
    return "\n".join(lines) + "\n"


def _describe(arm: Arm) -> str:
    """The settings that predictors cannot see, as far as the arm sets them itself."""
    return ", ".join(f"{key}={value}" for key, value in arm.given_axes.items() if key.partition(".")[0] not in _SEEN)


def _by_settings(arms: Iterable[Arm]) -> dict[str, list[Arm]]:
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        unseen = [f"{key}={value}" for key, value in arm.axes.items() if key.partition(".")[0] not in _SEEN]
        groups.setdefault(", ".join(unseen), []).append(arm)
    return groups


def _count_masks(arms: Iterable[Arm]) -> int:
    """Arms that kept different tokens: two rules with one mask are one point."""
    return len({frozenset(_mask_of(run) for run in arm.runs) for arm in arms})


def _mask_of(run: Run) -> str:
    """What was trained tells masks apart better than their stamps: equal content trains once."""
    stamps = run.result.stamps if run.result else {}
    return stamps.get("fit") or stamps.get("mask") or run.job_id


def _assess(settings: str, name: str, arms: Sequence[Arm], known: dict[str, Foreknowledge]) -> Prediction | None:
    """None where no run of these arms has the predictor."""
    groups: dict[frozenset[str], Group] = {}
    for arm in arms:
        points = [(known[run.job_id].values[name], forgetting_of(run)) for run in arm.runs if run.job_id in known]
        points = [point for point in points if all(math.isfinite(value) for value in point)]
        if points:
            x, y = (np.array(side, dtype=np.float64) for side in zip(*points, strict=True))
            groups.setdefault(frozenset(_mask_of(run) for run in arm.runs), (x, y))
    found: list[tuple[Array, Array]] = list(groups.values())
    if len(found) < MIN_MASKS:
        return None
    return Prediction(
        settings=settings,
        predictor=name,
        num_runs=sum(x.size for x, _ in found),
        num_arms=len(found),
        correlation=correlate_ranks(found),
        without_one=correlate_without_each(found),
        error=(errors := leave_one_out_error(found))[0],
        blind_error=errors[1],
    )


def _signed(value: float) -> str:
    return f"{value:+.2f}" if math.isfinite(value) else "-"


def _points(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "-"
