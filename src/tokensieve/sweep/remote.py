"""A job on a machine of a cluster: what is sent there, and what it does there.

The process that the cluster starts only watches; the job has a fresh process of its own, as on the sweep's machine, so
that its death, whatever the cause, is seen and told, and no library of the cluster stands between it and its signals.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokensieve.run_folder import write_atomically
from tokensieve.sweep.devices import find_gpus
from tokensieve.sweep.events import Ended
from tokensieve.sweep.fork_server import Spawner
from tokensieve.sweep.job import JobSpec, Outcome, rank_suffix
from tokensieve.sweep.pool import Interrupted, Pool
from tokensieve.sweep.slots import Slots

MARK = "place.json"
RUNNING, PREEMPTED = "RUNNING", "PREEMPTED"
# Some clusters send SIGTERM just before the signal that asks for a requeue.
_SECOND_SIGNAL_SECONDS = 2.0
_TERMINATED = 143
_pools: list[Pool] = []  # of this process: what a signal must stop


@dataclass(frozen=True, slots=True)
class Mark:
    """What a job leaves in its folder when it starts. `attempt` counts its starts since it was submitted, from 1."""

    attempt: int
    state: str
    host: str


def read_mark(folder: Path) -> Mark | None:
    """The last mark of the job in `folder`."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        values = json.loads((folder / MARK).read_text(encoding="utf-8"))
        return Mark(int(values["attempt"]), str(values["state"]), str(values["host"]))
    return None


def _write_mark(folder: Path, attempt: int, state: str) -> None:
    values = {"attempt": attempt, "state": state, "host": socket.gethostname(), "process": os.getpid()}
    write_atomically(folder / MARK, json.dumps(values))


@dataclass(slots=True)
class RemoteJob:
    """One job as a cluster receives it: called there, it runs the job.

    Args:
        spec: what the job's process is told; its folder may be relative to `cwd`.
        cwd: the sweep's working directory, which must exist on every node.
        environment: variables that the cluster does not hand on by itself; None: one that must not be set.
        num_ranks: tasks that the cluster starts for this job, each of which calls it; 1: the job starts its own ranks.
        grace_seconds: from SIGTERM to SIGKILL of the job.
        has_devices: the cluster gave the job its GPUs. Else it waits for free ones of the machine.
        answers_when_stopped: return an outcome after SIGTERM. Else leave by SystemExit, without a result: whether the
            job was cancelled, or is queued again, is then the cluster's to say.
    """

    spec: JobSpec
    cwd: str
    environment: Mapping[str, str | None] = field(default_factory=dict)
    num_ranks: int = 1
    grace_seconds: float = 5.0
    has_devices: bool = True
    answers_when_stopped: bool = False

    def __call__(self) -> Outcome:
        os.chdir(self.cwd)
        for name, value in self.environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        if self.num_ranks == 1:  # else libraries in the job would take it for a rank
            os.environ.pop("SLURM_NTASKS", None)
        is_first = not rank_suffix()
        self.spec.folder.mkdir(parents=True, exist_ok=True)
        if is_first:
            mark = read_mark(self.spec.folder)
            _write_mark(self.spec.folder, mark.attempt + 1 if mark is not None else 1, RUNNING)
        heard = _Heard()
        gpus = [] if self.has_devices or self.spec.config.trainer.accelerator == "cpu" else find_gpus()
        slots = Slots(gpus, jobs_per_device=self.spec.config.sweep.jobs_per_device)
        slots.check([self.spec.config])
        _pools.append(Pool(Spawner(), slots, heard, grace_seconds=self.grace_seconds))
        try:
            _pools[-1].run([self.spec], lambda: True)
        except Interrupted:
            if not self.answers_when_stopped:
                time.sleep(_SECOND_SIGNAL_SECONDS)
                raise SystemExit(_TERMINATED) from None
        finally:
            _pools.pop()
        if not is_first and heard.outcome.error is not None:
            raise RuntimeError(heard.outcome.error)  # ends the task with an error, and with it the tasks of other ranks
        return heard.outcome

    def checkpoint(self) -> Any:
        """Called by submitit when time is over or the node is taken: stop the job, which continues when it is queued
        again."""
        from submitit.helpers import DelayedSubmission

        for pool in _pools:
            pool.stop()
        mark = read_mark(self.spec.folder)
        _write_mark(self.spec.folder, mark.attempt if mark is not None else 1, PREEMPTED)
        return DelayedSubmission(self)


class _Heard:
    """What the one job of a pool came to."""

    def __init__(self) -> None:
        self.outcome = Outcome(killed=True, error="stopped")

    def ended(self, job: Ended) -> None:
        self.outcome = job.outcome

    def started(self, spec: JobSpec, host: str | None = None, restarts: int = 0) -> None:
        """Known here already."""

    def waits(self, reason: str) -> None:
        """The sweep shows the job as started."""

    def submitted(self, places: Any) -> None:
        """Known here already."""

    def preempted(self, spec: JobSpec) -> None:
        """Told by the mark."""
