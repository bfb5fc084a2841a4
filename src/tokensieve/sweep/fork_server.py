"""The process that jobs are forked from: it has done the heavy imports once, and computes nothing itself."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

import psutil

from tokensieve.errors import SweepError
from tokensieve.sweep.stop import STOP_SIGNALS

PRELOAD = ("tokensieve.sweep.warm",)
FORK_SERVER = "TOKENSIEVE_FORK_SERVER"  # set in its process
_READY_POLL_SECONDS = 0.2


class ForkServer:
    """Started at once, ready some seconds later; jobs inherit its environment."""

    def __init__(self, preload: Sequence[str] = PRELOAD) -> None:
        # Asking CUDA for its devices would make it unusable in every fork; NVML answers without it.
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        multiprocessing.set_forkserver_preload(list(preload))
        self._ready = threading.Event()
        self.ensure_running()
        threading.Thread(target=self._await_imports, name="fork server start", daemon=True).start()

    @staticmethod
    def ensure_running() -> None:
        """Start it, or start it again if it was killed. It inherits blocked stop signals, which jobs unblock."""
        resource_tracker.ensure_running()  # else started below, where it would unblock the signals again
        os.environ[FORK_SERVER] = "1"
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:  # Ctrl-C reaches the whole foreground group: it must not kill the server while it imports
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            del os.environ[FORK_SERVER]

    def start(self, target: Callable[..., None], arguments: Sequence[Any], name: str) -> BaseProcess:
        """A process, forked from the server, that runs `target(*arguments)`.

        Raises:
            SweepError: the server is gone and cannot be started again.
        """
        process = multiprocessing.get_context("forkserver").Process(target=target, args=tuple(arguments), name=name)
        self.ensure_running()
        try:
            process.start()
        except (EOFError, OSError) as error:
            rule = "the fork server, from which jobs start, died: out of memory, or killed by somebody"
            raise SweepError(name, rule, received=repr(error), remedy="free memory, and resume") from error
        return process

    def wait(self, is_over: Callable[[], bool]) -> None:
        """Return when the imports are done, or, with the server killed, soon after `is_over()`.

        Starting a process would block until the imports are done, and so would the end of this one.
        """
        while not self._ready.wait(_READY_POLL_SECONDS):
            if is_over():
                for child in psutil.Process().children():
                    with contextlib.suppress(psutil.Error):
                        if any("multiprocessing.forkserver" in word for word in child.cmdline()):
                            child.kill()
                return

    def _await_imports(self) -> None:
        with contextlib.suppress(EOFError, OSError):  # a broken server: starting the first job raises the reason again
            process = multiprocessing.get_context("forkserver").Process(target=_do_nothing, daemon=True)
            process.start()
            process.join()
        self._ready.set()


class Spawner:
    """Stands for the fork server where a single job runs, on a node of a cluster."""

    @staticmethod
    def start(target: Callable[..., None], arguments: Sequence[Any], name: str) -> BaseProcess:
        process = multiprocessing.get_context("spawn").Process(target=target, args=tuple(arguments), name=name)
        process.start()
        return process

    def wait(self, is_over: Callable[[], bool]) -> None:
        """It needs no time to get ready."""


def _do_nothing() -> None:
    """The body of the process that tells that the fork server serves."""
