"""The sweep's folder in use: its lock, its manifest, and each job's state as it changes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from tokensieve.sweep.folder import claim_existing, claim_new
from tokensieve.sweep.job import JobSpec, Outcome
from tokensieve.sweep.manifest import (
    FAILED,
    FINISHED,
    KILLED,
    PENDING,
    RUNNING,
    SKIPPED,
    JobEntry,
    Manifest,
    finite,
    now,
    read_manifest,
    write_json,
)
from tokensieve.sweep.plan import PlannedJob
from tokensieve.sweep.resume import require_same_base, require_same_jobs


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
        return cls(folder, lock, manifest)

    @classmethod
    def reopen(cls, folder: Path, base: Mapping[str, Any], jobs: Sequence[PlannedJob] | None) -> Ledger:
        """Continue the sweep in `folder`; `jobs` None leaves the jobs unchecked (a search plans them as it goes).

        Raises:
            SweepError: it runs elsewhere, is damaged, or no longer means the same.
        """
        lock = claim_existing(folder)
        try:
            manifest = read_manifest(folder)  # again, now that nobody else writes it
            require_same_base(manifest, base)
            if jobs is not None:
                require_same_jobs(manifest, jobs)
        except BaseException:
            lock.release()
            raise
        return cls(folder, lock, manifest)

    def add(self, jobs: Sequence[PlannedJob]) -> None:
        """Append jobs; one that the manifest holds already (a search came back to it) keeps its entry and state."""
        known = {entry.id for entry in self.manifest.jobs if entry.same_as is None}
        for job in jobs:
            if job.same_as is not None or job.job_id not in known:
                state = PENDING if job.same_as is None else SKIPPED
                place = self._place(job.same_as or job.job_id)
                entry = JobEntry(job.job_id, job.name, list(job.overrides), place, state, job.same_as, job.control)
                self.manifest.jobs.append(entry)
        self.save()

    def _place(self, job_id: str) -> str:
        """`jobs/<8 hex>`; more digits where two ids begin alike."""
        taken = {entry.dir: entry.same_as or entry.id for entry in self.manifest.jobs}
        lengths = (length for length in (8, 16, 64) if taken.get(f"jobs/{job_id[:length]}", job_id) == job_id)
        return f"jobs/{job_id[: next(lengths)]}"

    def unfinished(self, jobs: Sequence[PlannedJob]) -> Iterator[tuple[PlannedJob, Path]]:
        """Jobs that are to run, with their folders."""
        for job in jobs:
            if job.same_as is None and (entry := self.manifest.find(job.job_id)).state != FINISHED:
                yield job, self.folder / entry.dir

    def start(self, spec: JobSpec) -> None:
        entry = self.manifest.find(spec.job_id)
        entry.state, entry.started, entry.ended, entry.error = RUNNING, now(), None, None
        self.save()

    def end(self, spec: JobSpec, outcome: Outcome) -> str:
        """Record how a job ended, here and in its folder; returns its state."""
        entry = self.manifest.find(spec.job_id)
        entry.state = KILLED if outcome.killed else FINISHED if outcome.error is None else FAILED
        entry.ended, entry.error, entry.objective = now(), outcome.error, finite(outcome.objective)
        self.failures += entry.state == FAILED
        if entry.state != FINISHED:
            settle_status(spec, outcome, entry.state)
        self.save()
        return entry.state

    def save(self) -> None:
        self.manifest.save(self.folder)

    def close(self) -> None:
        self.lock.release()


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
