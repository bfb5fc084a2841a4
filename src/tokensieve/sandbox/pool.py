"""Worker processes that judge jobs, kept for the life of this process; a lost one is replaced."""

from __future__ import annotations

import atexit
import logging
import os
import select
import time
from collections.abc import Sequence
from functools import cache
from typing import Final

from tqdm import tqdm

from tokensieve.errors import SandboxError
from tokensieve.sandbox.inside.wire import MAX_FRAME_BYTES
from tokensieve.sandbox.records import Outcome, Program, Query, Verdict
from tokensieve.sandbox.worker_process import Containment, Worker

logger = logging.getLogger(__name__)

# A worker answers within the job's limit by itself; past this it is taken for lost.
_GRACE_SECONDS: Final = 60.0
_MAX_WORKERS: Final = 8


class Pool:
    """Workers of this process, started when first needed."""

    def __init__(self) -> None:
        self.idle: list[Worker] = []
        self.owner = os.getpid()

    def take(self) -> Worker:
        """An idle worker, or a new one; says once what containment is missing."""
        worker = self.idle.pop() if self.idle else Worker()
        _warn_once(worker.containment)
        return worker

    def close(self) -> None:
        """End all workers; only in the process that started them."""
        while self.idle:
            worker = self.idle.pop()
            if self.owner == os.getpid():
                worker.close()


_POOL = Pool()


def _pool() -> Pool:
    global _POOL
    if _POOL.owner != os.getpid():  # forked: the workers belong to the parent
        _POOL = Pool()
    return _POOL


@atexit.register
def _close_pool() -> None:
    _pool().close()


@cache
def _warn_once(found: Containment) -> None:
    if found.missing:
        logger.warning(
            "The sandbox is weaker here: this machine lets us contain neither %s. Untrusted programs run with resource "
            "limits, in a process group that is killed, but can reach more than they should.",
            " nor ".join(found.missing),
        )


def containment() -> Containment:
    """Start a worker and tell what containment this machine allows.

    Raises:
        SandboxError: no worker can run here.
    """
    pool = _pool()
    worker = pool.take()
    pool.idle.append(worker)
    return worker.containment


def run_jobs(
    jobs: Sequence[Program | Query],
    *,
    seconds: float = 5.0,
    memory_bytes: int = 512 * 2**20,
    workers: int | None = None,
    progress: str | None = None,
) -> list[Verdict]:
    """Judge every job, several at a time, and return the verdicts in the jobs' order.

    Args:
        jobs: programs and queries, in any mixture.
        seconds: wall-clock limit of one job, > 0.
        memory_bytes: address space of each process of a job.
        workers: jobs at a time; None: one for each usable processor, at most 8.
        progress: label of a progress bar; None: no bar.

    Raises:
        SandboxError: no worker can run here.
    """
    count = workers or min(_MAX_WORKERS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
    pool = _pool()
    verdicts: list[Verdict | None] = [None] * len(jobs)
    waiting = list(range(len(jobs)))[::-1]
    busy: dict[int, tuple[Worker, int, float]] = {}
    with tqdm(total=len(jobs), desc=progress, disable=None if progress else True, leave=False) as bar:
        try:
            while waiting or busy:
                while waiting and len(busy) < count:
                    at = waiting.pop()
                    verdicts[at] = _start(pool, busy, jobs[at], at, seconds, memory_bytes)
                    bar.update(verdicts[at] is not None)
                for at, verdict in _collect(pool, busy):
                    verdicts[at] = verdict
                    bar.update()
        finally:
            for worker, _, _ in busy.values():  # an interrupt: the jobs are not wanted any more
                worker.close()
    return [verdict for verdict in verdicts if verdict is not None]


def _start(
    pool: Pool,
    busy: dict[int, tuple[Worker, int, float]],
    job: Program | Query,
    at: int,
    seconds: float,
    memory_bytes: int,
) -> Verdict | None:
    """Give a job to a worker; a verdict only when it cannot be run."""
    if len(job.payload()) > MAX_FRAME_BYTES // 2:
        return Verdict(Outcome.ERROR, f"longer than {MAX_FRAME_BYTES // 2} bytes", 0.0)
    worker = pool.take()
    try:
        worker.send(job, seconds, memory_bytes)
    except OSError:  # it died while idle; a fresh one must work
        worker.close()
        worker = Worker()
        try:
            worker.send(job, seconds, memory_bytes)
        except OSError as error:
            worker.close()
            raise SandboxError("sandbox", "a fresh worker process died", received=str(error)) from error
    busy[worker.answers] = worker, at, time.monotonic() + seconds + _GRACE_SECONDS
    return None


def _collect(pool: Pool, busy: dict[int, tuple[Worker, int, float]]) -> list[tuple[int, Verdict]]:
    """Wait until something happens, and return what is done."""
    done = []
    poll = select.poll()  # not select: it refuses descriptors above 1023
    for fd in busy:
        poll.register(fd, select.POLLIN)
    ready = [fd for fd, _ in poll.poll(1000)] if busy else []
    for fd in list(busy):
        worker, at, deadline = busy[fd]
        if fd not in ready and time.monotonic() < deadline:
            continue
        del busy[fd]
        verdict = worker.receive() if fd in ready else None
        if verdict is None:
            worker.close()
            verdict = Verdict(Outcome.ERROR, "the sandbox's worker was lost", 0.0)
        else:
            pool.idle.append(worker)
        done.append((at, verdict))
    return done
