"""A trial inside its own job: it reports to the study that the search opened, and learns whether it may go on.

Nothing that happens to the study's file ends a trial: what cannot be reported is warned of once, and the trial goes on.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tokensieve.config import SearchConfig
from tokensieve.config.search import OBJECTIVES
from tokensieve.errors import TrialPruned

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.pruners import BasePruner
    from optuna.storages import RDBStorage

STUDY_FILE = "study.db"
STUDY_NAME = "search"
_LOCK_SECONDS = 60.0  # of SQLite, when several jobs report at once
log = logging.getLogger(__name__)


def open_storage(path: str) -> RDBStorage:
    """The SQLite file of a study, made where there is none."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": _LOCK_SECONDS}})


def build_pruner(search: SearchConfig) -> BasePruner:
    """Optuna's pruner of that name."""
    from optuna import pruners

    if search.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=search.startup_trials, n_warmup_steps=search.warmup_validations)
    if search.pruner == "halving":
        return pruners.SuccessiveHalvingPruner(
            min_resource=search.warmup_validations, reduction_factor=search.reduction_factor
        )
    if search.pruner == "wilcoxon":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that its interface may change
            return pruners.WilcoxonPruner(p_threshold=search.p_threshold, n_startup_steps=2)
    return pruners.NopPruner()


class TrialReport:
    """The course of one trial, as its study sees it. `values` of a report: step -> value, less or more is better as in
    the study's objective."""

    def __init__(self, search: SearchConfig) -> None:
        self._search = search
        self._trial: Trial | None = None
        self._is_broken = False

    def is_hopeless(self, values: Mapping[int, float]) -> bool:
        """Report `values`; whether the pruner would end the trial here. A step that was reported before is kept."""
        if self._is_broken:
            return False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # values that are not finite, and a best trial without all steps
                return self._report(values)
        except Exception as error:  # whatever a locked, full or damaged file raises
            self._is_broken = True
            log.warning("the study %s cannot be used (%s): trial goes on unpruned", self._search.study, error)
            return False

    def _report(self, values: Mapping[int, float]) -> bool:
        trial = self._open()
        known = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        for step, value in values.items():
            if step not in known:
                trial.report(value, step)
        return bool(trial.should_prune())

    def _open(self) -> Trial:
        if self._trial is None:
            import optuna

            assert self._search.study is not None
            assert self._search.trial is not None
            study = optuna.load_study(
                study_name=STUDY_NAME,
                storage=open_storage(self._search.study),
                sampler=optuna.samplers.RandomSampler(),  # it samples nothing here
                pruner=build_pruner(self._search),
            )
            frozen = study.get_trials(deepcopy=False)[self._search.trial]
            self._trial = optuna.Trial(study, frozen._trial_id)
        return self._trial


class FitReport:
    """A fit's validations, told to the trial's study by rank 0."""

    def __init__(self, search: SearchConfig) -> None:
        self._search = search
        self._report = TrialReport(search)
        self._key = "val/nll_kept" if search.objective == ["nll_kept"] else "val/nll"

    def is_hopeless(self, values: Mapping[str, float], number: int) -> bool:
        """Whether the fit is to end after validation `number`, from 1, with these `val/...` values."""
        nll = values[self._key]
        if not math.isfinite(nll):
            return False
        more_is_better = OBJECTIVES[self._search.objective[0]]
        return self._report.is_hopeless({number: -nll if more_is_better else nll})

    def ended(self, values: Mapping[str, float], number: int) -> TrialPruned:
        """What ends the fit, on every rank."""
        return pruned(self._search, f"after validation {number}, at an NLL of {values[self._key]:.4g}")


def pruned(search: SearchConfig, where: str) -> TrialPruned:
    """The end of a trial, in words."""
    return TrialPruned(f"trial {search.trial}", f"ended early by search.pruner={search.pruner} {where}")
