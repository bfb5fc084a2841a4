"""A sweep as a process of its own, seen from outside: its jobs, their stages and ranks, by their records and /proc."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
POLL_SECONDS = 0.002  # for a file
SCAN_SECONDS = 0.03  # for all processes, which takes some milliseconds itself


@dataclass(frozen=True, slots=True)
class RunningJob:
    """One session of a job: the leader of its process group, and its folder."""

    pid: int
    folder: Path

    def status(self) -> dict[str, Any]:
        """status.json; {} before the first one."""
        with contextlib.suppress(OSError, ValueError):
            values = json.loads((self.folder / "status.json").read_text())
            return values if isinstance(values, dict) else {}
        return {}

    def is_alive(self) -> bool:
        try:
            return psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def ranks(self) -> dict[int, int]:
        """Rank -> process id, of the ranks that compute at this moment."""
        found = {}
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error, KeyError, ValueError):
                    if "tokensieve.ranks" in child.cmdline():
                        found[int(child.environ()["RANK"])] = child.pid
        return found


class SweepProcess:
    """`python train.py -m ...` in a session of its own; what it prints goes to a file."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._log = log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "train.py", "-m", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def is_over(self) -> bool:
        return self.process.poll() is not None

    def wait(self, seconds: float) -> int:
        """The exit code; a sweep that takes longer is killed, and counts as hung."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise SystemExit(f"the sweep hung for {seconds:.0f} s; see {self._log.name}") from None
        finally:
            self._log.close()

    def kill(self) -> None:
        """SIGKILL of the sweep's own process; its jobs are left to notice by themselves."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def running_job(self) -> RunningJob | None:
        """The job that runs: a leader of its own session that writes to a job's log."""
        with contextlib.suppress(psutil.Error, OSError):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error, OSError):
                    log = os.readlink(f"/proc/{child.pid}/fd/1")
                    if log.endswith("/log.txt") and os.getsid(child.pid) == child.pid:
                        return RunningJob(child.pid, Path(log).parent)
        return None


class TrackingServer:
    """A real MLflow server on this machine that can be killed and started again on the same store."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start, and wait until it answers."""
        if self._process is not None and self._process.poll() is None:
            return
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                   "--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder / 'store.db'}",
                   "--artifacts-destination", str(self._folder / "artifacts")]  # fmt: skip
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        with (self._folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        wait_until(self.answers, 120, f"the tracking server in {self._folder}")

    def answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    def kill(self) -> None:
        """SIGKILL of the server and its workers."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not ready after {seconds:.0f} s")
        time.sleep(0.05)


def watch_jobs(sweep: SweepProcess) -> Iterator[RunningJob]:
    """Every session of a job, as soon as it exists, until the sweep is over."""
    seen: set[int] = set()
    while not sweep.is_over():
        job = sweep.running_job()
        if job is not None and job.pid not in seen:
            seen.add(job.pid)
            yield job
        time.sleep(SCAN_SECONDS)
