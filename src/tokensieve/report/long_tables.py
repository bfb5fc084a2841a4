"""A sweep in long form: every item of every task, every logged value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tokensieve.report.labels import group_label
from tokensieve.report.load import Run, Sweep
from tokensieve.report.pairs import scores_at, scores_of, target_first
from tokensieve.tracking.run import read_metrics

if TYPE_CHECKING:
    import pandas as pd

_HEAD = ["run", "label", "arm", "seed"]


def tabulate_items(sweep: Sweep) -> pd.DataFrame:
    """One row for each run, task and item: run, label, arm, seed, task, item, score, base_score (NaN: none)."""
    import pandas as pd

    parts = [pd.DataFrame(columns=[*_HEAD, "task", "item", "score", "base_score"])]
    for run in sweep.runs:
        if run.result is None:
            continue
        bases = {entry.task: entry for entry in run.result.base_evals}
        for entry in target_first(run.result.evals, run.result.target_task):
            ids, base = list(entry.item_ids), bases.get(entry.task)
            columns = {"task": entry.task, "item": ids, "score": scores_of(entry)}
            columns["base_score"] = scores_at(base, ids) if base is not None else np.full(len(ids), np.nan)
            parts.append(pd.DataFrame(_head(run, sweep) | columns))
    return _join(parts)


def tabulate_curves(sweep: Sweep) -> pd.DataFrame:
    """One row for each run, metric and optimiser step: run, label, arm, seed, metric, step, value."""
    import pandas as pd

    parts = [pd.DataFrame(columns=[*_HEAD, "metric", "step", "value"])]
    for run in sweep.runs:
        for metric, points in read_metrics(run.folder).items():
            steps, values = zip(*points, strict=True)
            parts.append(pd.DataFrame(_head(run, sweep) | {"metric": metric, "step": steps, "value": values}))
    return _join(parts)


def _head(run: Run, sweep: Sweep) -> dict[str, object]:
    return {"run": run.name, "label": group_label(run, sweep.runs), "arm": run.arm, "seed": run.seed}


def _join(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """All but the first, which has only the columns; the first where there are no others."""
    import pandas as pd

    return pd.concat([part for part in parts[1:] if len(part)] or parts[:1], ignore_index=True)
