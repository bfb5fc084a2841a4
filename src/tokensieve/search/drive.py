"""The loop of a search: ask for trials, run them as jobs, tell their study, until there are enough."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, read_write

from tokensieve.errors import SweepError
from tokensieve.pruning import STUDY_FILE
from tokensieve.search.plan import SearchPlan, continue_arguments, plan_search
from tokensieve.search.record import SEARCH_FILE, best_trials, write_record
from tokensieve.search.study import Trials, create_study, in_memory, load_study
from tokensieve.sweep.compose import composer, key_of
from tokensieve.sweep.devices import find_gpus
from tokensieve.sweep.folder import claim_existing, claim_new, give_up, keep
from tokensieve.sweep.invocation import in_quotes
from tokensieve.sweep.manifest import MANIFEST
from tokensieve.sweep.resume import sweep_to_resume
from tokensieve.sweep.slots import Slots
from tokensieve.sweep.terminal import say

if TYPE_CHECKING:
    from optuna import Study, Trial

_SHOWN = 10
_ON_CLUSTER = 4  # trials at once where nothing bounds them: more would be chosen blindly


def run_search(
    config: DictConfig, loader: ConfigLoader, launcher: Launcher, sampler: DictConfig, arguments: Sequence[str]
) -> None:
    """Run the search that `arguments` ask for, or go on with the one that `sweep.resume` names.

    Raises:
        ConfigError, SweepError: it cannot start; more trials failed than `search.max_failure_rate` allows.
    """
    compose = composer(loader, config)
    wish = config.sweep.resume
    if wish is None:
        plan = plan_search(arguments, sampler, compose)
        if config.dry_run:
            _Loop(config, launcher, None, create_study(None, plan), plan).run()
            return
        with _new_folder(config) as folder:
            _Loop(config, launcher, folder, create_study(folder / STUDY_FILE, plan), plan).run()
        return
    folder = sweep_to_resume(wish, Path(config.output_dir))
    study, stored = load_study(folder / STUDY_FILE)
    remedy = "give sweep.resume alone, with the search that it began with, or start a new one"
    plan = plan_search(continue_arguments(stored["arguments"], arguments, remedy), sampler, compose)
    plan.require_same(stored, remedy)
    if config.dry_run:
        _Loop(config, launcher, None, in_memory(study), plan).run()
        return
    keep(folder, claim_existing(folder))
    try:
        _Loop(config, launcher, folder, study, plan).run()
    finally:
        give_up(folder)


@contextlib.contextmanager
def _new_folder(config: DictConfig) -> Iterator[Path]:
    """The sweep's folder, claimed before its jobs are known; removed again if none of them could be planned."""
    named_by_user = any(key_of(text) == "hydra.sweep.dir" for text in config.hydra.overrides.hydra)
    folder = keep(*claim_new(Path(config.hydra.sweep.dir), may_rename=not named_by_user))
    with read_write(config.hydra.sweep):
        config.hydra.sweep.dir = str(folder)
    try:
        yield folder
    finally:
        if not (folder / MANIFEST).exists():
            for path in [*folder.glob(f"{STUDY_FILE}*"), folder / SEARCH_FILE]:
                path.unlink(missing_ok=True)
            give_up(folder)
            (folder / ".lock").unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # the user's own files are in it
                folder.rmdir()


def count_at_once(plan: SearchPlan) -> int:
    """Trials of a batch."""
    config = plan.composed
    if plan.rules.parallel is not None:
        return plan.rules.parallel
    if config.launcher.name != "local":
        return int(config.launcher.parallel or _ON_CLUSTER)
    if isinstance(config.sweep.workers, int):
        return int(config.sweep.workers)
    gpus = [] if config.trainer.accelerator == "cpu" else find_gpus()
    return Slots(gpus, workers="auto", jobs_per_device=config.sweep.jobs_per_device).limit


class _Loop:
    """`folder` None: a dry run, which the launcher ends after the first batch is planned."""

    def __init__(
        self, config: DictConfig, launcher: Launcher, folder: Path | None, study: Study, plan: SearchPlan
    ) -> None:
        self._config = config
        self._launcher = launcher
        self._folder = folder
        self._plan = plan
        self._trials = Trials(study, plan)
        self._started = 0

    def run(self) -> None:
        plan, trials = self._plan, self._trials
        say(
            f"search for {plan.num_trials} trials over {', '.join(plan.space.swept)} by "
            f"{', '.join(plan.rules.objective)} on validation items: {trials.num_finished} finished already"
        )
        size = count_at_once(plan)
        try:
            while batch := trials.next_batch(size):
                self._record()
                self._run_batch(batch)
                self._stop_after_failures()
        finally:
            self._record()
        self._say_best()

    def _run_batch(self, batch: Sequence[Trial]) -> None:
        jobs = [self._overrides(trial) for trial in batch]
        try:
            returns = [(done._return_value, done.working_dir) for done in self._launcher.launch(jobs, self._started)]
        except ExceptionGroup as faults:
            if not self._trials.num_finished:
                raise  # no sample is at fault, but what all of them share
            returns = self._run_apart(jobs, faults)
        self._started += len(batch)
        for trial, (returned, place) in zip(batch, returns, strict=True):
            self._trials.tell(trial, returned, place or None)

    def _run_apart(self, jobs: Sequence[list[str]], faults: ExceptionGroup) -> list[tuple[object, str | None]]:
        """Each trial of a batch alone, after a sample of it made a config that cannot run: that one fails."""
        if len(jobs) == 1:
            return [(faults.exceptions[0], None)]
        returns: list[tuple[object, str | None]] = []
        for job in jobs:
            try:
                [done] = self._launcher.launch([job], self._started)
                returns.append((done._return_value, done.working_dir))
            except ExceptionGroup as own:
                returns.append((own.exceptions[0], None))
        return returns

    def _overrides(self, trial: Trial) -> list[str]:
        swept = [f"{key}={_text(trial.params[key])}" for key in self._plan.space.swept]
        place = [f"search.trial={trial.number}"]
        if self._folder is not None:
            place.append(f"search.study={in_quotes(str((self._folder / STUDY_FILE).absolute()))}")
        return [*swept, *self._plan.space.fixed, *place]

    def _record(self) -> None:
        if self._folder is not None:
            write_record(self._folder, self._trials.study, self._plan)

    def _stop_after_failures(self) -> None:
        failures, rules = self._trials.failures, self._plan.rules
        allowed = math.floor(rules.max_failure_rate * self._plan.num_trials + 1e-9)
        if len(failures) > allowed:
            raise SweepError(
                "search.max_failure_rate",
                f"the search stopped after {len(failures)} failed trials; "
                f"{allowed} of {self._plan.num_trials} may fail",
                received=rules.max_failure_rate,
                remedy="correct what made them fail, and resume: failed trials are tried once more",
            )

    def _say_best(self) -> None:
        study, names = self._trials.study, self._plan.rules.objective
        best = best_trials(study)
        pruned = sum(trial.state.name == "PRUNED" for trial in study.get_trials(deepcopy=False))
        what = f"the Pareto set has {len(best)} trials" if len(names) > 1 else "best"
        say(f"search: {self._trials.num_finished} trials, {pruned} of them pruned; {what if best else 'none finished'}")
        for trial in best[:_SHOWN]:
            values = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, trial.values, strict=True))
            chosen = " ".join(f"{key}={_text(value)}" for key, value in trial.params.items())
            say(f"    trial {trial.number}: {values} (validation) with {chosen}")


def _text(value: Any) -> str:
    """A sampled value as Hydra's override grammar has it; a choice is quoted already where it must be.

    >>> _text(None), _text(True), _text(0.001), _text("'a b'")
    ('null', 'true', '0.001', "'a b'")
    """
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
