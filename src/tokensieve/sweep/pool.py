"""Jobs in processes of their own, some at a time; they are stopped in order, or killed with all that they started."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from multiprocessing import Pipe, connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import psutil

from tokensieve.sweep.events import Ended, Watcher
from tokensieve.sweep.job import JobSpec, Outcome, main
from tokensieve.sweep.slots import Lease, Slots
from tokensieve.sweep.stop import Interrupted, stop_requests

_POLL_SECONDS = 1.0


class ProcessSource(Protocol):
    """Where processes come from: the fork server, or, on a node of a cluster, nothing but Python."""

    def start(self, target: Callable[..., None], arguments: Sequence[Any], name: str) -> BaseProcess:
        """A running process."""

    def wait(self, is_over: Callable[[], bool]) -> None:
        """Return when it can start processes, or soon after `is_over()`."""


@dataclass(slots=True)
class _Running:
    spec: JobSpec
    process: BaseProcess
    results: connection.Connection
    lease: Lease
    started: float
    outcome: Outcome | None = None
    stop_requested: bool = False
    is_silent: bool = False  # it closed its connection: whatever it had to say is read


class Pool:
    """Runs jobs on this machine, as many at a time as its slots hold.

    Args:
        source: of processes.
        slots: of this machine; each job holds its GPUs as long as its process lives.
        watcher: hears of every job, in this process.
        grace_seconds: from SIGTERM to SIGKILL of a job's whole process group.
    """

    def __init__(self, source: ProcessSource, slots: Slots, watcher: Watcher, *, grace_seconds: float = 5.0) -> None:
        self._source = source
        self._slots = slots
        self._watcher = watcher
        self._grace_seconds = grace_seconds
        self._running: list[_Running] = []
        self._has_told_of_others = False

    def run(self, specs: Iterable[JobSpec], may_go_on: Callable[[], bool]) -> None:
        """Run `specs` in order until all are over, or until `may_go_on` is false after a job: the others are stopped.

        Raises:
            Interrupted: SIGINT, SIGTERM or SIGHUP came; every job was stopped and reported first.
        """
        waiting = deque(specs)
        with stop_requests(self._kill_all) as requests:
            try:
                self._source.wait(requests.poll)
                while (waiting or self._running) and not requests.poll():
                    while waiting and len(self._running) < self._slots.limit and not requests.poll():
                        lease = self._take(waiting[0])
                        if lease is None:
                            break
                        self._start(waiting.popleft(), lease)
                    self._wait(requests)
                    if not may_go_on():
                        waiting.clear()
                        self.stop()
                if requests.poll():
                    self.stop()
                    raise Interrupted
            finally:
                if self._running:  # a fault of the sweep itself: leave no process behind
                    self._kill_all()

    def _take(self, spec: JobSpec) -> Lease | None:
        lease = self._slots.take(spec.config)
        if lease is None and self._slots.is_taken_elsewhere and not self._has_told_of_others:
            self._has_told_of_others = True
            self._watcher.waits(
                f"waiting for {self._slots.num_needed(spec.config)} of the visible GPUs: other sweeps of this machine"
                " hold them (sweep.jobs_per_device lets jobs share one)"
            )
        return lease

    def _start(self, spec: JobSpec, lease: Lease) -> None:
        spec = replace(spec, visible_devices=lease.visible)
        reader, writer = Pipe(duplex=False)
        try:
            spec.folder.mkdir(parents=True, exist_ok=True)
            self._watcher.started(spec)
            process = self._source.start(main, (spec, writer, lease.descriptors()), spec.job_id[:8])
        except BaseException:
            self._slots.give_back(lease)
            raise
        finally:
            writer.close()
        self._running.append(_Running(spec, process, reader, lease, time.monotonic()))

    def _wait(self, requests: connection.Connection | None = None, timeout: float = _POLL_SECONDS) -> None:
        """Sleep until a job says something or ends, a stop is requested, or the time is over; report what ended."""
        speaking = [job.results for job in self._running if not job.is_silent]
        sentinels = [job.process.sentinel for job in self._running]
        connection.wait([*speaking, *sentinels, *([requests] if requests else [])], timeout)
        for job in list(self._running):
            self._read(job)
            if job.process.exitcode is not None:
                self._read(job)
                self._running.remove(job)
                _kill_group(job.process.pid)  # what the job left running
                self._slots.give_back(job.lease)
                self._watcher.ended(Ended(job.spec, _judge(job), time.monotonic() - job.started))
                job.process.close()
                job.results.close()

    def _read(self, job: _Running) -> None:
        try:
            if not job.is_silent and job.results.poll():
                job.outcome = job.results.recv()
        except (EOFError, OSError):
            job.is_silent = True

    def stop(self) -> None:
        """Stop every job: kindly at first, after the grace by force. Returns when all are over and reported."""
        for job in self._running:
            job.stop_requested = True
            if job.process.exitcode is None:
                job.process.terminate()
        deadline = time.monotonic() + self._grace_seconds
        while self._running and (left := deadline - time.monotonic()) > 0:
            self._wait(timeout=min(left, _POLL_SECONDS))
        self._kill_all()
        while self._running:
            self._wait()

    def _kill_all(self) -> None:
        for job in self._running:
            job.stop_requested = True
            if job.process.exitcode is None:
                _kill_tree(job.process.pid)


def _judge(job: _Running) -> Outcome:
    if job.outcome is not None and (job.outcome.error is None or not job.stop_requested):
        return job.outcome
    if job.stop_requested:
        return Outcome(killed=True, error="stopped")
    return Outcome(error=describe_death(job.process.exitcode or 0))


def describe_death(code: int) -> str:
    """Why a process is gone that reported nothing.

    >>> describe_death(-11)
    'died by SIGSEGV'
    """
    if code == -signal.SIGKILL:
        return "died by SIGKILL: out of memory, or killed by somebody"
    if code < 0:
        return f"died by {signal.Signals(-code).name}"
    return f"ended with exit code {code} and without a result"


def _kill_group(leader: int | None) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if leader is not None:
            os.killpg(leader, signal.SIGKILL)


def _kill_tree(pid: int | None) -> None:
    """SIGKILL a living job, its process group and every descendant: a sandboxed program has a group of its own."""
    doomed: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        job = psutil.Process(pid)
        doomed = [job, *job.children(recursive=True)]
    for process in doomed:
        with contextlib.suppress(psutil.Error):
            process.kill()
    _kill_group(pid)


__all__ = ["Ended", "Interrupted", "Pool", "describe_death"]
