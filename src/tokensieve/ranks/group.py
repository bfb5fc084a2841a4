"""Starts the torchrun group of one job, hears its rank 0, and ends with it: no rank survives its job."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from tokensieve.errors import TokensieveError, TrainingError
from tokensieve.ranks.order import EventReader, FitOrder, RankError, read_error

_POLL_SECONDS = 0.2
_STOP_SECONDS = 10.0
_SHOWN_LINES = 20
_STRUCK = (-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGBUS)
log = logging.getLogger(__name__)
OnMetrics = Callable[[Mapping[str, float], int], None]
RANK = ("-m", "tokensieve.ranks")


def fit_in_group(
    order: FitOrder,
    devices: int,
    on_metrics: OnMetrics | None,
    *,
    total_steps: int | None = None,
    program: Sequence[str] = RANK,
) -> None:
    """Run `order` on `devices` ranks of this machine, and pass rank 0's metrics on while it runs.

    A terminal sees the progress over `total_steps`.

    Where a pass does not fit into the memory of ranks that share a model, the ranks start again from their last
    checkpoint with half the examples a pass, at the same examples a step.

    Raises:
        TokensieveError: what a rank raised, or TrainingError for a rank that died, with its log's path.
    """
    while True:
        try:
            with _Hearing(on_metrics, total_steps) as hearing:
                _run_once(order, devices, hearing, program)
            return
        except _Smaller as failure:
            rows = (failure.rows + 1) // 2
            log.warning(
                "%d examples a pass do not fit into memory: the ranks start again with %d, at the same examples a step",
                failure.rows,
                rows,
            )
            order = replace(order, rows_limit=rows)


class _Hearing:
    """What the ranks tell, passed on: metrics, log lines, progress."""

    def __init__(self, on_metrics: OnMetrics | None, total_steps: int | None) -> None:
        self._on_metrics = on_metrics
        self._bar = tqdm(desc="fit", total=total_steps, unit="step", disable=None, delay=2)

    def __enter__(self) -> _Hearing:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def pass_on(self, events: EventReader) -> None:
        for event in events.new():
            found: dict[str, Any] = event
            if "values" not in found:
                log.log(found["level"], "%s", found["message"])
                continue
            if "train/nll" in found["values"]:
                self._bar.update(found["step"] - self._bar.n)
                self._bar.set_postfix(nll=f"{found['values']['train/nll']:.3f}", refresh=False)
            if self._on_metrics is not None:
                self._on_metrics(found["values"], found["step"])


class _Smaller(Exception):
    """The group ran out of memory in a pass of `rows` examples."""

    def __init__(self, rows: int) -> None:
        self.rows = rows


def _run_once(order: FitOrder, devices: int, hearing: _Hearing, program: Sequence[str]) -> None:
    folder = Path(order.reports)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    order.write(folder / "order.json")
    events = EventReader(folder)
    process = _start(folder, devices, program)
    try:
        while process.poll() is None:
            hearing.pass_on(events)
            time.sleep(_POLL_SECONDS)
        hearing.pass_on(events)
    finally:
        _stop(process)
    if process.returncode == 0:
        shutil.rmtree(folder, ignore_errors=True)
        return
    found = read_error(folder)
    if found is not None and found.rows:
        raise _Smaller(found.rows)
    if found is not None and found.error is not None:
        raise found.error
    raise _describe_death(folder, found)


def _start(folder: Path, devices: int, program: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}",
               "--max-restarts=0", "--redirects=3", f"--log-dir={folder / 'logs'}", *program,
               str(folder / "order.json")]  # fmt: skip
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = int(os.environ.get("OMP_NUM_THREADS") or cores)
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, threads // devices))}
    with (folder / "torchrun.txt").open("wb") as output:
        # A session of its own: Ctrl-C goes to this process, which then stops the ranks in order.
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End torchrun and its ranks, at first kindly. A rank ends at SIGTERM wherever it is."""
    members = []
    with contextlib.suppress(psutil.Error):
        members = psutil.Process(process.pid).children(recursive=True)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
    for member in members:
        with contextlib.suppress(psutil.Error):
            member.kill()
    if process.poll() is None:
        process.kill()
    process.wait()


def _describe_death(folder: Path, found: RankError | None) -> TokensieveError:
    """The error of a rank that failed by itself or died without a word: how, its last lines, its log."""
    output = (folder / "torchrun.txt").read_text(encoding="utf-8", errors="replace")
    rank, code = _find_exit(output)
    if code in _STRUCK:  # whatever the others said then, they said because of it
        found = None
    if found is not None:
        rank, how = found.rank, found.text
    elif code is None:
        how = "no exit code"
    else:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    logs = sorted(folder.glob(f"logs/*/attempt_0/{rank}/stderr.log"))
    path = logs[-1] if logs else folder / "torchrun.txt"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() or output.splitlines()
    last = lines[-_SHOWN_LINES:]
    log.error("last lines of %s:\n%s", path, "\n".join(last))
    if found is None:
        ending = next((line.strip() for line in reversed(last) if re.search(r"\w", line)), "its log is empty")
        how = f"{how}; last line: {ending[:300]}"
    subject = "torchrun" if rank is None else f"rank {rank}"
    return TrainingError(subject, "must stay alive until the fit ends", received=how, remedy=f"read {path}")


def _find_exit(output: str) -> tuple[int | None, int | None]:
    """Which rank torchrun says to have died first, and its exit code; below 0, the signal that killed it."""
    exits = [(int(rank), int(code)) for rank, code in re.findall(r"rank\s+: (\d+).*?\n\s+exitcode\s+: (-?\d+)", output)]
    if not exits:
        return None, None
    # Torchrun ends the survivors by SIGTERM and names the first failure last; a killed rank is the cause in any case.
    return next(((rank, code) for rank, code in exits if code < 0 and code != -signal.SIGTERM), exits[-1])
