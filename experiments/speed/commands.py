"""Runs of `train.py` as a user starts them, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_python(*arguments: str, cwd: Path = ROOT, environment: Mapping[str, str] | None = None) -> float:
    """Seconds of one Python process, which must succeed.

    Raises:
        SystemExit: it did not; with the end of what it said.
    """
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"python {' '.join(arguments)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return time.perf_counter() - start


def train(*overrides: str) -> float:
    """Seconds of one `python train.py`."""
    return run_python("train.py", *overrides)


def pin_children(threads: int) -> None:
    """Keep this process and all that it starts on the first `threads` cores it may use."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)


def first_step_time(run: Path) -> float:
    """Unix seconds at which a run's first optimiser step was over."""
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if any(key.startswith("train/") for key in record):
            return float(record["time"])
    raise SystemExit(f"{run} has no training step")
