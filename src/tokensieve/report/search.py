"""What a search found: its trials, and among them the best, or of several objectives the Pareto set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.errors import DataError
from tokensieve.plain_table import align_lines
from tokensieve.report.load import Run, Sweep
from tokensieve.report.table import NOTHING, percent, signed

if TYPE_CHECKING:
    from rich.console import Console

SEARCH_FILE = "search.json"
MAX_BEST = 20  # rows of a table that is read as a whole
_POINTS = ("gain", "forgetting")


@dataclass(frozen=True, slots=True)
class Trial:
    """`params`: key -> sampled value. `values`: the objectives, on validation items; None unless it finished. `run`:
    its job, whose scores are of test items; trials of equal values share one."""

    number: int
    state: str  # FINISHED, PRUNED, FAILED, RUNNING, PENDING
    params: Mapping[str, Any]
    values: tuple[float, ...] | None
    is_best: bool
    error: str | None
    run: Run | None


@dataclass(frozen=True, slots=True)
class Search:
    """`objectives`: name -> max or min."""

    objectives: Mapping[str, str]
    sampler: str
    seed: int
    pruner: str
    num_trials: int
    space: tuple[str, ...]
    trials: tuple[Trial, ...]

    @property
    def best(self) -> tuple[Trial, ...]:
        """By the first objective, the best of it first."""
        sign = -1 if next(iter(self.objectives.values())) == "max" else 1
        found = [trial for trial in self.trials if trial.is_best and trial.values is not None]
        return tuple(sorted(found, key=lambda trial: (sign * trial.values[0] if trial.values else 0.0, trial.number)))

    @property
    def best_title(self) -> str:
        return "Pareto set" if len(self.objectives) > 1 else "Best trial"


def read_search(sweep: Sweep) -> Search | None:
    """The search that made `sweep`; None for a sweep of given values.

    Raises:
        DataError: search.json is damaged.
    """
    path = Path(sweep.folder) / SEARCH_FILE
    if not path.is_file():
        return None
    runs = {run.folder: run for run in sweep.runs}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Search(
            objectives=dict(values["objectives"]),
            sampler=str(values["sampler"]),
            seed=int(values["seed"]),
            pruner=str(values["pruner"]),
            num_trials=int(values["num_trials"]),
            space=tuple(values["space"]),
            trials=tuple(_read_trial(entry, sweep.folder, runs) for entry in values["trials"]),
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        remedy = "resume the search, which writes it again, or remove it"
        raise DataError(str(path), "must be the record of a search", received=str(error), remedy=remedy) from error


def _read_trial(entry: Mapping[str, Any], folder: Path, runs: Mapping[Path, Run]) -> Trial:
    return Trial(
        number=int(entry["number"]),
        state=str(entry["state"]),
        params=dict(entry["params"]),
        values=tuple(map(float, entry["values"])) if entry["values"] is not None else None,
        is_best=bool(entry["best"]),
        error=entry["error"],
        run=runs.get(folder / entry["job"]) if entry["job"] else None,
    )


def trial_table(search: Search, trials: Sequence[Trial]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of text: trial, state, sampled values, objectives, and the scores of its run on test items."""
    objectives = [f"{name}{', points' if name in _POINTS else ''} (validation)" for name in search.objectives]
    header = ["trial", "state", *search.space, *objectives, "target % (test)", "others, points (test)"]
    rows = []
    for trial in trials:
        sampled = [_text(trial.params.get(key)) for key in search.space]
        rows.append([str(trial.number), trial.state, *sampled, *_objective_cells(search, trial), *_test_cells(trial)])
    return header, rows


def _text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else NOTHING if value is None else str(value)


def _objective_cells(search: Search, trial: Trial) -> list[str]:
    if trial.values is None:
        return [NOTHING] * len(search.objectives)
    names = zip(search.objectives, trial.values, strict=True)
    return [signed(value) if name in _POINTS else f"{value:.4f}" for name, value in names]


def _test_cells(trial: Trial) -> list[str]:
    result = trial.run.result if trial.run is not None else None
    if result is None:
        return [NOTHING, NOTHING]
    base = {entry.task: entry.value for entry in result.base_evals}
    score = {entry.task: entry.value for entry in result.evals if entry.item_ids}
    others = [100 * (value - base[task]) for task, value in score.items() if task != result.target_task]
    target = percent(score[result.target_task]) if result.target_task in score else NOTHING
    return [target, signed(sum(others) / len(others)) if others else NOTHING]


def describe(search: Search) -> list[str]:
    """What was searched, and how its numbers are to be read."""
    counts: dict[str, int] = {}
    for trial in search.trials:
        counts[trial.state] = counts.get(trial.state, 0) + 1
    states = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none yet"
    wanted = ", ".join(
        f"{name} ({'more' if kind == 'max' else 'less'} is better)" for name, kind in search.objectives.items()
    )
    lines = [
        f"Search by {search.sampler}, seed {search.seed}, for {search.num_trials} trials over "
        f"{', '.join(search.space)}: {states}.",
        f"Objectives, on validation items: {wanted}. The test items chose nothing: their scores are the result.",
    ]
    if search.pruner != "none":
        lines.append(f"PRUNED: ended early by search.pruner={search.pruner}; such a trial has no result.")
    if len(search.objectives) > 1:
        lines.append("Pareto set: the trials that no other one equals or beats in every objective and beats in one.")
    return lines


def print_search(search: Search, console: Console) -> None:
    """The best trials as plain lines, and what they are."""
    header, rows = trial_table(search, search.best[:MAX_BEST])
    if rows:
        title = search.best_title + (
            f", the first {MAX_BEST} of {len(search.best)}" if len(search.best) > MAX_BEST else ""
        )
        lines = ["", title, *align_lines([header, *rows])]
        console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False, emoji=False)
    for line in describe(search):
        console.print(line, style="dim", soft_wrap=not console.is_terminal, highlight=False, markup=False, emoji=False)


def search_markdown(search: Search) -> str:
    """Section with the best trials, for table.md."""
    header, rows = trial_table(search, search.best[:MAX_BEST])
    lines = ["", "", f"**{search.best_title}**", ""]
    if rows:
        lines += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        lines.append("")
    if len(search.best) > MAX_BEST:
        lines.append(f"{len(search.best) - MAX_BEST} more are in trials.csv.  ")
    return "\n".join([*lines, *(line + "  " for line in describe(search))]).rstrip() + "\n"
