"""search.json beside sweep.json: every trial in plain numbers, for the report and for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.config.search import OBJECTIVES
from tokensieve.search.plan import SearchPlan
from tokensieve.search.study import ERROR, JOB
from tokensieve.sweep.manifest import write_json

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

SEARCH_FILE = "search.json"
_STATES = {"COMPLETE": "FINISHED", "FAIL": "FAILED", "WAITING": "PENDING"}


def write_record(folder: Path, study: Study, plan: SearchPlan) -> None:
    """Write the trials as they are now; whole or not at all."""
    best = {trial.number for trial in best_trials(study)}
    values = {
        "objectives": {name: "max" if OBJECTIVES[name] else "min" for name in plan.rules.objective},
        "sampler": str(plan.sampler["_target_"]).rpartition(".")[2],
        "seed": plan.rules.seed,
        "pruner": plan.rules.pruner,
        "num_trials": plan.num_trials,
        "space": list(plan.space.swept),
        "trials": [_entry(trial, trial.number in best) for trial in study.get_trials(deepcopy=False)],
    }
    write_json(folder / SEARCH_FILE, values)


def best_trials(study: Study) -> list[FrozenTrial]:
    """Trials that no other trial beats in every objective: the Pareto set; of one objective, its best ones."""
    return list(study.best_trials)


def _entry(trial: FrozenTrial, is_best: bool) -> dict[str, Any]:
    is_complete = trial.state.name == "COMPLETE"
    return {
        "number": trial.number,
        "state": _STATES.get(trial.state.name, trial.state.name),
        "params": dict(trial.params),
        "values": list(trial.values) if is_complete else None,  # of a pruned one, Optuna keeps its last report
        "best": is_best,
        "job": trial.user_attrs.get(JOB),
        "error": trial.user_attrs.get(ERROR),
    }
