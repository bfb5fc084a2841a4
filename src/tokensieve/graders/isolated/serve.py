"""The child's side: requests come as JSON lines on standard input, each is answered by a fork under limits."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def serve(answer: Answer) -> None:
    """Answer requests until standard input closes.

    Each request holds `seconds` and `memory_bytes` beside what `answer` reads; its reply is one JSON line, either
    what `answer` returned or `{"lost": signal}` when the fork was ended by its limit or died.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt reaches the whole group; the parent closes our input
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):  # libraries that print must not break the stream
        os.dup2(null, fd)
    _write(replies, {"ready": True})
    for line in requests:
        _write(replies, _answer_in_fork(answer, json.loads(line)))


def refuse(reason: str) -> None:
    """Tell the parent why this process cannot serve."""
    sys.stdout.write(json.dumps({"refused": reason}) + "\n")


def _write(file: Any, reply: Mapping[str, Any]) -> None:
    file.write(json.dumps(reply).encode() + b"\n")
    file.flush()


def _answer_in_fork(answer: Answer, request: Mapping[str, Any]) -> Mapping[str, Any]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            _limit(float(request["seconds"]), int(request["memory_bytes"]))
            with os.fdopen(writer, "wb") as file:
                _write(file, answer(request))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        line = file.read()
    _, status = os.waitpid(pid, 0)
    if not line.endswith(b"\n"):
        return {"lost": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0}
    reply: Mapping[str, Any] = json.loads(line)
    return reply


def _limit(seconds: float, memory_bytes: int) -> None:
    """From here on the kernel ends this process at a limit, whatever native code it is in."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    limits = {resource.RLIMIT_AS: memory_bytes, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}
    for kind, value in limits.items():
        with contextlib.suppress(OSError, ValueError):  # not every kernel limits the address space
            ceiling = resource.getrlimit(kind)[1]
            bound = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
            resource.setrlimit(kind, (bound, bound))
