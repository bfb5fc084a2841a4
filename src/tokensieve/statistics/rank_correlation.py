"""Rank correlation over groups of runs that share their predictor: what a group says counts once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tokensieve.statistics.intervals import Interval

Array = npt.NDArray[np.float64]
Group = tuple[Array, Array]  # predictor and outcome of the runs of one group
MIN_GROUPS = 3


def correlate_ranks(
    groups: Sequence[Group], *, num_samples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Spearman's correlation over all runs, with a percentile bootstrap interval that draws whole groups.

    The seeds of an arm share its mask, and so its predictor: as independent points they would feign certainty. NaN
    where the correlation is undefined (fewer than `MIN_GROUPS` groups, or one side constant). A resample in which it
    is undefined is left out.

    >>> points = [(np.array([x]), np.array([x**3])) for x in (1.0, 2.0, 3.0, 4.0)]
    >>> [round(value, 6) for value in correlate_ranks(points)]
    [1.0, 1.0, 1.0]
    """
    value = spearman(groups)
    if len(groups) < MIN_GROUPS or not math.isfinite(value):
        return Interval(math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(groups), size=(num_samples, len(groups)))
    values = np.array([spearman([groups[number] for number in numbers]) for numbers in drawn])
    known = values[np.isfinite(values)]
    if known.size == 0:
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def correlate_without_each(groups: Sequence[Group]) -> tuple[float, float]:
    """Lowest and highest Spearman correlation when one group at a time is left out; NaN as `correlate_ranks`."""
    if len(groups) <= MIN_GROUPS:
        return math.nan, math.nan
    values = [spearman([*groups[:place], *groups[place + 1 :]]) for place in range(len(groups))]
    known = [value for value in values if math.isfinite(value)]
    return (min(known), max(known)) if known else (math.nan, math.nan)


def leave_one_out_error(groups: Sequence[Group]) -> tuple[float, float]:
    """Mean absolute error of each group's mean outcome, foretold from the other groups: by the predictor; without it.

    The predictor's forecast is a monotone fit (isotonic, in the direction that the other groups' correlation has) at
    the group's place, level beyond their range. Without it the forecast is the mean of the other groups. In the unit
    of the outcome; NaN for fewer than `MIN_GROUPS` + 1 groups or a predictor that is not finite.

    >>> points = [(np.array([x]), np.array([10 * x])) for x in (1.0, 2.0, 3.0, 4.0)]
    >>> leave_one_out_error(points)
    (5.0, 13.333333333333334)
    """
    means = [(float(x.mean()), float(y.mean())) for x, y in groups]
    if len(means) <= MIN_GROUPS or not all(math.isfinite(x) and math.isfinite(y) for x, y in means):
        return math.nan, math.nan
    informed, blind = [], []
    for place, (x, y) in enumerate(means):
        others = [*means[:place], *means[place + 1 :]]
        informed.append(abs(_forecast(others, x) - y))
        blind.append(abs(float(np.mean([value for _, value in others])) - y))
    return float(np.mean(informed)), float(np.mean(blind))


def spearman(groups: Sequence[Group]) -> float:
    """Spearman's correlation of all points of `groups`; NaN where one side is constant."""
    from scipy import stats

    x, y = (np.concatenate([group[side] for group in groups]) for side in (0, 1))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return math.nan
    ranks = stats.rankdata(np.stack([x, y]), axis=1)
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    spread = np.sqrt((centred**2).sum(axis=1)).prod()
    return float((centred[0] * centred[1]).sum() / spread) if spread > 0 else math.nan


def _forecast(points: Sequence[tuple[float, float]], at: float) -> float:
    """The monotone fit of `points` at `at`; their mean where they show no direction."""
    from scipy.optimize import isotonic_regression

    direction = spearman([(np.array([x]), np.array([y])) for x, y in points])
    places, outcomes = np.array(points).T
    if not math.isfinite(direction) or direction == 0:
        return float(outcomes.mean())
    distinct, which, counts = np.unique(places, return_inverse=True, return_counts=True)
    averages = np.bincount(which, weights=outcomes) / counts
    fit = isotonic_regression(averages, weights=counts.astype(np.float64), increasing=direction > 0)
    return float(np.interp(at, distinct, fit.x))
