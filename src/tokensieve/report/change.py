"""Intervals of what a training changed, over items and seeds, for one task or the mean of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from tokensieve.statistics import (
    Interval,
    compare_arms,
    detectable_difference,
    detectable_over_seeds,
    seed_interval,
    wilson_interval,
)

Array = npt.NDArray[np.float64]
Pair = tuple[Array, Array]  # scores after and before, of the same N items

UNDEFINED = Interval(math.nan, math.nan, math.nan)
NUM_SAMPLES = 10_000
_MAX_DRAWS = 20_000_000  # counts that one task may hold: 20 MB


def change_interval(seeds: Sequence[Sequence[Pair]], kind: Literal["points", "relative"]) -> Interval:
    """Mean over seeds of the mean over tasks of `after - before`, with a 95 % interval.

    One task in points is a comparison of two arms (`statistics.compare_arms`). Else, one seed: percentile bootstrap
    over items, paired, each task for itself; it says nothing about other seeds. Several: the wider of the t-interval
    over seeds and a bootstrap that draws seeds and, once for all of them, items (the seeds share their test items, so
    that more seeds do not make the items more).

    Args:
        seeds: for each seed one pair a task, tasks in the same order.
        kind: points: 100 * (after - before). relative: 100 * (after / before - 1), the papers' TI (one task) and BWT
            (all but the target); undefined (NaN) where a task's `before` is 0.

    >>> tuned, base = np.array([1.0, 1.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0, 1.0])
    >>> change_interval([[(tuned, base)]], "relative").value
    50.0
    """
    if not seeds or any(not pairs or any(after.size == 0 for after, _ in pairs) for pairs in seeds):
        return UNDEFINED
    values = [
        float(np.mean([_change(after.mean(), before.mean(), kind) for after, before in pairs])) for pairs in seeds
    ]
    if not all(math.isfinite(value) for value in values):
        return UNDEFINED
    if kind == "points" and all(len(pairs) == 1 for pairs in seeds) and _share_items(seeds):
        return Interval(*(100.0 * value for value in compare_arms(*_arms(seeds, 0), num_samples=NUM_SAMPLES)))
    draws = _draws(seeds, kind)
    if len(values) == 1:
        return Interval(values[0], *_percentiles(draws[0]))
    chosen = np.random.default_rng(0).integers(len(values), size=(NUM_SAMPLES, len(values)))
    low, high = _percentiles(draws[chosen, np.arange(NUM_SAMPLES)[:, None]].mean(axis=1))
    over_seeds = seed_interval(values)
    return Interval(over_seeds.value, min(low, over_seeds.low), max(high, over_seeds.high))


def detectable_change(seeds: Sequence[Sequence[Pair]]) -> float:
    """The true change in points that `change_interval` would find with 80 % power at 5 %; also where it saw none.

    One task: `statistics.detectable_difference`. Several: the tasks' own, taken as independent, or, where it is larger,
    that of the means over tasks with the seed as the unit (one training moves all tasks together). NaN where the items
    are not the same in all seeds.

    >>> flat = np.zeros(200)
    >>> round(detectable_change([[(flat, flat)]]), 1), round(detectable_change([[(flat, flat)] * 4]), 1)
    (3.9, 1.9)
    """
    if not seeds or not seeds[0] or len({len(pairs) for pairs in seeds}) > 1 or not _share_items(seeds):
        return math.nan
    tasks = range(len(seeds[0]))
    alone = [100.0 * detectable_difference(*_arms(seeds, task)) for task in tasks]
    found = math.sqrt(math.fsum(value**2 for value in alone)) / len(alone)
    if len(alone) == 1 or len(seeds) == 1 or not math.isfinite(found):
        return found
    means = [float(np.mean([(after - before).mean() for after, before in pairs])) for pairs in seeds]
    return max(found, 100.0 * detectable_over_seeds(means))


def score_interval(scores: Sequence[Array]) -> Interval:
    """Mean score in [0, 1] over seeds. One seed: Wilson. Several: the wider of the t-interval over seeds and Wilson
    at their mean with the items of one seed (all seeds answer the same items).

    >>> [round(bound, 2) for bound in score_interval([np.array([1.0, 0.0, 1.0, 1.0])])]
    [0.75, 0.3, 0.95]
    """
    if not scores or any(array.size == 0 for array in scores):
        return UNDEFINED
    means = [float(array.mean()) for array in scores]
    num_items = min(array.size for array in scores)
    over_items = wilson_interval(float(np.mean(means)) * num_items, num_items)
    if len(means) == 1 or not math.isfinite(over_items.value):
        return over_items
    over_seeds = seed_interval(means)
    low, high = min(over_items.low, over_seeds.low), max(over_items.high, over_seeds.high)
    return Interval(over_seeds.value, max(0.0, low), min(1.0, high))


def _share_items(seeds: Sequence[Sequence[Pair]]) -> bool:
    """Whether every seed has the same number of items of each task: a seed may lack the score of an item."""
    return len({tuple(after.size for after, _ in pairs) for pairs in seeds}) == 1


def _arms(seeds: Sequence[Sequence[Pair]], task: int) -> tuple[list[Array], list[Array]]:
    return [pairs[task][0] for pairs in seeds], [pairs[task][1] for pairs in seeds]


def _change(after: npt.ArrayLike, before: npt.ArrayLike, kind: str) -> Array:
    one, other = np.asarray(after, dtype=np.float64), np.asarray(before, dtype=np.float64)
    if kind == "points":
        return 100.0 * (one - other)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 100.0 * (one / other - 1.0)


def _draws(seeds: Sequence[Sequence[Pair]], kind: str) -> Array:
    """[seeds, NUM_SAMPLES] bootstrap values of each seed's mean change over its tasks."""
    totals = np.zeros((len(seeds), NUM_SAMPLES))
    for task in range(max(len(pairs) for pairs in seeds)):
        by_size: dict[int, list[int]] = {}
        for seed, pairs in enumerate(seeds):
            if task < len(pairs):
                by_size.setdefault(pairs[task][0].size, []).append(seed)
        for size, mine in by_size.items():
            counts = _resampling_counts(size, task)
            scores = np.stack([column for seed in mine for column in seeds[seed][task]], axis=1)
            # All seeds in one product: turning the counts into floating-point numbers is most of its cost.
            means = np.concatenate([chunk.astype(np.float64) @ scores for chunk in np.array_split(counts, 20)]) / size
            for seed, after, before in zip(mine, means.T[::2], means.T[1::2], strict=True):
                # Long tasks have fewer resamples, used over again: their own interval is that much narrower.
                totals[seed] += np.resize(_change(after, before, kind), NUM_SAMPLES) / len(seeds[seed])
    return totals


@lru_cache(maxsize=16)
def _resampling_counts(num_items: int, task: int) -> npt.NDArray[np.uint8]:
    """[draws, num_items] how often a draw takes each item: the same for every arm and seed, so that all are paired."""
    rng = np.random.default_rng((num_items, task))
    draws = max(500, min(NUM_SAMPLES, _MAX_DRAWS // num_items))
    counts = np.empty((draws, num_items), dtype=np.uint8)
    step = max(1, 1_000_000 // num_items)
    for start in range(0, draws, step):
        size = min(step, draws - start)
        items = rng.integers(num_items, size=(size, num_items)) + num_items * np.arange(size)[:, None]
        counts[start : start + size] = np.bincount(items.ravel(), minlength=size * num_items).reshape(size, num_items)
    return counts


def _percentiles(draws: Array) -> tuple[float, float]:
    finite = draws[np.isfinite(draws)]
    if finite.size == 0:
        return math.nan, math.nan
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(low), float(high)
