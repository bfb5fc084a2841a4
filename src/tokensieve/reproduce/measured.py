"""Our numbers in the units of the printed ones: out of the results of runs, or out of scores and masks."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tokensieve.records import EvalResult, RunResult
from tokensieve.reproduce.expected import BASE, ExpectedRow
from tokensieve.reproduce.sampling import count_error, mean_error, share_error, variance_error
from tokensieve.reproduce.verdict import Measured

if TYPE_CHECKING:
    from tokensieve.stages import Stages

_Array = npt.NDArray[np.float64]


def measure_runs(row: ExpectedRow, results: Sequence[RunResult], datasets: Mapping[str, str]) -> Measured | None:
    """The row's quantity, over the seeds in `results`; None where a run lacks one of its tasks.

    Errors are over items, paired with the base where the quantity is a change (each item's influence on the ratio), and
    over seeds where there are several.

    Args:
        row: what is asked for.
        results: the runs of its arm, one a seed.
        datasets: printed name -> task.
    """
    if not results:
        return None
    if row.metric == "masked_percent":
        shares = [100 * (1 - result.mask.kept_fraction) for result in results if result.mask]
        tokens = [result.mask.response_tokens for result in results if result.mask]
        return _over_seeds(shares, share_error(_mean(shares), tokens[0]), tokens[0]) if shares else None
    if row.metric == "num_examples":
        counts = [float(result.mask.num_examples) for result in results if result.mask]
        return _over_seeds(counts, 0.0, int(counts[0])) if counts else None
    if row.metric == "weight_norm":
        norms = [result.fit.get("fit/weight_change", math.nan) for result in results]
        return _over_seeds(norms, 0.0, 0) if all(map(math.isfinite, norms)) else None
    if row.metric not in ("accuracy", "ti", "bwt"):
        return None
    changes = []
    for task in row.tasks:
        found = [_task_scores(result, datasets.get(task, ""), row.arm == BASE) for result in results]
        pairs = [pair for pair in found if pair is not None]
        if len(pairs) < len(results) or not pairs[0][0].size:
            return None
        changes.append([_level(after) if row.metric == "accuracy" else _change(after, base) for after, base in pairs])
    return _mean_over_tasks(changes)


def measure_other_tasks(results: Sequence[RunResult], trained: Collection[str] = ()) -> Measured | None:
    """BWT over whatever tasks the runs have beside their target: the lab's counterpart of a printed BWT.

    `trained`: tasks that an earlier step was trained for, which are left out too.
    """
    if not results:
        return None
    targets = {results[0].target_task, *trained}
    others = [entry.task for entry in results[0].evals if entry.task not in targets]
    changes = []
    for task in others:
        pairs = [pair for result in results if (pair := _task_scores(result, task, False)) is not None]
        if len(pairs) < len(results):
            return None
        changes.append([_change(after, base) for after, base in pairs])
    return _mean_over_tasks(changes) if changes else None


_Part = tuple[float, _Array]  # an estimate in percent, and each item's influence on it


def _task_scores(result: RunResult, task: str, of_base: bool) -> tuple[_Array, _Array] | None:
    after = _find(result.base_evals if of_base else result.evals, task)
    base = _find(result.base_evals, task)
    if after is None or base is None or list(after.item_ids) != list(base.item_ids):
        return None
    return np.asarray(after.item_scores, dtype=np.float64), np.asarray(base.item_scores, dtype=np.float64)


def _find(evals: Sequence[EvalResult], task: str) -> EvalResult | None:
    return next((entry for entry in evals if entry.task == task), None)


def _level(after: _Array) -> _Part:
    return 100 * float(after.mean()), 100 * (after - after.mean())


def _change(after: _Array, base: _Array) -> _Part:
    level = float(base.mean())
    if level == 0:
        return math.nan, np.zeros_like(base)
    ratio = float(after.mean()) / level
    return 100 * (ratio - 1), 100 * (after - ratio * base) / level


def _mean_over_tasks(changes: Sequence[Sequence[_Part]]) -> Measured:
    """Mean of the tasks, each [seeds] of estimates; items are shared by the seeds, not by the tasks."""
    values = [_mean([task[seed][0] for task in changes]) for seed in range(len(changes[0]))]
    variance, num_items = 0.0, 0
    for task in changes:
        influence = np.mean([part for _, part in task], axis=0)
        num_items += influence.size
        variance += float(influence.var(ddof=1)) / influence.size if influence.size > 1 else math.nan
    return _over_seeds(values, math.sqrt(variance) / len(changes), num_items)


def _over_seeds(values: Sequence[float], error: float, num_items: int) -> Measured:
    spread = float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 0.0
    return Measured(_mean(values), math.sqrt(error**2 + spread), num_items, len(values))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def measure_stages(stages: Stages, metrics: set[str], num_rows: int | None = None) -> dict[str, Measured]:
    """What is known of `metrics` before a fit; builds scores and mask where the cache lacks them.

    Mean and variance (with 1/N) over examples of exp(mean NLL of the response tokens); the masked share of response
    tokens; the examples that are left to train. `num_rows`: examples of the data before a variant dropped any.
    """
    found: dict[str, Measured] = {}
    if metrics & {"masked_percent", "num_examples"}:
        stats = stages.mask.get().stats
        share = 100 * (1 - stats.kept_fraction)
        rows = max(num_rows or 0, stats.num_examples)
        found["masked_percent"] = Measured(share, share_error(share, stats.response_tokens), stats.response_tokens)
        found["num_examples"] = Measured(stats.num_examples, count_error(stats.num_examples, rows), rows)
    if metrics & {"mean_sentence_ppl", "variance_sentence_ppl"} and stages.scores is not None:
        values = sentence_perplexities(stages)
        variance = float(values.var()) if values.size else math.nan
        mean = float(values.mean()) if values.size else math.nan
        found["mean_sentence_ppl"] = Measured(mean, mean_error(variance, max(1, values.size)), values.size)
        found["variance_sentence_ppl"] = Measured(variance, variance_error(variance, max(2, values.size)), values.size)
    return found


def sentence_perplexities(stages: Stages) -> _Array:
    """exp(mean NLL of the response tokens) of each example that has one (STM, arXiv 2501.14315, table 1)."""
    assert stages.scores is not None
    tokens, scores = stages.tokens.get().rows.with_format(None), stages.scores.get().rows.with_format(None)
    values = []
    for row, scored in zip(tokens, scores, strict=True):
        nll = np.asarray(scored["nll"], dtype=np.float64)[np.asarray(row["is_response"], dtype=bool)]
        if nll.size:
            values.append(math.exp(float(nll.mean())))
    return np.asarray(values, dtype=np.float64)
