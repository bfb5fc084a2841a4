"""The numbers of a run as stores show them, by their names there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokensieve.records import EvalResult, MaskStats


def evaluation_metrics(base: Sequence[EvalResult], after: Sequence[EvalResult], target: str | None) -> dict[str, float]:
    """Scores by task, their differences from the base in points, and TI and BWT (arXiv 2501.14315)."""
    from tokensieve.statistics import backward_transfer, target_improvement

    before, now = {result.task: result.value for result in base}, {result.task: result.value for result in after}
    values: dict[str, float] = {}
    for result in after:
        values[f"eval/{result.task}/{result.metric}"] = result.value
        values[f"eval/{result.task}/delta_points"] = 100 * (result.value - before[result.task])
    # A result without items (a perplexity of the harness) is no score: it has no part in TI and BWT.
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


def last_values(curve: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The latest value of every quantity of a training curve."""
    last: dict[str, float] = {}
    for entry in curve:
        last.update({key: value for key, value in entry.items() if "/" in key})
    return last


def mask_metrics(stats: MaskStats) -> dict[str, float]:
    """What a mask keeps, as shares in [0, 1], and how many examples it leaves nothing of."""
    return {
        "kept_fraction": stats.kept_fraction,
        "masked_nll_fraction": stats.masked_nll_fraction,
        "end_kept_fraction": stats.end_kept_fraction,
        "dropped_examples": float(stats.dropped_examples),
    }
