"""What happens inside the fresh process of one job."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import logging
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, parent_process
from pathlib import Path

from tokensieve.config import RunConfig
from tokensieve.errors import SweepError, TokensieveError, TrialPruned
from tokensieve.records import RunResult
from tokensieve.sweep.devices import VISIBLE
from tokensieve.sweep.folder import held, try_lock
from tokensieve.sweep.stop import STOP_SIGNALS

RUN_PIPELINE = "tokensieve.sweep.job:run_pipeline"
# A job whose sweep was killed needs this long to stop; one that resumes it waits for the folder at least so long.
_ORPHAN_SECONDS = 10.0
_TRACEBACK_CHARACTERS = 8000


@dataclass(frozen=True, slots=True)
class JobSpec:
    """All that a job's process is told. `function`: `module:name` of its body. `threads` None: libraries decide.
    `visible_devices`: its CUDA_VISIBLE_DEVICES; None leaves the variable alone."""

    job_id: str
    name: str
    config: RunConfig
    folder: Path
    function: str = RUN_PIPELINE
    parent_run_id: str | None = None
    threads: int | None = None
    visible_devices: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the sweep learns. `scores`: a few numbers for the terminal. `error`: one line; the log has the traceback.
    `error_type` None with an error: the process died without a word. `pruned`: `error` says why the trial ended early.
    """

    objective: float | tuple[float, ...] | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    error_type: str | None = None
    trace: str | None = None
    killed: bool = False
    pruned: bool = False


JobFunction = Callable[[JobSpec], Outcome]


def objective(result: RunResult) -> float | tuple[float, ...]:
    """What a search optimises, one number or several; of another run: NLL of the validation split under its own rule,
    in nats a token."""
    values = tuple(result.objectives.values())
    return values if len(values) > 1 else values[0] if values else result.fit.get("val/nll_kept", math.nan)


def key_scores(result: RunResult) -> dict[str, float]:
    """Target score, changes against the base in percentage points (of the target, and the others' mean), and one NLL:
    of the validation split where there is one, else of the last training steps."""
    before = {base.task: base.value for base in result.base_evals}
    change = {
        after.task: 100 * (after.value - before[after.task])
        for after in result.evals
        if after.task in before and after.item_ids
    }
    others = [points for task, points in change.items() if task != result.target_task]
    scores = {after.task: after.value for after in result.evals if after.task == result.target_task}
    if result.target_task in change:
        scores["target points"] = change[result.target_task]
    if others:
        scores["other points"] = sum(others) / len(others)
    known = [key for key in ("val/nll_kept", "val/nll", "train/nll") if math.isfinite(result.fit.get(key, math.nan))]
    scores |= {key: result.fit[key] for key in known[:1]}
    return scores | {f"search/{name}": value for name, value in result.objectives.items()}


def run_pipeline(spec: JobSpec) -> Outcome:
    """The job of a real sweep."""
    from tokensieve import pipeline
    from tokensieve.ranks.joined import dismiss, follow_or_lead

    if follow_or_lead():  # one of the ranks that Slurm started for a job of several nodes
        return Outcome()
    try:
        result = pipeline.run(
            spec.config, spec.folder, name=spec.name, job=spec.job_id, parent_run_id=spec.parent_run_id
        )
    except TrialPruned as end:
        return Outcome(error=str(end), error_type="TrialPruned", pruned=True)
    finally:
        dismiss()
    return Outcome(objective(result), key_scores(result))


def main(spec: JobSpec, results: connection.Connection, held_locks: Sequence[int] = ()) -> None:
    """Entry of the process: own session, own log, then the job's function. Exits 0, 1 (failed) or 130 (stopped).

    `held_locks`: descriptors that stay open to its end, and with them the locks of its GPUs.
    """
    os.setsid()  # Ctrl-C of the terminal goes to the sweep alone, which then stops its jobs in order
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_stop_with_parent, name="orphan watch", daemon=True).start()
    try:
        suffix = rank_suffix()
        _redirect_output(spec.folder / f"log{suffix}.txt")
        # Blocked since the fork server started: a stop that came meanwhile is raised here, where it is caught.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        lock = try_lock(spec.folder / f".lock{suffix}", timeout=3 * _ORPHAN_SECONDS)
        if lock is None:
            raise SweepError(
                str(spec.folder), "is still written by a process of an earlier sweep", remedy="stop it, and resume"
            )
        with held(lock):
            show_log()
            _limit(spec.threads, spec.visible_devices)
            module, _, name = spec.function.partition(":")
            outcome: Outcome = getattr(importlib.import_module(module), name)(spec)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the sweep may be what died
            results.send(Outcome(killed=True, error="stopped"))
        sys.exit(130)
    except BaseException as error:
        trace = traceback.format_exc()
        shown = isinstance(error, TokensieveError) and not spec.config.debug
        print(f"error: {error}" if shown else trace, file=sys.stderr)
        one_line = str(error) if isinstance(error, TokensieveError) else _one_line(error)
        results.send(Outcome(error=one_line, error_type=type(error).__name__, trace=trace[-_TRACEBACK_CHARACTERS:]))
        sys.exit(1)
    results.send(outcome)


def show_log() -> None:
    """Our own INFO lines and everybody's warnings, on standard error."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    logging.getLogger("tokensieve").setLevel(logging.INFO)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__


def _redirect_output(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    os.close(nothing)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    faulthandler.enable()  # a segmentation fault leaves its Python stack in the log


def rank_suffix() -> str:
    """What tells the files of the ranks of a job of several nodes apart; empty for rank 0, and for all other jobs."""
    from tokensieve.ranks.layout import find_joined

    joined = find_joined()
    return f"-rank{joined.rank}" if joined is not None and joined.rank else ""


def _limit(threads: int | None, visible_devices: str | None) -> None:
    if visible_devices is not None:
        os.environ[VISIBLE] = visible_devices  # CUDA reads it when it is first used, which it is not yet
    if threads is None:
        return
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:  # preloaded by the fork server, before the variables above were set
        torch.set_num_threads(threads)


def _stop_with_parent() -> None:
    """When the sweep's process dies, so does the job: two sweeps must never write one folder."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_ORPHAN_SECONDS)
    os.killpg(os.getpid(), signal.SIGKILL)
