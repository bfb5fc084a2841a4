"""Two arms on the same items: their difference over items and seeds, its test, and what could have been seen.

Seeds and items are crossed: every seed answers the same items, so that more seeds do not make the items more. A mean
difference d over S seeds and N items therefore has the variance (two-way random effects, one value in each cell)

    Var(d) = (MS_seeds + MS_items - MS_rest) / (S * N)

with the mean squares of seeds, of items and of what is left. Its degrees of freedom are Satterthwaite's. When all seeds
agree this is the variance over items; when items have nothing in common it is the variance over the seeds' means. With
two or three seeds its degrees of freedom are themselves uncertain, so that the t-interval over the seeds' means, with
the seed as the unit, counts as well: the wider of the two is given, and the larger p-value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tokensieve.statistics.intervals import Interval, Scores, paired_bootstrap, subtract_scores


class PairedTest(NamedTuple):
    """Items that got better and worse, and the two-sided p-value of "as many as each other"."""

    gained: int
    lost: int
    p_value: float


class _Error(NamedTuple):
    value: float  # standard error of the mean
    freedom: float  # its degrees of freedom


def compare_arms(
    after: Sequence[Scores], before: Sequence[Scores], *, num_samples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Mean of `after - before` over S seeds, each with the same N items in the same order, with its interval.

    One seed: `paired_bootstrap` over items, which says nothing about other seeds. Several: the wider of the t-interval
    of the crossed design, for new seeds and new items, and of that over the seeds' means.

    Raises:
        ValueError: the arms differ in seeds or items, the seeds differ in their number of items, or there is no seed.

    >>> [round(bound, 3) for bound in compare_arms([[1, 1, 0, 1], [1, 1, 0, 1]], [[0, 0, 0, 1], [0, 0, 0, 1]])]
    [0.5, -0.419, 1.419]
    """
    from scipy import stats

    table = _subtract(after, before)
    if table.shape[1] == 0:
        return Interval(math.nan, math.nan, math.nan)
    if len(table) == 1:
        return paired_bootstrap(after[0], before[0], num_samples=num_samples, level=level, seed=seed)
    mean = float(table.mean())
    half = max(float(stats.t.ppf((1 + level) / 2, freedom)) * error for error, freedom in _errors(table))
    return Interval(mean, mean - half, mean + half)


def mcnemar_test(after: Scores, before: Scores) -> PairedTest:
    """Exact McNemar test of two arms on the same items; on scores other than 0 and 1 it is the exact sign test.

    For one seed. Items of several seeds must not be pooled: they are the same items.

    Raises:
        ValueError: the two do not hold the same number of items.

    >>> gained, lost, p_value = mcnemar_test([1] * 9 + [0], [0] * 8 + [1, 1])
    >>> gained, lost, round(p_value, 4)
    (8, 1, 0.0391)
    """
    from scipy import stats

    differences = subtract_scores(after, before)
    gained, lost = int((differences > 0).sum()), int((differences < 0).sum())
    p_value = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return PairedTest(gained, lost, p_value)


def difference_p_value(after: Sequence[Scores], before: Sequence[Scores]) -> float:
    """Two-sided p-value of "the arms do not differ": exact McNemar for one seed, the t-test of `compare_arms` for more.

    Raises:
        ValueError: as `compare_arms`.

    >>> round(difference_p_value([[1, 1, 0, 1]] * 2, [[0, 0, 0, 1]] * 2), 3)
    0.182
    """
    from scipy import stats

    table = _subtract(after, before)
    if table.shape[1] == 0:
        return math.nan
    if len(table) == 1:
        return mcnemar_test(after[0], before[0]).p_value
    mean = abs(float(table.mean()))
    if mean == 0:
        return 1.0
    return max(float(2 * stats.t.sf(mean / error, freedom)) if error > 0 else 0.0 for error, freedom in _errors(table))


def minimum_detectable_difference(
    discordant_fraction: float, num_items: int, *, level: float = 0.95, power: float = 0.8
) -> float:
    """Smallest true difference of two arms on the same N items that a McNemar test finds with the given power.

    With the share d of items on which the arms differ (Connor 1987): the difference x solves

        x = z(level) * sqrt(d / N) + z(power) * sqrt((d - x^2) / N)

    In the unit of the scores (0.03 is three points). Where x would exceed d, more items must differ for it to be seen:
    d is then x itself. NaN without items, and where no difference up to 1 can be seen. The formula is of large
    samples; take it as a guide below some 30 items.

    >>> round(minimum_detectable_difference(0.2, 500), 4)
    0.0559

    Raises:
        ValueError: the share is not in [0, 1].
    """
    from scipy import stats

    if not 0 <= discordant_fraction <= 1:
        raise ValueError(f"a share of items is in [0, 1]; got {discordant_fraction}")
    if num_items == 0:
        return math.nan
    error = 1 / math.sqrt(num_items)
    known, wanted = (error * float(stats.norm.ppf(chance)) for chance in ((1 + level) / 2, power))
    # (x - known * sqrt(d))^2 = wanted^2 * (d - x^2), solved for x
    square = 1 + wanted**2
    root = square * wanted**2 * discordant_fraction - (known * wanted) ** 2 * discordant_fraction
    found = (known * math.sqrt(discordant_fraction) + math.sqrt(max(0.0, root))) / square
    if 0 < found <= discordant_fraction:
        return found
    found = min(1.0, (known + wanted) ** 2)
    for _ in range(50):  # x = (known + wanted * sqrt(1 - x))^2
        found = min(1.0, (known + wanted * math.sqrt(1 - found)) ** 2)
    return found if found < 1 else math.nan


def detectable_difference(
    after: Sequence[Scores], before: Sequence[Scores], *, level: float = 0.95, power: float = 0.8
) -> float:
    """Minimum detectable difference of a comparison as it was made, in the unit of the scores.

    One seed: `minimum_detectable_difference` with the measured share of differing items; of scores that are not all 0
    or 1, the normal approximation with their measured spread. Several: t(level) + t(power)
    standard errors of `compare_arms`, and at least what that many answers could show if almost none differed; where
    none did (an interval of no width), the seeds have said one thing, and only the items count.

    Raises:
        ValueError: as `compare_arms`.

    >>> base = [0.0] * 60 + [1.0] * 40
    >>> round(detectable_difference([[1.0] * 10 + [0.0] * 55 + [1.0] * 35], [base]), 3)
    0.107
    """
    from scipy import stats

    table = _subtract(after, before)
    num_items = table.shape[1]
    if num_items == 0:
        return math.nan
    if len(table) == 1 and not np.isin(table, (-1.0, 0.0, 1.0)).all():
        z = stats.norm.ppf((1 + level) / 2) + stats.norm.ppf(power)
        return float(z * table[0].std(ddof=1) / math.sqrt(num_items)) if num_items > 1 else math.nan
    if len(table) == 1:
        return minimum_detectable_difference(float((table[0] != 0).mean()), num_items, level=level, power=power)
    found = max(
        float(stats.t.ppf((1 + level) / 2, freedom) + stats.t.ppf(power, freedom)) * error
        for error, freedom in _errors(table)
    )
    least = minimum_detectable_difference(0.0, table.size if found > 0 else num_items, level=level, power=power)
    return found if found > least or (found > 0 and math.isnan(least)) else least


def detectable_over_seeds(differences: Sequence[float], *, level: float = 0.95, power: float = 0.8) -> float:
    """Minimum detectable mean of S differences, one a seed, the seed as the unit; NaN for fewer than two.

    >>> round(detectable_over_seeds([0.01, 0.02, 0.03]), 4)
    0.031
    """
    from scipy import stats

    freedom = len(differences) - 1
    if freedom < 1:
        return math.nan
    quantiles = float(stats.t.ppf((1 + level) / 2, freedom) + stats.t.ppf(power, freedom))
    return quantiles * float(np.std(differences, ddof=1)) / math.sqrt(len(differences))


def _subtract(after: Sequence[Scores], before: Sequence[Scores]) -> npt.NDArray[np.float64]:
    """Differences [S, N]."""
    if len(after) != len(before) or not after:
        raise ValueError(f"arms need the same seeds, at least one; got {len(after)} and {len(before)}")
    rows = [subtract_scores(one, other) for one, other in zip(after, before, strict=True)]
    if len({row.size for row in rows}) > 1:
        raise ValueError(f"all seeds need the same items; got {[row.size for row in rows]} of them")
    return np.stack(rows)


def _errors(table: npt.NDArray[np.float64]) -> tuple[_Error, _Error]:
    """Errors of the mean of a table [S, N] of crossed seeds and items, S > 1: for both new; for new seeds."""
    num_seeds, num_items = table.shape
    by_seed, by_item = table.mean(axis=1), table.mean(axis=0)
    rest = table - by_seed[:, None] - by_item + table.mean()
    items_freedom = max(1, num_items - 1)
    seeds = num_items * float(by_seed.var(ddof=1))
    items = num_seeds * float(by_item.var(ddof=1)) if num_items > 1 else 0.0
    left = float((rest**2).sum()) / ((num_seeds - 1) * items_freedom)
    over_seeds = _Error(math.sqrt(seeds / table.size), num_seeds - 1)
    # Estimated components can be negative; the error is at least that of either way of sampling alone.
    total = max(seeds + items - left, seeds, items)
    if total <= 0:
        return over_seeds, over_seeds
    squares = seeds**2 / (num_seeds - 1) + items**2 / items_freedom + left**2 / ((num_seeds - 1) * items_freedom)
    return _Error(math.sqrt(total / table.size), max(1.0, total**2 / squares)), over_seeds
