"""The parent's side: hand requests to child processes and collect their replies."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

import tokensieve
from tokensieve.errors import SandboxError

_MAX_WORKERS: Final = 8
_REQUESTS_PER_WORKER: Final = 32  # fewer are not worth the start of another child
_START_SECONDS: Final = 120.0
_GRACE_SECONDS: Final = 30.0  # a child ends its forks itself; past this it is taken for lost
_KEPT: Final = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")  # no token or key of ours reaches a child

Reply = Mapping[str, Any]


class Child:
    """One serving process; `at` is the request that it works on."""

    def __init__(self, module: str) -> None:
        self.at = -1
        self.deadline = 0.0
        self._buffer = b""
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        root = str(Path(tokensieve.__file__).parents[1])
        environment |= {
            "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]),
            "PYTHONHASHSEED": "0",  # sympy's order of terms, and so what it finds equal, must not vary
            "LANG": "C.UTF-8",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests, self.replies = self.process.stdin.fileno(), self.process.stdout.fileno()

    def wait_until_ready(self, subject: str) -> None:
        """Wait for the child's imports.

        Raises:
            SandboxError: it cannot serve, for the reason that it gives.
        """
        poll = select.poll()
        poll.register(self.replies, select.POLLIN)
        deadline = time.monotonic() + _START_SECONDS
        reply: Reply | None = None
        while reply is None and poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            reply = self.read()
        if not reply or "ready" not in reply:
            reason = (reply or {}).get("refused", "it did not start")
            remedy = "install what it names" if reply else "see whether python can start here"
            raise SandboxError(subject, "needs a working child process", received=reason, remedy=remedy)

    def send(self, at: int, request: Mapping[str, Any]) -> None:
        """Give it request number `at`. A child that is gone shows when its reply is read."""
        self.at = at
        self.deadline = time.monotonic() + float(request["seconds"]) + _GRACE_SECONDS
        view = memoryview(json.dumps(request).encode() + b"\n")
        try:
            while view:
                view = view[os.write(self.requests, view) :]
        except BrokenPipeError:
            return

    def read(self) -> Reply | None:
        """Read what is there: a whole reply, None for a part of one, and an empty reply when the child is gone."""
        chunk = os.read(self.replies, 2**16)
        if not chunk:
            return {}
        self._buffer += chunk
        if not self._buffer.endswith(b"\n"):
            return None
        reply: Reply = json.loads(self._buffer)
        self._buffer = b""
        return reply

    def close(self) -> None:
        """End it. A fork that it still waits for ends by its own timer."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.kill()
        self.process.wait()


def ask_all(
    module: str,
    requests: Sequence[Mapping[str, Any]],
    *,
    subject: str,
    workers: int | None = None,
    progress: str | None = None,
) -> list[Reply]:
    """Let child processes that run `module` answer all requests; the replies align with them.

    A reply without the keys that `module` gives was lost: the request met its limit, or its process died.

    Args:
        module: dotted name of a module that calls `serve` when run.
        requests: JSON values with `seconds` (wall-clock limit, > 0) and `memory_bytes` (address space).
        subject: who asks, for the error message.
        workers: children at a time; None: one for each usable processor and 32 requests, at most 8.
        progress: label of a progress bar; None: no bar.

    Raises:
        SandboxError: the child cannot serve here.
    """
    if not requests:
        return []
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    count = workers or min(_MAX_WORKERS, processors, -(-len(requests) // _REQUESTS_PER_WORKER))
    replies: list[Reply] = [{}] * len(requests)
    waiting = iter(enumerate(requests))
    busy: dict[int, Child] = {}

    def give_next(child: Child) -> None:
        following = next(waiting, None)
        if following is None:
            del busy[child.replies]
            child.close()
        else:
            child.send(*following)

    with tqdm(total=len(requests), desc=progress, disable=None if progress else True, delay=2, leave=False) as bar:
        try:
            for _ in range(count):
                child = Child(module)
                busy[child.replies] = child
            for child in list(busy.values()):
                child.wait_until_ready(subject)
                give_next(child)
            while busy:
                for child in _ready(busy):
                    reply = child.read() if time.monotonic() < child.deadline else {}
                    if reply is None:
                        continue
                    replies[child.at] = reply
                    bar.update()
                    give_next(child if reply else _replace(child, busy, module, subject))
        finally:
            for child in busy.values():
                child.close()
    return replies


def _replace(lost: Child, busy: dict[int, Child], module: str, subject: str) -> Child:
    """Put a new child in the place of one whose process is gone."""
    del busy[lost.replies]
    lost.close()
    child = Child(module)
    busy[child.replies] = child
    child.wait_until_ready(subject)
    return child


def _ready(busy: Mapping[int, Child]) -> list[Child]:
    """Children that can be read, and those that are past their limit."""
    poll = select.poll()
    for fd in busy:
        poll.register(fd, select.POLLIN)
    readable = {fd for fd, _ in poll.poll(1000)}
    return [child for fd, child in busy.items() if fd in readable or time.monotonic() > child.deadline]
