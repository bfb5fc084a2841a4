"""The sweep's folder in use: its lock, its manifest, and each job's state as it changes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from tokensieve.errors import SweepError
from tokensieve.sweep.compose import key_of
from tokensieve.sweep.folder import claim_existing, claim_new
from tokensieve.sweep.job import JobSpec, Outcome
from tokensieve.sweep.left_out import LeftOut
from tokensieve.sweep.manifest import (
    FAILED,
    FINISHED,
    KILLED,
    PENDING,
    PREEMPTED,
    PRUNED,
    RUNNING,
    SKIPPED,
    SUBMITTED,
    JobEntry,
    Manifest,
    finite,
    next_number,
    now,
    read_manifest,
    write_json,
)
from tokensieve.sweep.plan import PlannedJob
from tokensieve.sweep.resume import Revision


@dataclass(slots=True)
class Ledger:
    """Everything written about a sweep goes through here, so that sweep.json is never behind what happened."""

    folder: Path
    lock: FileLock
    manifest: Manifest
    failures: int = field(default=0, init=False)

    @classmethod
    def create(cls, wanted: Path, manifest: Manifest, *, may_rename: bool) -> Ledger:
        folder, lock = claim_new(wanted, may_rename=may_rename)
        manifest.number = next_number(folder.parent)
        return cls(folder, lock, manifest)

    @classmethod
    def reopen(cls, folder: Path, seen: Manifest) -> Ledger:
        """Continue the sweep in `folder`, whose jobs were planned by the manifest as it was `seen`.

        Raises:
            SweepError: it runs elsewhere, is damaged, or was changed meanwhile.
        """
        lock = claim_existing(folder)
        try:
            manifest = read_manifest(folder)  # again, now that nobody else writes it
            if manifest.overrides != seen.overrides or manifest.base != seen.base:
                raise SweepError(str(folder), "was changed by another process at this moment", remedy="resume it again")
        except BaseException:
            lock.release()
            raise
        return cls(folder, lock, manifest)

    def revise(self, revision: Revision, **values: Any) -> None:
        """Take off what is no longer asked for; `add` then saves it together with what is new.

        `values`: name, axes, base and command of the manifest, as they are with that.
        """
        dropped = {entry.id for entry in revision.dropped}
        self.manifest.jobs = [
            entry
            for entry in self.manifest.jobs
            if entry.id not in dropped or entry.same_as is not None or entry.state == FINISHED
        ]
        self.manifest = replace(self.manifest, overrides=revision.batch, **values)

    def add(self, jobs: Sequence[PlannedJob]) -> None:
        """Append jobs; one that the manifest holds already (a search came back to it) keeps its entry and state."""
        known = {entry.id for entry in self.manifest.jobs if entry.same_as is None}
        for job in jobs:
            if job.same_as is not None or job.job_id not in known:
                state = PENDING if job.same_as is None else SKIPPED
                place = self._place(job.same_as or job.job_id)
                entry = JobEntry(job.job_id, job.name, list(job.overrides), place, state, job.same_as, job.control)
                self.manifest.jobs.append(entry)
            for key, values in self.manifest.axes.items():  # of a search, which finds its values as it goes
                given = [text.partition("=")[2] for text in job.overrides if key_of(text) == key and not job.control]
                values += [value for value in given if value not in values]
        self.save()

    def leave_out(self, left_out: Sequence[LeftOut]) -> None:
        """Record combinations that are no jobs; those of a sweep that is resumed are recorded already."""
        known = [item["overrides"] for item in self.manifest.left_out]
        new = [item.to_json() for item in left_out if list(item.overrides) not in known]
        if new:
            self.manifest.left_out += new
            self.save()

    def _place(self, job_id: str) -> str:
        """`jobs/<8 hex>`; more digits where two ids begin alike."""
        taken = {entry.dir: entry.same_as or entry.id for entry in self.manifest.jobs}
        lengths = (length for length in (8, 16, 64) if taken.get(f"jobs/{job_id[:length]}", job_id) == job_id)
        return f"jobs/{job_id[: next(lengths)]}"

    def unfinished(self, jobs: Sequence[PlannedJob]) -> Iterator[tuple[PlannedJob, Path]]:
        """Jobs that are to run, with their folders."""
        for job in jobs:
            if job.same_as is None and (entry := self.manifest.find(job.job_id)).state not in (FINISHED, PRUNED):
                yield job, self.folder / entry.dir

    def start(self, spec: JobSpec, *, on_cluster: bool = False, restarts: int = 0) -> None:
        entry = self.manifest.find(spec.job_id)
        if not on_cluster:
            entry.cluster_job = None
        entry.restarts = restarts
        entry.state, entry.started, entry.ended, entry.error = RUNNING, now(), None, None
        self.save()

    def submit(self, places: Mapping[str, str]) -> None:
        """Record jobs that a cluster has queued: job id -> its name there."""
        for job_id, place in places.items():
            entry = self.manifest.find(job_id)
            entry.state, entry.cluster_job, entry.started, entry.ended, entry.error = SUBMITTED, place, None, None, None
        self.save()

    def preempt(self, spec: JobSpec) -> None:
        """Record that the cluster stopped a job, and queued it again."""
        self.manifest.find(spec.job_id).state = PREEMPTED
        self.save()

    def find_submitted(self, job_ids: Sequence[str]) -> dict[str, str]:
        """Job id -> name in the cluster, of jobs that an earlier process left there, waiting or running."""
        entries = [self.manifest.find(job_id) for job_id in job_ids]
        left = (SUBMITTED, RUNNING, PREEMPTED)
        return {entry.id: entry.cluster_job for entry in entries if entry.state in left and entry.cluster_job}

    def end(self, spec: JobSpec, outcome: Outcome) -> str:
        """Record how a job ended, here and in its folder; returns its state."""
        entry = self.manifest.find(spec.job_id)
        entry.state = _state_after(outcome)
        entry.ended, entry.error, entry.objective = now(), outcome.error, finite(outcome.objective)
        self.failures += entry.state == FAILED
        if entry.state != FINISHED:
            settle_status(spec, outcome, entry.state)
        self.save()
        return entry.state

    def find(self, job: PlannedJob) -> JobEntry:
        """The entry that holds, or will hold, the result of a job."""
        return self.manifest.find(job.same_as or job.job_id)

    def save(self) -> None:
        self.manifest.save(self.folder)

    def close(self) -> None:
        self.lock.release()


def _state_after(outcome: Outcome) -> str:
    if outcome.error is None:
        return FINISHED
    return KILLED if outcome.killed else PRUNED if outcome.pruned else FAILED


def settle_status(spec: JobSpec, outcome: Outcome, state: str) -> bool:
    """Write the end into status.json where the job did not do so itself; whether that was so.

    A job that died wrote nothing, and Lightning turns the interrupt of a stopped fit into a failure.
    """
    path = spec.folder / "status.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["status"] == state:
            return False
    except (OSError, ValueError, TypeError, KeyError):
        values = {"job_id": spec.job_id, "name": spec.name, "started": None, "stage": None}
    error = (
        None
        if state == KILLED
        else {"type": outcome.error_type or "JobDied", "message": outcome.error, "traceback": outcome.trace}
    )
    write_json(path, {**values, "status": state, "error": error, "ended": now()})
    return True
