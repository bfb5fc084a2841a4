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
from tokensieve.sweep.compose import CONTROLLER_KEYS, key_of
from tokensieve.sweep.execution import Execution, JobRecorder, plan_execution
from tokensieve.sweep.fork_server import PRELOAD
from tokensieve.sweep.invocation import Invocation, resume_command
from tokensieve.sweep.job import RUN_PIPELINE, JobSpec
from tokensieve.sweep.ledger import Ledger
from tokensieve.sweep.manifest import (
    FAILED,
    FINISHED,
    KILLED,
    PENDING,
    PREEMPTED,
    RUNNING,
    SUBMITTED,
    JobEntry,
    Manifest,
    now,
    read_manifest,
)
from tokensieve.sweep.parent_run import ParentRun
from tokensieve.sweep.plan import PlannedJob
from tokensieve.sweep.planner import Earlier, Plan, Planner, name_sweep
from tokensieve.sweep.resume import Revision, follows_file, require_same_base, revise, sweep_to_resume
from tokensieve.sweep.terminal import say, show_plan, tell_what_is_left

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
        self._planner = Planner(loader, master, is_search=is_search)
        self._master = master
        self._workshop = workshop
        self._is_search = is_search
        self._ledger: Ledger | None = None
        self._parent: ParentRun | None = None
        self._execution: Execution | None = None
        self._config: RunConfig | None = None
        _open_sessions.append(self)

    def run_batch(self, batch: Sequence[Sequence[str]]) -> list[JobEntry]:
        """Plan and run jobs; their entries in the manifest, in the batch's order.

        Raises:
            ExceptionGroup: of every job that cannot run; nothing was started. SweepError: the sweep cannot start, or
            was stopped by fail_fast or max_failures. Interrupted: by Ctrl-C. SystemExit(0): after a dry run.
        """
        refuse_joined("--multirun")
        plan = self._plan(batch)
        jobs = plan.jobs
        if not jobs:
            if self._ledger is not None:
                self._ledger.leave_out(plan.left_out)
            return [item.to_entry() for item in plan.left_out]
        self._config = jobs[0].config
        if self._execution is None:
            shop = self._workshop
            self._execution = plan_execution([job.config for job in jobs], shop.preload, shop.grace_seconds)
        if self._config.dry_run:
            known = plan.earlier.manifest.jobs if plan.earlier is not None else []
            show_plan(jobs, {entry.id: entry.state for entry in known if entry.same_as is None}, self._where(jobs))
            raise SystemExit(0)
        if self._ledger is None:
            ledger = self._open(plan)
        else:
            ledger = self._ledger
            ledger.add(plan.new)
        ledger.leave_out(plan.left_out)
        self._execute(ledger, jobs)
        if plan.revision is not None:
            return [ledger.find(job) for job in jobs]
        refused = {item.overrides: item.to_entry() for item in plan.left_out}
        planned = iter(jobs)  # in the batch's order, without what was left out
        return [refused.get(tuple(overrides)) or ledger.find(next(planned)) for overrides in batch]

    def _plan(self, batch: Sequence[Sequence[str]]) -> Plan:
        wish = self._master.sweep.resume
        if wish is None or self._ledger is not None:
            return Plan(batch, *self._planner.plan(batch))
        folder = sweep_to_resume(wish, Path(self._master.output_dir))
        manifest = read_manifest(folder)
        earlier = Earlier(folder, manifest)
        self._planner.resume(manifest)
        if self._is_search:
            require_same_base(manifest, self._planner.base(batch))
            return Plan(batch, *self._planner.plan(batch), earlier=earlier)
        command = self._resume_command(folder, manifest.overrides)
        revision = revise(manifest, batch, follows_file=follows_file(self._master), command=command)
        kept = self._planner.plan_kept(manifest, revision)
        return Plan(revision.batch, *self._planner.plan(revision.added), kept, earlier, revision)

    def _open(self, plan: Plan) -> Ledger:
        config, base, axes = plan.jobs[0].config, self._planner.base(plan.batch), self._planner.axes(plan.batch)
        name = name_sweep(config, axes, self._master, is_search=self._is_search)
        if plan.earlier is None:
            stored, command = [list(job) for job in plan.batch], shlex.join(["python", *sys.argv])
            manifest = Manifest(now(), name, stored, axes, base, command)
            named_by_user = any(key_of(text) == "hydra.sweep.dir" for text in self._master.hydra.overrides.hydra)
            ledger = Ledger.create(Path(self._master.hydra.sweep.dir), manifest, may_rename=not named_by_user)
        else:
            ledger = Ledger.reopen(plan.earlier.folder, plan.earlier.manifest)
            if plan.revision is not None and plan.revision.describe():
                command = Invocation.parse(ledger.manifest.command).under(Invocation.read(sys.argv)).to_command()
                ledger.revise(plan.revision, name=name, axes=axes, base=base, command=command)
        self._ledger = ledger
        with read_write(self._master.hydra.sweep):
            self._master.hydra.sweep.dir = str(ledger.folder)  # where a search writes its own summary
        ledger.add(plan.new)
        self._greet(ledger, plan.jobs, plan.revision)
        assert self._execution is not None
        self._execution.start(ledger.folder)  # imports while the store of the parent run opens
        self._parent = ParentRun.open(config, ledger.manifest.name, ledger.manifest.mlflow_parent_run_id)
        if self._parent.run_id is not None:  # a resume without a server must not lose the parent of the jobs so far
            ledger.manifest.mlflow_parent_run_id = self._parent.run_id
            ledger.save()
        return ledger

    def _greet(self, ledger: Ledger, jobs: Sequence[PlannedJob], revision: Revision | None) -> None:
        parts = [f"{sum(job.same_as is None for job in jobs)} jobs" if not self._is_search else "a search"]
        if controls := [job.control for job in jobs if job.control]:
            parts.append(f"{len(controls)} of them controls ({', '.join(dict.fromkeys(controls))})")
        if repeated := sum(job.same_as is not None for job in jobs):
            parts.append(f"{repeated} more that compute the same as one of these")
        if finished := ledger.manifest.count(FINISHED):
            parts.append(f"{finished} finished already")
        if revision is not None:
            parts += revision.describe()
        say(f"sweep {ledger.folder}: {', '.join(parts)}; {self._where(jobs)}")

    def _where(self, jobs: Sequence[PlannedJob]) -> str:
        assert self._execution is not None
        return self._execution.describe([job.config for job in jobs if job.same_as is None])

    def _execute(self, ledger: Ledger, jobs: Sequence[PlannedJob]) -> None:
        config, parent = jobs[0].config, self._parent
        assert self._execution is not None
        assert parent is not None
        specs = [
            JobSpec(job.job_id, job.name, job.config, folder, self._workshop.function, parent.run_id)
            for job, folder in ledger.unfinished(jobs)
        ]
        if not specs:
            return
        recorder = JobRecorder(ledger, parent, len(specs))
        try:
            self._execution.run(specs, recorder, self._may_go_on)
        finally:
            recorder.close()
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

    def _resume_command(self, folder: Path, overrides: Sequence[Sequence[str]] | None = None) -> str:
        if overrides is None:
            overrides = self._ledger.manifest.overrides if self._ledger else []
        chosen = list(dict.fromkeys(text for job in overrides for text in job if key_of(text) in CONTROLLER_KEYS))
        return resume_command(sys.argv, str(folder), chosen)

    def close(self, *, interrupted: bool = False) -> int:
        """Report, end the parent run, say what failed and how to resume. Returns the exit code: 0, 1, or 130."""
        ledger = self._ledger
        if self._execution is not None:
            self._execution.close()
        if ledger is None:
            return 130 if interrupted else 0
        unfinished = ledger.manifest.count(PENDING, SUBMITTED, RUNNING, PREEMPTED, FAILED, KILLED)
        try:
            if self._parent is not None:
                status = KILLED if interrupted else FAILED if unfinished else FINISHED
                self._parent.close(ledger.folder, status, with_report=not interrupted)
        finally:
            tell_what_is_left(ledger.manifest, ledger.folder, unfinished, self._resume_command(ledger.folder))
            self._ledger = None
            ledger.close()
        return 130 if interrupted else 1 if unfinished else 0


def close_sessions(*, interrupted: bool = False) -> int:
    """Close every sweep that this process began; the highest exit code."""
    codes = [0]
    while _open_sessions:
        codes.append(_open_sessions.pop().close(interrupted=interrupted))
    return max(codes)
