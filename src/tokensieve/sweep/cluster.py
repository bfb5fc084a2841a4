"""Jobs handed to a cluster, watched until they are over. Slurm and Ray differ only in what `Cluster` asks of them.

Hydra's own launchers for them (hydra-submitit-launcher, hydra-ray-launcher) are understood by name and key
(`hydra_launchers.py`), but the libraries under them are called here: those launchers submit Hydra's task function, job
by job of the command line, and wait for the last of them. They know nothing of duplicates, controls, resuming, the
parent run, or the state of a single job; all of that is planned here once, for every launcher.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Protocol

from tokensieve.config import RunConfig
from tokensieve.errors import ConfigError
from tokensieve.sweep.events import Ended, Watcher
from tokensieve.sweep.job import Outcome
from tokensieve.sweep.remote import MARK, PREEMPTED, RemoteJob, read_mark
from tokensieve.sweep.stop import Interrupted, stop_requests


class Handle(Protocol):
    """One submitted job. `place`: its name in the cluster, by which a later process finds it again."""

    place: str

    def look(self) -> Outcome | None:
        """What it came to; None while it waits or runs."""

    def is_requeued(self) -> bool:
        """Whether the cluster says that it stopped the job, which will run again."""


class Cluster(Protocol):
    """What runs jobs elsewhere."""

    poll_seconds: float
    gives_devices: bool  # else a job takes free GPUs of its machine
    answers_when_stopped: bool  # a stopped job's outcome still reaches this process

    def check(self, configs: Sequence[RunConfig]) -> None:
        """Raise a ConfigError for a job that could never run there, as far as it can be known."""

    def environment(self) -> Mapping[str, str | None]:
        """What of this process's environment goes with a job, in memory alone: it may hold keys. None: is not set."""

    def submit(self, jobs: Sequence[RemoteJob]) -> Sequence[Handle]:
        """Queue `jobs`; their handles in the same order. Raises SweepError where the cluster refuses."""

    def adopt(self, job: RemoteJob, place: str) -> Handle | None:
        """The handle of a job that an earlier process submitted as `place`; None if the cluster no longer has it."""

    def cancel(self, handles: Sequence[Handle], *, force: bool) -> None:
        """Stop jobs: kindly, or by force."""

    def close(self) -> None:
        """Release the connection; nothing is running any more."""


def count_gpus(config: RunConfig) -> int:
    """GPUs of a job on each of its nodes.

    Raises:
        ConfigError: nobody can say how many.
    """
    launcher, trainer = config.launcher, config.trainer
    if launcher.gpus is not None:
        return launcher.gpus
    if trainer.accelerator == "cpu":
        return 0
    if trainer.devices == "auto":
        raise ConfigError(
            "trainer.devices",
            f"auto counts the GPUs of a node, which launcher={launcher.name} must ask for",
            received="auto",
            remedy="set launcher.gpus, or trainer.devices, to a number",
        )
    return int(trainer.devices)


def count_ranks(config: RunConfig) -> int:
    """Tasks that Slurm starts for a job: one for each rank over several nodes, else one that starts its own ranks."""
    trainer = config.trainer
    if trainer.num_nodes == 1:
        return 1
    return trainer.num_nodes * (count_gpus(config) if trainer.devices == "auto" else int(trainer.devices))


@dataclass(slots=True)
class _Submitted:
    job: RemoteJob
    handle: Handle
    attempt: int = 0
    since: float = 0.0
    is_preempted: bool = False


class ClusterPool:
    """Runs jobs on `cluster`, `parallel` at a time at most.

    Args:
        watcher: hears of every job, in this process.
        stop_seconds: how long cancelled jobs have to end.
    """

    def __init__(self, cluster: Cluster, watcher: Watcher, *, parallel: int | None, stop_seconds: float) -> None:
        self._cluster = cluster
        self._watcher = watcher
        self._parallel = parallel
        self._stop_seconds = stop_seconds
        self._submitted: list[_Submitted] = []
        self._is_stopping = False

    def run(self, jobs: Sequence[RemoteJob], earlier: Mapping[str, str], may_go_on: Callable[[], bool]) -> None:
        """Run `jobs` until all are over, or until `may_go_on` is false after a job: the others are cancelled.

        `earlier`: job id -> place, of jobs that a process before this one submitted and did not see the end of.

        Raises:
            Interrupted: SIGINT, SIGTERM or SIGHUP came; every job, waiting or running, was cancelled and reported.
        """
        with stop_requests(self._kill_all) as requests:
            try:
                waiting = self._adopt(jobs, earlier)
                while (waiting or self._submitted) and not requests.poll():
                    self._submit(waiting)
                    connection.wait([requests], self._cluster.poll_seconds)
                    self._look()
                    if not may_go_on():
                        waiting.clear()
                        self._stop()
                if requests.poll():
                    self._stop()
                    raise Interrupted
            finally:
                if self._submitted:  # a fault of the sweep itself: leave nothing behind
                    self._kill_all()

    def _adopt(self, jobs: Sequence[RemoteJob], earlier: Mapping[str, str]) -> deque[RemoteJob]:
        waiting: deque[RemoteJob] = deque()
        for job in jobs:
            place = earlier.get(job.spec.job_id)
            handle = self._cluster.adopt(job, place) if place is not None else None
            if handle is None:
                waiting.append(job)
            else:
                self._submitted.append(_Submitted(job, handle))
        return waiting

    def _submit(self, waiting: deque[RemoteJob]) -> None:
        room = len(waiting) if self._parallel is None else self._parallel - len(self._submitted)
        batch = [waiting.popleft() for _ in range(min(room, len(waiting)))]
        if not batch:
            return
        for job in batch:
            job.spec.folder.mkdir(parents=True, exist_ok=True)
            (job.spec.folder / MARK).unlink(missing_ok=True)
        handles = self._cluster.submit(batch)
        self._submitted += [_Submitted(job, handle) for job, handle in zip(batch, handles, strict=True)]
        self._watcher.submitted([(job.spec, handle.place) for job, handle in zip(batch, handles, strict=True)])

    def _look(self) -> None:
        for job in list(self._submitted):
            outcome = job.handle.look()
            mark = read_mark(job.job.spec.folder)
            if mark is not None and mark.attempt != job.attempt:
                job.attempt, job.since, job.is_preempted = mark.attempt, time.monotonic(), False
                self._watcher.started(job.job.spec, mark.host, mark.attempt - 1)
            if outcome is not None:
                self._end(job, outcome)
                continue
            is_stopped = mark is not None and (mark.state == PREEMPTED or job.handle.is_requeued())
            if is_stopped and not job.is_preempted and not self._is_stopping:
                job.is_preempted = True
                self._watcher.preempted(job.job.spec)

    def _end(self, job: _Submitted, outcome: Outcome) -> None:
        self._submitted.remove(job)
        if self._is_stopping and outcome.error is not None:
            outcome = Outcome(killed=True, error="stopped")
        seconds = time.monotonic() - job.since if job.attempt else 0.0
        self._watcher.ended(Ended(job.job.spec, outcome, seconds))

    def _stop(self) -> None:
        self._is_stopping = True
        for force in (False, True):
            if self._submitted:
                self._cluster.cancel([job.handle for job in self._submitted], force=force)
            deadline = time.monotonic() + self._stop_seconds
            while self._submitted and time.monotonic() < deadline:
                time.sleep(min(self._cluster.poll_seconds, 1.0))
                self._look()
        for job in list(self._submitted):
            self._end(job, Outcome(killed=True, error="stopped"))

    def _kill_all(self) -> None:
        self._is_stopping = True
        with contextlib.suppress(Exception):  # the fault that is on its way says more
            self._cluster.cancel([job.handle for job in self._submitted], force=True)


def describe_failure(how: str, log: Path) -> Outcome:
    """The outcome of a job that left no word itself."""
    return Outcome(error=f"{how} (see {log})" if log.exists() else how)
