"""The numbers of a run as stores show them, by their names there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from tokensieve.records import EvalResult, MaskStats


def evaluation_metrics(base: Sequence[EvalResult], after: Sequence[EvalResult], target: str | None) -> dict[str, float]:
    """Scores by task, their differences from the base in points, and TI and BWT (arXiv 2501.14315)."""
    from tokensieve.statistics import backward_transfer, target_improvement

    before, now = {result.task: result.value for result in base}, {result.task: result.value for result in after}
    values: dict[str, float] = {}
    for result in after:
        values[f"eval/{result.task}/{result.metric}"] = result.value
        # A result without items (a perplexity of the harness) is no score: no points, and no part in TI and BWT.
        if result.item_ids:
            values[f"eval/{result.task}/delta_points"] = 100 * (result.value - before[result.task])
    others = [result.task for result in after if result.task != target and result.item_ids]
    if target in now:
        values["summary/target_score"] = now[target]
        values["summary/ti"] = target_improvement(now[target], before[target])
    if others:
        values["summary/bwt"] = backward_transfer(
            {task: now[task] for task in others}, {task: before[task] for task in others}
        )
        values["summary/bwt_points"] = sum(100 * (now[task] - before[task]) for task in others) / len(others)
    return values


def last_values(curve: Sequence[Mapping[str, float]], checkpoint: Literal["last", "best"] = "last") -> dict[str, float]:
    """The latest value of every quantity of a training curve; of the `val/` ones that of the checkpoint that is kept.

    `best` is the first of those whose validation NLL over the kept tokens is lowest (over all, where none is kept).
    """
    last: dict[str, float] = {}
    validations = []
    for entry in curve:
        values = {key: value for key, value in entry.items() if "/" in key}
        last.update(values)
        if "val/nll" in values:
            validations.append({key: value for key, value in values.items() if key.startswith("val/")})
    if checkpoint == "best" and validations:
        best = min(validations, key=monitored_nll)
        last.update(best)
    return last


def monitored_nll(values: Mapping[str, float]) -> float:
    """What tells the best checkpoint, of the values of a validation."""
    return values["val/nll_kept"] if math.isfinite(values["val/nll_kept"]) else values["val/nll"]


def mask_metrics(stats: MaskStats) -> dict[str, float]:
    """What a mask keeps, as shares in [0, 1], and how many examples it leaves nothing of."""
    return {
        "kept_fraction": stats.kept_fraction,
        "masked_nll_fraction": stats.masked_nll_fraction,
        "end_kept_fraction": stats.end_kept_fraction,
        "dropped_examples": float(stats.dropped_examples),
    }
