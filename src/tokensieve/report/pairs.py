"""Scores of two evaluations, item by item."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tokensieve.records import EvalResult
from tokensieve.report.change import Array, Pair


def pair_tasks(
    after: Sequence[Mapping[str, EvalResult]], before: Sequence[Mapping[str, EvalResult]], tasks: Sequence[str]
) -> list[list[Pair]]:
    """For each seed the pairs of `tasks`; a seed that lacks one has none, which leaves the change undefined."""
    return [
        [pair(one[task], other[task]) for task in tasks] if all(task in one and task in other for task in tasks) else []
        for one, other in zip(after, before, strict=True)
    ]


def scores_of(entry: EvalResult) -> Array:
    """Item scores as an array; an item without a score (null in the file) is NaN."""
    return np.array([math.nan if score is None else score for score in entry.item_scores], dtype=np.float64)


def scores_at(entry: EvalResult, item_ids: Sequence[str]) -> Array:
    """Scores of the items `item_ids`, in their order; NaN for those that `entry` lacks."""
    known = dict(zip(entry.item_ids, scores_of(entry).tolist(), strict=True))
    return np.array([known.get(name, math.nan) for name in item_ids], dtype=np.float64)


def pair(after: EvalResult, before: EvalResult) -> Pair:
    """Scores of the items that both have, in one order; items without a score in either are left out."""
    one, other = scores_of(after), scores_of(before)
    if list(after.item_ids) != list(before.item_ids):
        places = {name: place for place, name in enumerate(before.item_ids)}
        shared = [(place, places[name]) for place, name in enumerate(after.item_ids) if name in places]
        one, other = one[[ours for ours, _ in shared]], other[[theirs for _, theirs in shared]]
    known = np.isfinite(one) & np.isfinite(other)
    return one[known], other[known]


def target_first(evals: Sequence[EvalResult], target: str) -> list[EvalResult]:
    """The target task, then the others in their order."""
    return sorted(evals, key=lambda entry: entry.task != target)


def mean(values: Sequence[float]) -> float:
    """Mean of what is not NaN; NaN of nothing."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan
