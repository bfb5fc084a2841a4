"""Jobs in processes of their own, some at a time; they are stopped in order, or killed with all that they started."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from types import FrameType

import psutil

from tokensieve.errors import SweepError
from tokensieve.sweep.fork_server import STOP_SIGNALS, ForkServer
from tokensieve.sweep.job import JobSpec, Outcome, main

_POLL_SECONDS = 1.0


@dataclass(slots=True)
class _Running:
    spec: JobSpec
    process: ForkServerProcess
    results: connection.Connection
    started: float
    outcome: Outcome | None = None
    stop_requested: bool = False
    is_silent: bool = False  # it closed its connection: whatever it had to say is read


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that is over. `seconds` from the start of its process."""

    spec: JobSpec
    outcome: Outcome
    seconds: float


class Interrupted(KeyboardInterrupt):
    """The user stopped the sweep; its jobs are already stopped."""


class Pool:
    """Runs jobs, `workers` at a time.

    Args:
        on_start, on_end: called in this process, between jobs.
        grace_seconds: from SIGTERM to SIGKILL of a job's whole process group.
    """

    def __init__(
        self,
        server: ForkServer,
        workers: int,
        on_start: Callable[[JobSpec], None],
        on_end: Callable[[Ended], None],
        *,
        grace_seconds: float = 5.0,
    ) -> None:
        self._server = server
        self._workers = workers
        self._on_start = on_start
        self._on_end = on_end
        self._grace_seconds = grace_seconds
        self._running: list[_Running] = []

    def run(self, specs: Iterable[JobSpec], may_go_on: Callable[[], bool]) -> None:
        """Run `specs` in order until all are over, or until `may_go_on` is false after a job: the others are stopped.

        Raises:
            Interrupted: SIGINT, SIGTERM or SIGHUP came; every job was stopped and reported first.
        """
        waiting = deque(specs)
        with _stop_requests(self._kill_all) as requests:
            try:
                self._server.wait(requests.poll)
                while (waiting or self._running) and not requests.poll():
                    while waiting and len(self._running) < self._workers and not requests.poll():
                        self._start(waiting.popleft())
                    self._wait(requests)
                    if not may_go_on():
                        waiting.clear()
                        self._stop_all()
                if requests.poll():
                    self._stop_all()
                    raise Interrupted
            finally:
                if self._running:  # a fault of the sweep itself: leave no process behind
                    self._kill_all()

    def _start(self, spec: JobSpec) -> None:
        spec.folder.mkdir(parents=True, exist_ok=True)
        self._on_start(spec)
        context = multiprocessing.get_context("forkserver")
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(target=main, args=(spec, writer), name=spec.job_id[:8])
        self._server.ensure_running()
        try:
            process.start()
        except (EOFError, OSError) as error:
            rule = "the fork server, from which jobs start, died: out of memory, or killed by somebody"
            raise SweepError(spec.name, rule, received=repr(error), remedy="free memory, and resume") from error
        self._running.append(_Running(spec, process, reader, time.monotonic()))
        writer.close()

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
                self._on_end(Ended(job.spec, _judge(job), time.monotonic() - job.started))
                job.process.close()
                job.results.close()

    def _read(self, job: _Running) -> None:
        try:
            if not job.is_silent and job.results.poll():
                job.outcome = job.results.recv()
        except (EOFError, OSError):
            job.is_silent = True

    def _stop_all(self) -> None:
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


@contextmanager
def _stop_requests(kill_all: Callable[[], None]) -> Iterator[connection.Connection]:
    """A connection that becomes readable at the first stop signal; the second one kills at once."""
    reader, writer = connection.Pipe(duplex=False)
    count = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count == 1:
            writer.send_bytes(b"stop")
        else:
            kill_all()

    # What is ignored stays ignored: SIGHUP under nohup, SIGINT of a shell's background job.
    heeded = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, note) for number in heeded}
    try:
        yield reader
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        writer.close()
        reader.close()


__all__ = ["Ended", "Interrupted", "Pool", "describe_death"]
