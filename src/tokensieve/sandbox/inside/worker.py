"""The worker: confined once, it forks a judge and a candidate for every program, and leaves nothing behind.

Job: a header frame (JSON: kind and limits) that the worker reads, then a payload frame that only the judge reads,
after the candidate was forked: neither the worker nor a candidate ever holds a test. Answer: one JSON frame.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import select
import signal
import socket
import time

from .candidate import Server
from .confine import Confinement, clear_scratch, confine_program, confine_worker, die_with_parent, forbid_forks
from .judge import judge
from .queries import compare_queries
from .wire import read_frame, write_frame

# Imported once here, so that a program's own import costs nothing.
import bisect, cmath, copy, functools, heapq, itertools, operator, re, statistics, string, typing  # noqa: E401, F401 # isort: skip

_START_SECONDS = 60.0


def main(scratch: str) -> None:
    """Serve jobs from standard input until it closes; answers go to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # else process 1 could be interrupted from inside
    null = os.open(os.devnull, os.O_RDWR)  # the confined root has no devices
    confinement = confine_worker(scratch)
    jobs, answers = os.dup(0), os.dup(1)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.environ.clear()
    os.environ.update(HOME=confinement.scratch, TMPDIR=confinement.scratch, PATH="", LANG="C.UTF-8")
    write_frame(answers, json.dumps(confinement.report()).encode())
    gc.collect()
    gc.freeze()
    while (header := read_frame(jobs)) is not None:
        answer = run_job(confinement, jobs, json.loads(header))
        write_frame(answers, json.dumps(answer).encode())


def run_job(confinement: Confinement, jobs: int, job: dict[str, float | str]) -> dict[str, object]:
    """Run one job to its end or its limit, and end every process that it started."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _run_judge(confinement, jobs, writer, job)
    os.close(writer)
    seconds = float(job["seconds"])
    try:
        if _wait(reader, jobs, _START_SECONDS) and os.read(reader, 1):
            started = time.monotonic()
            answer = _read_answer(reader, jobs, seconds)
            return {**answer, "seconds": time.monotonic() - started}
        os._exit(1)  # the payload was not read whole: the stream is of no more use
    finally:
        os.close(reader)
        _end_all(confinement, pid)
        clear_scratch(confinement)


def _wait(reader: int, jobs: int, seconds: float) -> bool:
    """Wait for the judge; false at the limit. The parent's death ends us, with all that the program started."""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    poll.register(jobs, 0)
    for fd, _ in poll.poll(seconds * 1000):
        if fd == reader:
            return True
        raise SystemExit
    return False


def _read_answer(reader: int, jobs: int, seconds: float) -> dict[str, object]:
    if not _wait(reader, jobs, seconds):
        return {"outcome": "timeout", "reason": f"no end after {seconds:g} s"}
    frame = read_frame(reader)  # written in one piece
    if frame is None:
        return {"outcome": "error", "reason": "the judge was killed"}
    return dict(json.loads(frame))


def _end_all(confinement: Confinement, group: int) -> None:
    """Kill all that the program started and wait until it is gone."""
    while True:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(-1, signal.SIGKILL) if confinement.own_processes else os.killpg(group, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.0005)


def _run_judge(confinement: Confinement, jobs: int, writer: int, job: dict[str, float | str]) -> None:
    """In the judge's process: fork the candidate, read the payload, judge, answer. Never returns."""
    try:
        os.setpgid(0, 0)
        os.chdir(confinement.scratch)
        here, there = socket.socketpair()
        python = job["kind"] == "python"
        seconds = float(job["seconds"])
        confine_program(
            confinement,
            cpu_seconds=math.ceil(seconds) + 1,
            memory_bytes=int(job["memory_bytes"]),
            file_bytes=int(job["file_bytes"]),
            processes=int(job["processes"]),
        )
        candidate = os.fork() if python else 0
        if python and candidate == 0:
            _run_candidate(confinement, there.detach())
        there.close()
        payload = read_frame(jobs, int(job["payload_bytes"]))
        os.close(jobs)
        if payload is None:
            os._exit(1)
        os.write(writer, b"!")
        told = json.loads(payload)
        if python:
            outcome, reason = judge(here.fileno(), candidate, told["source"], told["setup"], told["tests"])
        else:
            outcome, reason = compare_queries(told["database"], told["query"], told["gold"])
        answer = {"outcome": outcome, "reason": " ".join(reason.split())[:1000]}
        write_frame(writer, json.dumps(answer).encode())
    finally:
        os._exit(0)


def _run_candidate(confinement: Confinement, channel: int) -> None:
    """In the candidate's process: keep nothing open but the channel. Never returns."""
    try:
        os.dup2(channel, 3)
        os.closerange(4, 64)
        die_with_parent()
        forbid_forks(confinement)
        Server(3).serve()
    finally:
        os._exit(0)
