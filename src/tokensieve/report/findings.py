"""What a sweep says, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from tokensieve.report.arms import Arm
from tokensieve.report.table import change_cell
from tokensieve.statistics import Interval


def findings(arms: Sequence[Arm]) -> Iterator[str]:
    """Sentences over all arms; none of them singles out the best one, which the same items would flatter."""
    for arm in [arm for arm in arms if arm.rule == "none"][:3]:
        num_others = sum(arm.tasks[task].num_items for task in arm.other_tasks)
        others = f", and the other tasks by {_points(arm.others_change)} (n = {num_others})" if num_others else ""
        is_plain = arm.label == "unmasked"
        name = "Training on every token" if is_plain else f"Training without a mask ({arm.label})"
        if math.isfinite(arm.target_change.value):
            yield f"{name} moved {arm.target_task} by {_points(arm.target_change)}{_n(arm)} against the base{others}."
    # An arm that is the same training as another one is one finding, not two.
    trainings = {frozenset(run.job_id for run in arm.runs): arm for arm in reversed(arms) if not arm.is_base}
    masked = [arm for arm in trainings.values() if arm.rule != "none"]
    compared = [arm.against_unmasked for arm in masked if arm.against_unmasked is not None]
    on_target = [target for target, _ in compared if math.isfinite(target.low)]
    if on_target:
        yield f"Against unmasked training, {_count(on_target, 'scored higher on the target', 'lower')}."
    on_others = [others for _, others in compared if math.isfinite(others.low)]
    if on_others:
        yield f"Against unmasked training, {_count(on_others, 'forgot less on the other tasks', 'more')}."
    improved = [arm.target_change for arm in masked if math.isfinite(arm.target_change.low)]
    if improved:
        yield f"Against the base, {_count(improved, 'scored higher on the target', 'lower')}."


def _n(arm: Arm) -> str:
    """Items of the target and, where there are several, seeds."""
    seeds = f" items x {len(arm.seeds)} seeds" if len(arm.seeds) > 1 else ""
    return f" (n = {arm.target.num_items}{seeds})" if arm.target is not None else ""


def _count(intervals: Sequence[Interval], above: str, below: str) -> str:
    num_above, num_below = sum(one.low > 0 for one in intervals), sum(one.high < 0 for one in intervals)
    unclear = len(intervals) - num_above - num_below
    arms = "masked arm" if len(intervals) == 1 else "masked arms"
    text = f"{num_above} of {len(intervals)} {arms} {above}, {num_below} {below}"
    return text + (f"; {unclear} undecided (the 95 % interval holds 0)" if unclear else "")


def _points(interval: Interval) -> str:
    number, bracket = change_cell(interval)
    return f"{number} points {bracket}".strip()
