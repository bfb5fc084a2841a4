"""The judge: runs the tests, and asks the candidate's process for every value of the candidate's.

A test passes on data that the judge holds and compares itself. So a candidate that leaves early, patches builtins,
returns an object that equals everything or prints that it passed gains nothing.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import os
import signal
import time
import types
from collections.abc import Iterator
from typing import Any

from .remote import Lost, Remote, Session
from .wire import write_frame


def judge(channel: int, candidate_pid: int, source: str, setup: str, tests: list[str]) -> tuple[str, str]:
    """Run all tests and return (outcome, reason); an outcome is passed, failed, error, timeout or memory."""
    session = Session(channel)
    where = "program"
    try:
        write_frame(channel, source.encode("utf-8", "surrogatepass"))
        exported = set(session.receive())
        codes = [compile(setup, "<setup>", "exec")]
        codes += [compile(test, f"<test {at}>", "exec") for at, test in enumerate(tests)]
        namespace = _namespace(session, codes, exported)
        for at, code in enumerate(codes):
            where = f"test {at}" if at else "setup"
            exec(code, namespace)
        if session.lost:  # a test swallowed it
            raise Lost
    except Lost:
        return _describe_exit(candidate_pid, where)
    except AssertionError as error:
        failed = where.startswith("test")
        return ("failed" if failed else "error"), f"{where}: {_first_line(error) or 'assertion is false'}"
    except MemoryError:
        return "memory", f"{where}: out of memory"
    except RecursionError as error:
        return "error", f"{where}: RecursionError: {_first_line(error)}"
    except BaseException as error:
        text = _first_line(error)
        name = type(error).__name__
        return "error", f"{where}: {text if text.startswith(name) else f'{name}: {text}'}"
    return "passed", f"{len(tests)} tests passed"


def _namespace(session: Session, codes: list[types.CodeType], exported: set[str]) -> dict[str, Any]:
    """The globals of the tests: what they mention and the candidate defines.

    A candidate's name that hides a builtin (its own `set` or `len`) is taken only when the tests mention nothing else
    of the candidate's: then it is the function under test.
    """
    mentioned = {name for code in codes for name in _names(code)} & exported
    own = {name for name in mentioned if not hasattr(builtins, name)}
    modules: dict[str, Any] = {}
    remotes: dict[str, Any] = {}
    for name in sorted(own):
        kind, value = session.request("name", name)
        if kind == "module":
            modules[name] = importlib.import_module(str(value))
        else:
            remotes[name] = value
    if not any(isinstance(value, Remote) for value in remotes.values()):
        remotes |= {name: session.request("name", name)[1] for name in sorted(mentioned - own)}
    return {"__name__": "tests", **modules, **remotes}


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _describe_exit(pid: int, where: str) -> tuple[str, str]:
    """Why the candidate's process is gone."""
    with contextlib.suppress(OSError):  # refused where there is no process namespace
        os.kill(pid, signal.SIGKILL)  # it may live on with its channel closed
    ended, status = 0, 0
    for _ in range(100):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        time.sleep(0.002)
    if not ended:
        return "error", f"{where}: the program closed its channel before its tests ended"
    if os.WIFEXITED(status):
        return "error", f"{where}: the program left with exit code {os.WEXITSTATUS(status)} before its tests ended"
    number = os.WTERMSIG(status)
    if number == signal.SIGXCPU:
        return "timeout", f"{where}: processor time used up"
    if number == signal.SIGKILL:
        return "error", f"{where}: the program closed its channel or was killed before its tests ended"
    return "error", f"{where}: the program died of {signal.Signals(number).name}"


def _first_line(error: BaseException) -> str:
    try:
        return str(error).split("\n")[0][:500]
    except BaseException:
        return ""
