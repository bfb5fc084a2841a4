"""Our results from the harness's: item scores from its logged samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

from tokensieve.harness.find import Found
from tokensieve.installed import version
from tokensieve.records import EvalResult
from tokensieve.statistics import wilson_interval

# The headline of a task that has several metrics is this one where it has it, else its first.
_PREFERRED_METRIC = "acc_norm"


class _Items(NamedTuple):
    """One leaf task's items under one metric and filter."""

    metric: str
    filter: str
    ids: list[str]
    scores: list[float]
    outputs: list[str]


def collect_results(found: Found, raw: Mapping[str, Any], decoding: Mapping[str, Any]) -> list[EvalResult]:
    """Results of one requested name: one for a task or a group with a score of its own, else one a leaf task.

    A group's items are those of its tasks together, so that its value is the mean over items: the harness's own number
    for a group that it weights by size. The headline metric is acc_norm where a task has it, else its first; the means
    of all of them stand in `decoding["harness_metrics"]`.

    A task whose metrics are no scores of items in [0, 1] (a corpus BLEU, a perplexity) has no items, and no interval.

    Args:
        found: the requested name.
        raw: what `lm_eval.evaluate` returned, with samples.
        decoding: what was used, the same for all tasks.
    """
    items = {leaf: _headline(leaf, raw["samples"][leaf]) for leaf in found.tasks}
    kinds = {(entry.metric, entry.filter) if entry is not None else None for entry in items.values()}
    pooled = found.group is not None and len(kinds) == 1 and None not in kinds
    groups = {found.name: list(items)} if pooled else {leaf: [leaf] for leaf in items}
    return [
        _make_result(name, {leaf: items[leaf] for leaf in leaves}, raw, decoding) for name, leaves in groups.items()
    ]


def _make_result(
    name: str, items: Mapping[str, _Items | None], raw: Mapping[str, Any], decoding: Mapping[str, Any]
) -> EvalResult:
    metrics = _read_metrics(raw["results"].get(name, {}))
    stated = raw["versions"].get(name)
    details = {
        "method": f"lm-evaluation-harness {version('lm_eval')}",
        **decoding,
        "num_fewshot": raw["n-shot"].get(next(iter(items))),
        "task_version": stated if isinstance(stated, (int, float)) else str(stated),
        "harness_metrics": metrics,
    }
    kept = [part for part in items.values() if part is not None]
    if kept:
        scores = [score for part in kept for score in part.scores]
        value, low, high = wilson_interval(sum(scores), len(scores))
        metric = kept[0].metric
        details["filter"] = kept[0].filter
    else:
        scores = []
        metric, value = next(iter(metrics.items()), ("none", math.nan))
        low = high = math.nan
    return EvalResult(
        task=name,
        metric=metric.split(",")[0],
        version=_whole_version(stated),
        item_ids=[item for part in kept for item in part.ids],
        item_scores=scores,
        value=value,
        low=low,
        high=high,
        decoding=details,
        outputs=[output for part in kept for output in part.outputs],
    )


def _headline(leaf: str, samples: Sequence[Mapping[str, Any]]) -> _Items | None:
    """The items under the headline metric; None when no metric scores items in [0, 1]."""
    by_filter: dict[str, list[Mapping[str, Any]]] = {}
    for sample in samples:
        by_filter.setdefault(str(sample["filter"]), []).append(sample)
    for filter_name, rows in by_filter.items():
        metrics = [str(metric) for metric in rows[0]["metrics"]]
        for metric in sorted(metrics, key=lambda name: name != _PREFERRED_METRIC):
            scored = [row for row in rows if metric in row]
            if all(_is_score(row[metric]) for row in scored):
                return _Items(
                    metric,
                    filter_name,
                    [f"{leaf}-{row['doc_id']}" for row in scored],
                    [float(row[metric]) for row in scored],
                    [_describe_output(row) for row in scored],
                )
    return None


def _is_score(value: object) -> bool:
    return isinstance(value, Real) and 0.0 <= float(value) <= 1.0


def _describe_output(sample: Mapping[str, Any]) -> str:
    """The generated text, or the continuation with the greatest log-likelihood."""
    answers = [response[0] for response in sample["resps"]]
    if isinstance(answers[0], str):
        return answers[0]
    if isinstance(answers[0], (list, tuple)) and len(answers) > 1:
        best = max(range(len(answers)), key=lambda at: float(answers[at][0]))
        return str(sample["arguments"][best][-1])
    return ""


def _read_metrics(entry: Mapping[str, Any]) -> dict[str, float]:
    """The harness's own numbers, `metric,filter` -> value, without its standard errors."""
    return {
        key: float(value)
        for key, value in entry.items()
        if "," in key and not key.split(",")[0].endswith("_stderr") and isinstance(value, Real)
    }


def _whole_version(stated: object) -> int:
    try:
        return int(float(str(stated)))
    except ValueError:
        return 0
