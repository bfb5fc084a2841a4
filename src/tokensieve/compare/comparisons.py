"""One row for each task and pair of arms: both scores, their difference, its test, and what could have been seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokensieve.compare.arms import ComparedArm, label_arms
from tokensieve.compare.pairing import PairedScores, RunPair, decoding_differences, pair_runs, pair_scores
from tokensieve.errors import DataError
from tokensieve.report.change import score_interval
from tokensieve.statistics import (
    Interval,
    adjust_p_values,
    compare_arms,
    detectable_difference,
    difference_p_value,
    mcnemar_test,
    seed_interval,
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """An arm against a reference on one task.

    Attributes:
        task: and its metric.
        metric: name of the mean of the item scores.
        arm: label.
        reference: label.
        num_items: N items with a score in every run; `num_dropped` had none somewhere.
        num_dropped: items left out.
        num_seeds: S paired runs.
        arm_score: in [0, 1], with its 95 % interval: Wilson for one seed, the wider of Wilson and t for several.
        reference_score: likewise.
        difference: points, arm - reference. One seed: paired bootstrap over items; several: over seeds and items.
        over_seeds: points, t-interval over the seeds' differences, the seed as the unit; NaN bounds for one seed.
        gained: items the arm scored higher on; with several seeds, counted over seeds and items together.
        lost: likewise lower.
        test: name of the test behind the p-values.
        p_value: two-sided, of no difference.
        adjusted_p_value: Holm's, over all comparisons that were made together.
        detectable: points: the true difference that would be found with 80 % power at 5 %.
    """

    task: str
    metric: str
    arm: str
    reference: str
    num_items: int
    num_dropped: int
    num_seeds: int
    arm_score: Interval
    reference_score: Interval
    difference: Interval
    over_seeds: Interval
    gained: int
    lost: int
    test: str
    p_value: float
    adjusted_p_value: float
    detectable: float


def compare(
    arms: Sequence[ComparedArm], *, tasks: Sequence[str] | None = None, all_pairs: bool = False
) -> tuple[list[Comparison], list[str]]:
    """Every arm against the first, or all against all, on every common task; and notes on what was left out.

    Args:
        arms: two or more.
        tasks: only these; None: all that both arms of a pair have.
        all_pairs: compare every two arms.

    Raises:
        DataError: fewer than two arms, no common task, or results that cannot be paired.
    """
    if len(arms) < 2:
        raise DataError("compare", "needs two arms", received=f"{len(arms)}", remedy="name another run, or base")
    arms = label_arms(arms)
    rows: list[Comparison] = []
    notes: list[str] = []
    last = len(arms) - 1 if all_pairs else 1
    for number, reference in enumerate(arms[:last]):
        for arm in arms[number + 1 :]:
            pairs, note = pair_runs(reference, arm)
            chosen, unshared = _common_tasks(pairs, tasks, f"{arm.label} against {reference.label}")
            notes += [note, unshared, *(decoding_differences(task, pairs) for task in chosen)]
            rows += [_compare_task(task, reference.label, arm.label, pairs) for task in chosen]
    adjusted = adjust_p_values({str(place): row.p_value for place, row in enumerate(rows)})
    return [replace(row, adjusted_p_value=adjusted[str(place)]) for place, row in enumerate(rows)], _distinct(notes)


def _common_tasks(pairs: Sequence[RunPair], wanted: Sequence[str] | None, who: str) -> tuple[list[str], str]:
    """Tasks that every run of the pair has, in the first's order, and a note on the others."""
    sides = [side for pair in pairs for side in (pair.reference, pair.arm)]
    every = list(dict.fromkeys(task for side in sides for task in side))
    common = [task for task in every if all(task in side for side in sides)]
    chosen = common if wanted is None else [task for task in common if task in wanted]
    missing = [task for task in wanted or () if task not in common]
    if missing or not chosen:
        raise DataError(
            who,
            "must have scores of the task in all runs" if missing else "must have a task in common",
            received=f"{', '.join(missing)}; common: {', '.join(common) or 'none'}"
            if missing
            else ", ".join(every) or "no task",
            remedy="evaluate the runs on the same tasks",
        )
    unshared = [task for task in every if task not in common] if wanted is None else []
    return chosen, f"{who}: not in all runs, and not compared: {', '.join(unshared)}." if unshared else ""


def _compare_task(task: str, reference: str, arm: str, pairs: Sequence[RunPair]) -> Comparison:
    scores = pair_scores(task, pairs)
    num_seeds, num_items = len(pairs), scores.arm[0].size
    counts = [mcnemar_test(after, before) for after, before in zip(scores.arm, scores.reference, strict=True)]
    means = [
        100 * float((after - before).mean())
        for after, before in zip(scores.arm, scores.reference, strict=True)
        if num_items
    ]
    return Comparison(
        task=task,
        metric=pairs[0].reference[task].metric,
        arm=arm,
        reference=reference,
        num_items=num_items,
        num_dropped=scores.num_dropped,
        num_seeds=num_seeds,
        arm_score=score_interval(scores.arm),
        reference_score=score_interval(scores.reference),
        difference=_points(compare_arms(scores.arm, scores.reference)),
        over_seeds=seed_interval(means),
        gained=sum(count.gained for count in counts),
        lost=sum(count.lost for count in counts),
        test="t, seeds and items" if num_seeds > 1 else "McNemar" if _is_binary(scores) else "sign",
        p_value=difference_p_value(scores.arm, scores.reference),
        adjusted_p_value=float("nan"),
        detectable=100 * detectable_difference(scores.arm, scores.reference),
    )


def _points(interval: Interval) -> Interval:
    return Interval(*(100 * value for value in interval))


def _is_binary(scores: PairedScores) -> bool:
    return all(bool(np.isin(entry, (0.0, 1.0)).all()) for entry in (*scores.arm, *scores.reference))


def _distinct(notes: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(note for note in notes if note))
