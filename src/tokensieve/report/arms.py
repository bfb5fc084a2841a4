"""One row for each arm of a sweep: what it gained on the target, what it lost elsewhere; seeds taken together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tokensieve.records import EvalResult
from tokensieve.report.change import UNDEFINED, Pair, change_interval, detectable_change, score_interval
from tokensieve.report.labels import group_label
from tokensieve.report.load import Run, Sweep, parse_number
from tokensieve.report.pairs import mean, pair, pair_tasks, scores_of, target_first
from tokensieve.report.partners import Partners, settings_of
from tokensieve.statistics import Interval

_RULE_ORDER = ("none", "high_ppl", "stm_dpf", "dpf", "quantile", "random", "low_ppl")
BASE = "base"


@dataclass(frozen=True, slots=True)
class TaskChange:
    """One arm on one task. `score` in [0, 1]; `change` in points against the base."""

    metric: str
    num_items: int
    score: Interval
    change: Interval


@dataclass(frozen=True, slots=True)
class Arm:
    """One row of the report. Changes are in percentage points, TI and BWT in percent (as defined in arXiv 2501.14315).

    `against_unmasked` compares with the unmasked arm of the same other settings (see `Partners`), over shared seeds and
    items: the target's points and the mean of the other tasks' points; None for the base and the unmasked arm itself.
    `detectable` has for these four comparisons (target, others, target vs unmasked, others vs unmasked) the least true
    difference in points that would be found with 80 % power at 5 %.
    """

    label: str
    rule: str
    border: float | None
    axes: Mapping[str, str]
    runs: tuple[Run, ...]
    seeds: tuple[int | None, ...]
    target_task: str
    tasks: Mapping[str, TaskChange]
    kept_fraction: float
    target_change: Interval = UNDEFINED
    target_improvement: Interval = UNDEFINED
    others_change: Interval = UNDEFINED
    backward_transfer: Interval = UNDEFINED
    against_unmasked: tuple[Interval, Interval] | None = None
    detectable: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, float] = field(default_factory=dict)  # means over seeds: val_nll, response_tokens, seconds

    @property
    def is_base(self) -> bool:
        return not self.seeds

    @property
    def given_axes(self) -> dict[str, str]:
        """The swept values that the arm sets itself: an arm of a file leaves others alone."""
        keys = [run.given for run in self.runs if run.given is not None]
        return {key: value for key, value in self.axes.items() if all(key in given for given in keys)}

    @property
    def target(self) -> TaskChange | None:
        return self.tasks.get(self.target_task)

    @property
    def other_tasks(self) -> tuple[str, ...]:
        return tuple(task for task, change in self.tasks.items() if task != self.target_task and change.num_items)


def build_arms(sweep: Sweep) -> list[Arm]:
    """Rows of a sweep's finished runs: the base model first, then by other axes: unmasked, thresholds descending.

    A job that stands under several names counts once in each row.
    """
    groups: dict[str, dict[str, Run]] = {}
    finished = [run for run in sweep.runs if run.result is not None]
    for run in finished:
        groups.setdefault(group_label(run, finished), {}).setdefault(run.job_id, run)
    ordered = sorted(groups.items(), key=lambda item: _order(next(iter(item[1].values())), sweep))
    partners = Partners(list(members.values()) for members in groups.values())
    bases = _base_rows(finished)
    arms = [
        _build_arm(label, list(members.values()), partners.find(next(iter(members.values()))))
        for label, members in ordered
    ]
    return [*bases, *arms]


def _order(run: Run, sweep: Sweep) -> tuple[object, ...]:
    places = []
    for key, value in settings_of(run):
        if run.given is not None and key not in run.given:
            places.append((-1, 0.0, ""))  # arms of a file that leave it alone come first
            continue
        known = sweep.axes.get(key, ())
        places.append((known.index(value) if value in known else len(known), parse_number(value) or 0.0, value))
    rule = _RULE_ORDER.index(run.rule) if run.rule in _RULE_ORDER else len(_RULE_ORDER)
    return tuple(places), rule, run.rule, -(run.border or 0.0), run.arm


def _base_rows(runs: Iterable[Run]) -> list[Arm]:
    """One row for each base model and set of tasks that the runs started from."""
    rows: dict[tuple[object, ...], Arm] = {}
    for run in runs:
        result = run.result
        assert result is not None
        key = (result.target_task, *((entry.task, tuple(entry.item_ids), entry.value) for entry in result.base_evals))
        if key in rows or not result.base_evals:
            continue
        tasks = {}
        for entry in target_first(result.base_evals, result.target_task):
            score = score_interval([scores_of(entry)])
            tasks[entry.task] = TaskChange(entry.metric, entry.num_items, score, UNDEFINED)
        settings = [f"{key}={value}" for key, value in settings_of(run) if key in ("model", "model.path", "dataset")]
        rows[key] = Arm(
            " · ".join([BASE, *settings]), "base", None, {}, (run,), (), result.target_task, tasks, math.nan
        )
    return [replace(row, label=BASE) for row in rows.values()] if len(rows) == 1 else list(rows.values())


def _build_arm(label: str, runs: list[Run], unmasked: Sequence[Run] | None) -> Arm:
    runs = sorted(runs, key=lambda run: (run.seed is None, run.seed or 0, run.name))
    results = [run.result for run in runs if run.result is not None]
    target = results[0].target_task
    by_run = [_evals(run) for run in runs]
    bases = [{entry.task: entry for entry in result.base_evals} for result in results]
    order = [entry.task for entry in target_first(results[0].evals, target)]
    common = [task for task in order if all(task in evals for evals in by_run)]
    tasks = {}
    for task in common:
        evals = [evals[task] for evals in by_run]
        pairs = [[pair(entry, base[task])] if task in base else [] for entry, base in zip(evals, bases, strict=True)]
        score = score_interval([scores_of(entry) for entry in evals])
        tasks[task] = TaskChange(evals[0].metric, evals[0].num_items, score, change_interval(pairs, "points"))
    # A task without items (a perplexity of the harness) has a value, but nothing that forgetting is a mean over.
    others = [task for task in common if task != target and all(evals[task].item_ids for evals in by_run)]
    on_target = pair_tasks(by_run, bases, [target])
    on_others = pair_tasks(by_run, bases, others)
    against = _pair_with_unmasked(runs, unmasked, target, others)
    compared = {"target": on_target, "others": on_others}
    if against is not None:
        compared |= {"target vs unmasked": against[0], "others vs unmasked": against[1]}
    return Arm(
        label=label,
        rule=runs[0].rule,
        border=runs[0].border,
        axes=dict(runs[0].axes),
        runs=tuple(runs),
        seeds=tuple(run.seed for run in runs),
        target_task=target,
        tasks=tasks,
        kept_fraction=mean([result.mask.kept_fraction if result.mask else 1.0 for result in results]),
        target_change=change_interval(on_target, "points"),
        target_improvement=change_interval(on_target, "relative"),
        others_change=change_interval(on_others, "points"),
        backward_transfer=change_interval(on_others, "relative"),
        against_unmasked=(change_interval(against[0], "points"), change_interval(against[1], "points"))
        if against is not None
        else None,
        detectable={name: detectable_change(pairs) for name, pairs in compared.items()},
        details={
            "val_nll": mean([result.fit.get("val/nll", math.nan) for result in results]),
            "response_tokens": mean(
                [float(result.mask.response_tokens) if result.mask else math.nan for result in results]
            ),
            "seconds": mean([math.fsum(value for value in result.seconds.values()) for result in results]),
        },
    )


def _pair_with_unmasked(
    runs: list[Run], unmasked: Sequence[Run] | None, target: str, others: list[str]
) -> tuple[list[list[Pair]], list[list[Pair]]] | None:
    """For each shared seed the pairs of the target, and those of the other tasks."""
    by_seed = {run.seed: _evals(run) for run in unmasked or ()}
    shared = [(_evals(run), by_seed[run.seed]) for run in runs if run.seed in by_seed]
    if not shared:
        return None
    ours, theirs = [one for one, _ in shared], [other for _, other in shared]
    return pair_tasks(ours, theirs, [target]), pair_tasks(ours, theirs, others)


def _evals(run: Run) -> dict[str, EvalResult]:
    return {entry.task: entry for entry in run.result.evals} if run.result else {}
