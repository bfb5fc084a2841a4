"""Intervals and effect sizes: scores of items, differences of arms, and means over seeds.

TI and BWT are those of STM (arXiv 2501.14315): relative changes in percent, so a task with a low base weighs more.
`..._points` are plain differences of scores in percentage points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Scores = Sequence[float] | npt.NDArray[np.float64]
_CHUNK_VALUES = 4_000_000  # of a resampled table held at once: 32 MB


class Interval(NamedTuple):
    """An estimate and its 95 % interval (or another level, where the caller asked). NaN where undefined."""

    value: float
    low: float
    high: float


def wilson_interval(successes: float, num_items: int, *, level: float = 0.95) -> Interval:
    """Wilson score interval of a proportion; fractional successes (a mean of scores in [0, 1]) are allowed.

    >>> [round(bound, 4) for bound in wilson_interval(8, 10)]
    [0.8, 0.4902, 0.9433]
    """
    from statsmodels.stats.proportion import proportion_confint

    if num_items == 0:
        return Interval(math.nan, math.nan, math.nan)
    low, high = proportion_confint(successes, num_items, alpha=1 - level, method="wilson")
    return Interval(successes / num_items, float(low), float(high))


def paired_bootstrap(
    after: Scores, before: Scores, *, num_samples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Mean of `after - before` over the same N items, with its percentile bootstrap interval over items.

    Raises:
        ValueError: the two do not hold the same number of items.

    >>> paired_bootstrap([1, 1, 0, 1], [1, 1, 0, 1])
    Interval(value=0.0, low=0.0, high=0.0)
    """
    differences = _difference(after, before)
    if differences.size == 0:
        return Interval(math.nan, math.nan, math.nan)
    return _bootstrap_mean(differences, num_samples, level, np.random.default_rng(seed))


def seed_interval(values: Sequence[float], *, level: float = 0.95) -> Interval:
    """Mean over seeds with its t-interval; NaN values are left out, and one value has no interval.

    >>> [round(bound, 3) for bound in seed_interval([0.5, 0.6, 0.7])]
    [0.6, 0.352, 0.848]
    """
    from scipy import stats

    known = np.asarray([value for value in values if not math.isnan(value)], dtype=np.float64)
    if known.size == 0:
        return Interval(math.nan, math.nan, math.nan)
    mean = float(known.mean())
    if known.size == 1:
        return Interval(mean, math.nan, math.nan)
    half = float(stats.t.ppf((1 + level) / 2, known.size - 1) * known.std(ddof=1) / math.sqrt(known.size))
    return Interval(mean, mean - half, mean + half)


def compare_arms(
    after: Sequence[Scores], before: Sequence[Scores], *, num_samples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Difference of two arms, each a list of item scores by seed; pairs share their seed and their items.

    One seed: `paired_bootstrap` over items, which says nothing about other seeds. Several: a hierarchical bootstrap
    that draws seeds and then, within each, items; with the few seeds of a sweep its interval is the wider of itself
    and the t-interval over the seeds' means, as a bootstrap over two to five units is too narrow.

    Raises:
        ValueError: the arms differ in seeds or items, or there are none.

    >>> compare_arms([[1, 1], [1, 0]], [[0, 0], [0, 0]]).value
    0.75
    """
    if len(after) != len(before) or not after:
        raise ValueError(f"arms need the same seeds, at least one; got {len(after)} and {len(before)}")
    pairs = [_difference(one, other) for one, other in zip(after, before, strict=True)]
    if any(pair.size == 0 for pair in pairs):
        return Interval(math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    if len(pairs) == 1:
        return _bootstrap_mean(pairs[0], num_samples, level, rng)
    # Draw, for each seed, means of resampled items; then draw seeds among them.
    means = np.stack([_resampled_means(pair, num_samples * len(pairs), rng) for pair in pairs])
    drawn = rng.integers(len(pairs), size=(num_samples, len(pairs)))
    columns = np.arange(num_samples * len(pairs)).reshape(num_samples, len(pairs))
    low, high = _percentiles(means[drawn, columns].mean(axis=1), level)
    over_seeds = seed_interval([float(pair.mean()) for pair in pairs], level=level)
    return Interval(over_seeds.value, min(low, over_seeds.low), max(high, over_seeds.high))


def target_improvement(after: float, before: float) -> float:
    """TI: 100 * (after / before - 1), in percent; NaN when the base scores 0.

    >>> round(target_improvement(0.6111, 0.5926), 2)
    3.12
    """
    return 100.0 * (after / before - 1.0) if before > 0 else math.nan


def backward_transfer(after: Mapping[str, float], before: Mapping[str, float]) -> float:
    """BWT: the mean over non-target tasks of 100 * (after / before - 1), in percent; negative is forgetting.

    NaN when there is no task, or when the base scores 0 on one of them (its relative change is undefined).

    Raises:
        ValueError: the two do not hold the same tasks.

    >>> bases = {"math": 0.281, "arc": 0.7474, "gsm8k": 0.5845, "bird": 0.1389}  # arXiv 2501.14315, T12, Gemma-2-2B
    >>> tuned = {"math": 0.298, "arc": 0.7483, "gsm8k": 0.5641, "bird": 0.1375}  # trained on MBPP with STM
    >>> round(backward_transfer(tuned, bases), 2)
    0.42
    """
    _require_same_tasks(after, before)
    return _mean([target_improvement(after[task], before[task]) for task in before])


def backward_transfer_points(after: Mapping[str, float], before: Mapping[str, float]) -> float:
    """Mean over non-target tasks of `after - before`, in percentage points; NaN when there is no task.

    >>> round(backward_transfer_points({"a": 0.5, "b": 0.9}, {"a": 0.6, "b": 0.9}), 6)
    -5.0
    """
    _require_same_tasks(after, before)
    return _mean([100.0 * (after[task] - before[task]) for task in before])


def _require_same_tasks(after: Mapping[str, float], before: Mapping[str, float]) -> None:
    if set(after) != set(before):
        raise ValueError(f"tasks differ: {sorted(after)} and {sorted(before)}")


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _difference(after: Scores, before: Scores) -> npt.NDArray[np.float64]:
    one, other = np.asarray(after, dtype=np.float64), np.asarray(before, dtype=np.float64)
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(f"paired scores must align; got shapes {one.shape} and {other.shape}")
    return one - other


def _bootstrap_mean(
    values: npt.NDArray[np.float64], num_samples: int, level: float, rng: np.random.Generator
) -> Interval:
    return Interval(float(values.mean()), *_percentiles(_resampled_means(values, num_samples, rng), level))


def _resampled_means(
    values: npt.NDArray[np.float64], num_samples: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Means of `num_samples` resamples of N values, drawn as counts of the distinct values: O(distinct), not O(N).

    Differences of 0/1 scores have three distinct values, so 10 000 resamples take about a millisecond.
    """
    distinct, counts = np.unique(values, return_counts=True)
    step = max(1, _CHUNK_VALUES // distinct.size)
    drawn = [
        rng.multinomial(values.size, counts / values.size, size=min(step, num_samples - start)) @ distinct
        for start in range(0, num_samples, step)
    ]
    return np.concatenate(drawn) / values.size


def _percentiles(samples: npt.NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
