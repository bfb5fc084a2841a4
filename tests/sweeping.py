"""Sweeps of jobs that take milliseconds, run by a test: in its own process, or in one that it may stop or kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import sweep_program

from tokensieve.config import register_schema
from tokensieve.sweep import planner
from tokensieve.sweep.command import run_command
from tokensieve.sweep.parent_run import ParentRun

Sweep = Callable[..., int]
Background = Callable[..., "subprocess.Popen[str]"]
PROGRAM = Path(sweep_program.__file__)
PATH = os.pathsep.join([str(PROGRAM.parent), str(PROGRAM.parents[1] / "src")])


def arguments(job: str, *overrides: str, module: str = "fake_jobs") -> list[str]:
    return [
        "-m",
        *overrides,
        "tracking=none",
        f"hydra.launcher.job={module}:{job}",
        "hydra.launcher.preload=[tokensieve.sweep.job]",
        "hydra.launcher.grace_seconds=1",
    ]


def sweep_here(monkeypatch: pytest.MonkeyPatch, folder: Path, *, module: str = "fake_jobs") -> Sweep:
    """A function that runs a sweep of jobs of `module` in this process, in `folder`, and returns its exit code."""
    register_schema()
    monkeypatch.setattr(planner, "_validate", sweep_program.accept)
    monkeypatch.setattr(ParentRun, "close", sweep_program.report_briefly)
    monkeypatch.chdir(folder)
    # Each process of a job imports the main module; that would be pytest's.
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    monkeypatch.setenv("PYTHONPATH", PATH)  # of jobs on a cluster

    def run(job: str, *overrides: str) -> int:
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments(job, *overrides, module=module)])
        try:
            return run_command(sweep_program.train)
        except SystemExit as error:
            return int(error.code or 0)

    return run


def start_background(folder: Path, job: str, *overrides: str) -> subprocess.Popen[str]:
    """A sweep in a process of its own, in `folder`."""
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *arguments(job, *overrides)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": PATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell's background job ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )


def manifest(root: Path = Path()) -> dict[str, Any]:
    [path] = root.glob("outputs/sweeps/*/sweep.json")
    values: dict[str, Any] = json.loads(path.read_text())
    return values


def states(root: Path = Path()) -> dict[str, str]:
    """Arm -> state."""
    return {job["name"].split("/")[3]: job["state"] for job in manifest(root)["jobs"]}


def starts(root: Path = Path()) -> int:
    return sum(len(path.read_text().splitlines()) for path in root.glob("outputs/sweeps/*/jobs/*/starts"))


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def waiting(root: Path) -> list[int]:
    texts = [path.read_text() for path in root.glob("outputs/sweeps/*/jobs/*/waiting")]
    return [int(text) for text in texts if text]


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
