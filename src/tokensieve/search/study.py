"""The trials of a study: asked for, taken up again after a kill, told how they ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.config.search import OBJECTIVES
from tokensieve.errors import SweepError, TrialPruned
from tokensieve.pruning import STUDY_NAME, build_pruner, open_storage
from tokensieve.search.plan import SearchPlan

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

_ATTRIBUTE = "search"  # of the study: its plan
JOB, ERROR = "job", "error"  # of a trial: its job's folder, and why it has no values


def create_study(path: Path | None, plan: SearchPlan) -> Study:
    """A new study in the SQLite file `path`; in memory, for a dry run, when it is None."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=STUDY_NAME,
        storage=optuna.storages.InMemoryStorage() if path is None else open_storage(str(path)),
        directions=["maximize" if OBJECTIVES[name] else "minimize" for name in plan.rules.objective],
        pruner=build_pruner(plan.rules),
    )
    study.set_user_attr(_ATTRIBUTE, plan.to_json())
    return study


def load_study(path: Path) -> tuple[Study, dict[str, Any]]:
    """The study in `path`, and the plan that it was made with.

    Raises:
        SweepError: there is none, or it cannot be read.
    """
    import optuna

    if not path.is_file():
        raise SweepError(
            "sweep.resume",
            "must be a search to be continued as one",
            received=str(path.parent),
            remedy="leave out search=..., which the sweep was not started with",
        )
    try:
        study = optuna.load_study(study_name=STUDY_NAME, storage=open_storage(str(path)))
        plan: dict[str, Any] = study.user_attrs[_ATTRIBUTE]
    except Exception as error:  # whatever a damaged file raises
        remedy = "start the search again without sweep.resume; cached stages are reused"
        raise SweepError(str(path), "is damaged", received=str(error)[:200], remedy=remedy) from error
    return study, plan


def in_memory(study: Study) -> Study:
    """A copy of `study`, which a dry run may ask for trials."""
    import optuna

    storage = optuna.storages.InMemoryStorage()
    optuna.copy_study(from_study_name=STUDY_NAME, from_storage=study._storage, to_storage=storage)
    return optuna.load_study(study_name=STUDY_NAME, storage=storage, pruner=study.pruner)


class Trials:
    """The trials of a search in this process. Failures of earlier processes are tried once more and not counted."""

    def __init__(self, study: Study, plan: SearchPlan) -> None:
        from optuna.trial import TrialState

        self.study = study
        self._plan = plan
        self._states = TrialState
        self._forgiven = {trial.number for trial in self._in(TrialState.FAIL)}
        self._retry_failed()

    def _in(self, *states: Any) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _retry_failed(self) -> None:
        """Queue the values of failed trials that no other trial has."""
        states = self._states
        tried = [
            trial.system_attrs.get("fixed_params", trial.params)
            for trial in self._in(states.COMPLETE, states.PRUNED, states.RUNNING, states.WAITING)
        ]
        for trial in self._in(states.FAIL):
            if trial.params and trial.params not in tried:
                self.study.enqueue_trial(trial.params)
                tried.append(trial.params)

    @property
    def num_finished(self) -> int:
        """Trials with a result, pruned ones included."""
        return len(self._in(self._states.COMPLETE, self._states.PRUNED))

    @property
    def failures(self) -> list[FrozenTrial]:
        """Trials that failed in this process."""
        return [trial for trial in self._in(self._states.FAIL) if trial.number not in self._forgiven]

    def next_batch(self, size: int) -> list[Trial]:
        """Up to `size` trials to run now: what a killed process left, then new ones; [] at the end of the search.

        Batches begin at multiples of `size`, so that a continued search asks with the same results at hand.
        """
        import optuna

        left_over = self._in(self._states.RUNNING)
        batch = []
        for trial in left_over[:size]:
            self.study.sampler = self._plan.build_sampler(trial.number)
            batch.append(self._suggest(optuna.Trial(self.study, trial._trial_id)))
        asked = len(self.study.get_trials(deepcopy=False)) - len(self._in(self._states.WAITING))
        room = -asked % size if left_over else size - asked % size
        wanted = self._plan.num_trials - self.num_finished - len(self.failures) - len(left_over)
        for _ in range(min(room, wanted, size - len(batch))):
            self.study.sampler = self._plan.build_sampler(len(self.study.get_trials(deepcopy=False)))
            batch.append(self._suggest(self.study.ask()))
        return batch

    def _suggest(self, trial: Trial) -> Trial:
        for key, distribution in self._plan.space.swept.items():
            trial._suggest(key, distribution)
        return trial

    def tell(self, trial: Trial, returned: object, job: str | None) -> None:
        """`returned`: the objectives of the trial, or the exception that it ended with."""
        if job is not None:
            trial.set_user_attr(JOB, job)
        values = _values(returned)
        if isinstance(returned, TrialPruned):
            trial.set_user_attr(ERROR, str(returned))
            self._finish(trial, None, self._states.PRUNED)
        elif values is None or len(values) != len(self._plan.rules.objective):
            expected = ", ".join(self._plan.rules.objective)
            fault = returned if isinstance(returned, Exception) else f"{returned!r} is no finite {expected}"
            trial.set_user_attr(ERROR, str(fault))
            self._finish(trial, None, self._states.FAIL)
        else:
            self._finish(trial, values, self._states.COMPLETE)

    def _finish(self, trial: Trial, values: Sequence[float] | None, state: Any) -> None:
        try:
            self.study.tell(trial, values, state)
        except (RuntimeError, KeyError) as error:
            # A grid that is exhausted stops a loop of Optuna's own, which there is none of; at its last cell it asks
            # for the cell of a trial that was queued again, and has none. The trial is told by then.
            if not self._plan.is_grid or not ("Study.stop" in str(error) or error.args == ("grid_id",)):
                raise


def _values(returned: object) -> list[float] | None:
    given = returned if isinstance(returned, (list, tuple)) else [returned]
    numbers = [float(number) for number in given if isinstance(number, (int, float)) and math.isfinite(number)]
    return numbers if len(numbers) == len(given) else None
