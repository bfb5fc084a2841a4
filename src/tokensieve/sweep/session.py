"""One sweep from plan to report. A search from outside (Optuna) calls it batch by batch."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, read_write

from tokensieve.config import RunConfig
from tokensieve.errors import SweepError
from tokensieve.ranks.joined import refuse_joined
from tokensieve.sweep.compose import CONTROLLER_KEYS, composer, key_of, swept_keys
from tokensieve.sweep.fork_server import PRELOAD, ForkServer, threads_per_job
from tokensieve.sweep.job import RUN_PIPELINE, JobSpec
from tokensieve.sweep.ledger import Ledger
from tokensieve.sweep.manifest import (
    FAILED,
    FINISHED,
    KILLED,
    PENDING,
    RUNNING,
    JobEntry,
    Manifest,
    finite,
    now,
    read_manifest,
)
from tokensieve.sweep.parent_run import ParentRun
from tokensieve.sweep.plan import PlannedJob, base_values, plan_jobs
from tokensieve.sweep.pool import Ended, Pool
from tokensieve.sweep.resume import resumed_batch, sweep_to_resume
from tokensieve.sweep.terminal import Progress, join_stages, plan_table, resume_command, say

_VALUES_IN_NAME = 10
_open_sessions: list[Session] = []


@dataclass(frozen=True, slots=True)
class Workshop:
    """How jobs are executed; tests replace the job's function and skip the imports."""

    function: str = RUN_PIPELINE
    preload: tuple[str, ...] = PRELOAD
    grace_seconds: float = 5.0


class Session:
    """A sweep. `is_search`: batches come one after another and depend on results, so nothing is known in advance:
    no controls are added, and a resumed sweep takes its batches from the search, not from the manifest."""

    def __init__(self, loader: ConfigLoader, master: DictConfig, workshop: Workshop, *, is_search: bool) -> None:
        self._compose = composer(loader, master)
        self._master = master
        self._workshop = workshop
        self._is_search = is_search
        self._swept = swept_keys(master)
        self._fingerprints: dict[str, str] = {}
        self._ledger: Ledger | None = None
        self._parent: ParentRun | None = None
        self._server: ForkServer | None = None
        self._config: RunConfig | None = None
        _open_sessions.append(self)

    def run_batch(self, batch: Sequence[Sequence[str]]) -> list[JobEntry]:
        """Plan and run jobs; their entries in the manifest, in the batch's order.

        Raises:
            ExceptionGroup: of every job that cannot run; nothing was started. SweepError: the sweep cannot start, or
            was stopped by fail_fast or max_failures. Interrupted: by Ctrl-C. SystemExit(0): after a dry run.
        """
        resume = self._find_resumed() if self._ledger is None else None
        if resume is not None and not self._is_search:
            manifest = read_manifest(resume)
            self._swept = tuple(manifest.axes)
            batch = resumed_batch(manifest, batch, self._resume_command(resume, manifest.overrides))
        refuse_joined("--multirun")
        jobs = plan_jobs(
            batch,
            self._compose,
            _validate,
            swept=self._swept,
            with_controls=not self._is_search,
            known=self._fingerprints,
        )
        self._config = jobs[0].config
        if self._config.dry_run:
            self._print_plan(jobs, resume)
            raise SystemExit(0)
        if self._ledger is None:
            ledger = self._open(batch, jobs, resume)
        else:
            ledger = self._ledger
            ledger.add(jobs)
        self._fingerprints.update((job.fingerprint, job.job_id) for job in jobs if job.same_as is None)
        self._execute(ledger, jobs)
        return [ledger.manifest.find(job.same_as or job.job_id) for job in jobs[: len(batch)]]

    def _find_resumed(self) -> Path | None:
        wish = self._master.sweep.resume
        return None if wish is None else sweep_to_resume(wish, Path(self._master.output_dir))

    def _open(self, batch: Sequence[Sequence[str]], jobs: Sequence[PlannedJob], resume: Path | None) -> Ledger:
        base = finite(base_values(batch, self._compose, self._swept))
        if resume is not None:
            ledger = Ledger.reopen(resume, base, None if self._is_search else jobs)
        else:
            axes = {
                key: list(dict.fromkeys(text.partition("=")[2] for job in batch for text in job if key_of(text) == key))
                for key in self._swept
            }
            stored = [[text for text in job if key_of(text) != "sweep.resume"] for job in batch]
            manifest = Manifest(
                now(), _sweep_name(jobs[0].config, axes), stored, axes, base, shlex.join(["python", *sys.argv])
            )
            named_by_user = any(key_of(text) == "hydra.sweep.dir" for text in self._master.hydra.overrides.hydra)
            ledger = Ledger.create(Path(self._master.hydra.sweep.dir), manifest, may_rename=not named_by_user)
        self._ledger = ledger
        with read_write(self._master.hydra.sweep):
            self._master.hydra.sweep.dir = str(ledger.folder)  # where a search writes its own summary
        if resume is None or self._is_search:
            ledger.add(jobs)
        self._greet(ledger, jobs)
        self._server = ForkServer(self._workshop.preload)  # imports while the store of the parent run opens
        self._parent = ParentRun.open(jobs[0].config, ledger.manifest.name, ledger.manifest.mlflow_parent_run_id)
        ledger.manifest.mlflow_parent_run_id = self._parent.run_id
        ledger.save()
        return ledger

    def _greet(self, ledger: Ledger, jobs: Sequence[PlannedJob]) -> None:
        parts = [f"{sum(job.same_as is None for job in jobs)} jobs" if not self._is_search else "a search"]
        if controls := [job.control for job in jobs if job.control]:
            parts.append(f"{len(controls)} of them controls ({', '.join(dict.fromkeys(controls))})")
        if repeated := sum(job.same_as is not None for job in jobs):
            parts.append(f"{repeated} more that compute the same as one of these")
        if finished := ledger.manifest.count(FINISHED):
            parts.append(f"{finished} finished already")
        say(f"sweep {ledger.folder}: {', '.join(parts)}; {jobs[0].config.sweep.workers} at a time")

    def _execute(self, ledger: Ledger, jobs: Sequence[PlannedJob]) -> None:
        config, parent = jobs[0].config, self._parent
        assert self._server is not None
        assert parent is not None
        threads = threads_per_job(config.sweep.workers)
        specs = [
            JobSpec(job.job_id, job.name, job.config, folder, self._workshop.function, parent.run_id, threads)
            for job, folder in ledger.unfinished(jobs)
        ]
        if not specs:
            return
        progress = Progress(len(specs))

        def on_start(spec: JobSpec) -> None:
            ledger.start(spec)
            progress.started(spec)

        def on_end(job: Ended) -> None:
            state = ledger.end(job.spec, job.outcome)
            if state != FINISHED:
                parent.end_child(job.spec.folder, state)
            progress.ended(job, state)

        pool = Pool(self._server, config.sweep.workers, on_start, on_end, grace_seconds=self._workshop.grace_seconds)
        try:
            pool.run(specs, self._may_go_on)
        finally:
            progress.close()
        if not self._may_go_on():
            key = "sweep.fail_fast" if config.sweep.fail_fast else "sweep.max_failures"
            raise SweepError(
                key, f"the sweep stopped after {ledger.failures} failed", remedy=self._resume_command(ledger.folder)
            )

    def _may_go_on(self) -> bool:
        assert self._ledger is not None
        assert self._config is not None
        rules, failures = self._config.sweep, self._ledger.failures
        return not (failures and rules.fail_fast) and (rules.max_failures is None or failures <= rules.max_failures)

    def _print_plan(self, jobs: Sequence[PlannedJob], resume: Path | None) -> None:
        from tokensieve.pipeline import plan

        stages = {}
        for job in jobs:
            if job.same_as is None:
                steps = plan(job.config)
                cached, to_do = ([step.stage for step in steps if step.cached is known] for known in (True, False))
                stages[job.job_id] = (join_stages(cached), join_stages(to_do))
        known = read_manifest(resume).jobs if resume is not None else []
        say(plan_table(jobs, {entry.id: entry.state for entry in known if entry.same_as is None}, stages))
        say(f"{len(stages)} jobs would run, {jobs[0].config.sweep.workers} at a time; nothing was started")

    def _resume_command(self, folder: Path, overrides: Sequence[Sequence[str]] | None = None) -> str:
        if overrides is None:
            overrides = self._ledger.manifest.overrides if self._ledger else []
        chosen = list(dict.fromkeys(text for job in overrides for text in job if key_of(text) in CONTROLLER_KEYS))
        return resume_command(sys.argv, str(folder), chosen)

    def close(self, *, interrupted: bool = False) -> int:
        """Report, end the parent run, say what failed and how to resume. Returns the exit code: 0, 1, or 130."""
        ledger = self._ledger
        if ledger is None:
            return 130 if interrupted else 0
        unfinished = ledger.manifest.count(PENDING, RUNNING, FAILED, KILLED)
        try:
            if self._parent is not None:
                status = KILLED if interrupted else FAILED if unfinished else FINISHED
                self._parent.close(ledger.folder, status, with_report=not interrupted)
        finally:
            self._tell_what_is_left(ledger, unfinished)
            self._ledger = None
            ledger.close()
        return 130 if interrupted else 1 if unfinished else 0

    def _tell_what_is_left(self, ledger: Ledger, unfinished: int) -> None:
        for entry in ledger.manifest.jobs:
            if entry.state == FAILED:
                say(f"FAILED {entry.name}: {entry.error} (log: {ledger.folder / entry.dir / 'log.txt'})")
        if unfinished:
            say(f"{unfinished} of {len(ledger.manifest.jobs)} jobs are not finished. To resume:")
            say(f"    {self._resume_command(ledger.folder)}")


def close_sessions(*, interrupted: bool = False) -> int:
    """Close every sweep that this process began; the highest exit code."""
    codes = [0]
    while _open_sessions:
        codes.append(_open_sessions.pop().close(interrupted=interrupted))
    return max(codes)


def _validate(config: RunConfig) -> None:
    from tokensieve.pipeline import validate

    validate(config)


def _sweep_name(config: RunConfig, axes: dict[str, list[str]]) -> str:
    varied = " ".join(
        f"{key}={','.join(values)}" if len(values) <= _VALUES_IN_NAME else f"{key} ({len(values)} values)"
        for key, values in axes.items()
    )
    return f"{config.model.name}/{config.dataset.name} {varied}".strip()[:200]
