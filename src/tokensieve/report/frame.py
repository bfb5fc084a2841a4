"""A sweep as DataFrames: every run and task, and every arm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.report.arms import Arm, build_arms
from tokensieve.report.change import change_interval
from tokensieve.report.labels import group_label
from tokensieve.report.load import Run, Sweep, read_sweep
from tokensieve.report.pairs import pair, scores_at, scores_of, target_first
from tokensieve.statistics import Interval

if TYPE_CHECKING:
    import pandas as pd

# Column of a change -> the comparison of which it is.
_DETECTABLE = {
    "target_delta_points": "target",
    "others_delta_points": "others",
    "target_points_vs_unmasked": "target vs unmasked",
    "others_points_vs_unmasked": "others vs unmasked",
}


def load_sweep(path: Path | str) -> pd.DataFrame:
    """One row for each run and task; a run without a result has one row, with `task` and all numbers missing.

    Columns: run, job_id, state, label (the report's row), arm, rule, border (threshold, quantile or DPF bound), seed,
    control, same_as, the swept keys, task, metric, is_target, n, value, low, high (Wilson), base_value, base_low,
    base_high, delta_points, delta_low, delta_high (paired bootstrap over items), kept_fraction, response_tokens,
    masked_nll_fraction, val_nll, train_nll, seconds, item_ids, item_scores, base_item_scores (arrays, aligned with
    item_ids; NaN: an item without a score), error, folder.

    Args:
        path: folder of a sweep, or of a single run.

    Raises:
        DataError: `path` is neither.
    """
    return sweep_frame(read_sweep(Path(path)))


def sweep_frame(sweep: Sweep) -> pd.DataFrame:
    """The table of `load_sweep` for a sweep that was read already."""
    import pandas as pd

    return pd.DataFrame([row for run in sweep.runs for row in _run_rows(run, sweep.runs)])


def summarise_sweep(path: Path | str) -> pd.DataFrame:
    """One row for each arm, the base model first: the columns of table.csv."""
    import pandas as pd

    return pd.DataFrame([arm_row(arm) for arm in build_arms(read_sweep(Path(path)))])


def arm_row(arm: Arm) -> dict[str, Any]:
    """Flat numbers of one arm: scores in [0, 1], changes in points, TI and BWT in percent, each with low and high.

    `..._mdd`: the minimum detectable difference of a comparison, in points.
    """
    target = arm.target
    against = arm.against_unmasked or (None, None)
    row: dict[str, Any] = {
        "arm": arm.label,
        "rule": arm.rule,
        "border": arm.border,
        **arm.axes,
        "seeds": " ".join("?" if seed is None else str(seed) for seed in arm.seeds),
        "num_seeds": len(arm.seeds),
        "kept_fraction": arm.kept_fraction,
        "target_task": arm.target_task,
        "target_items": target.num_items if target else 0,
        **_columns("target_score", target.score if target else None),
        **_columns("target_delta_points", arm.target_change),
        **_columns("ti_percent", arm.target_improvement),
        "other_tasks": " ".join(arm.other_tasks),
        "other_items": sum(arm.tasks[task].num_items for task in arm.other_tasks),
        **_columns("others_delta_points", arm.others_change),
        **_columns("bwt_percent", arm.backward_transfer),
        **_columns("target_points_vs_unmasked", against[0]),
        **_columns("others_points_vs_unmasked", against[1]),
        **{f"{name}_mdd": arm.detectable.get(kind, math.nan) for name, kind in _DETECTABLE.items()},
        **arm.details,
    }
    for name, task in arm.tasks.items():
        row |= {f"{name}/metric": task.metric, f"{name}/n": task.num_items}
        row |= _columns(f"{name}/score", task.score) | _columns(f"{name}/delta_points", task.change)
    return row


def _columns(name: str, interval: Interval | None) -> dict[str, float]:
    value, low, high = interval or (math.nan, math.nan, math.nan)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _run_rows(run: Run, runs: tuple[Run, ...]) -> Iterator[dict[str, Any]]:
    head: dict[str, Any] = {
        "run": run.name,
        "job_id": run.job_id,
        "state": run.state,
        "label": group_label(run, runs),
        "arm": run.arm,
        "rule": run.rule,
        "border": run.border,
        "control": run.control,
        "same_as": run.same_as,
        **run.axes,
        "seed": run.seed,
    }
    tail = {"error": run.error, "folder": str(run.folder)}
    result = run.result
    if result is None or not result.evals:
        yield head | {"task": None, "value": math.nan} | tail
        return
    bases = {entry.task: entry for entry in result.base_evals}
    for entry in target_first(result.evals, result.target_task):
        base = bases.get(entry.task)
        delta = change_interval([[pair(entry, base)]] if base else [], "points")
        yield {
            **head,
            "task": entry.task,
            "metric": entry.metric,
            "is_target": entry.task == result.target_task,
            "n": entry.num_items,
            "value": entry.value,
            "low": entry.low,
            "high": entry.high,
            "base_value": base.value if base else math.nan,
            "base_low": base.low if base else math.nan,
            "base_high": base.high if base else math.nan,
            **dict(zip(("delta_points", "delta_low", "delta_high"), delta, strict=True)),
            "kept_fraction": result.mask.kept_fraction if result.mask else math.nan,
            "response_tokens": result.mask.response_tokens if result.mask else None,
            "masked_nll_fraction": result.mask.masked_nll_fraction if result.mask else math.nan,
            "val_nll": result.fit.get("val/nll", math.nan),
            "train_nll": result.fit.get("train/nll", math.nan),
            "seconds": math.fsum(result.seconds.values()),
            "item_ids": list(entry.item_ids),
            "item_scores": scores_of(entry),
            "base_item_scores": scores_at(base, entry.item_ids) if base else None,
            **tail,
        }
