"""The command line around Hydra: exit codes, errors in one line, and the single run."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from tokensieve.config import RunConfig
from tokensieve.errors import CacheError, ConfigError, TokensieveError
from tokensieve.sweep.compose import read_config
from tokensieve.sweep.explain import explain, is_config_error
from tokensieve.sweep.folder import claim_new, held, try_lock
from tokensieve.sweep.named_folder import claim_named, named_folder, read_finished
from tokensieve.sweep.terminal import describe_scores, say, table


def run_command(train: Callable[[], Any]) -> int:
    """Run a function that `hydra.main` decorated; the exit code: 0, 1 after an error, 130 after Ctrl-C or SIGTERM.

    Hydra prints errors over several lines and exits by itself; HYDRA_FULL_ERROR makes it raise them instead.
    """
    debug = os.environ.get("HYDRA_FULL_ERROR") == "1" or any(
        re.fullmatch(r"(?i)\+*debug=(true|1|yes|on)", arg) for arg in sys.argv
    )
    os.environ["HYDRA_FULL_ERROR"] = "1"
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started us; the run's log has it all
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  # until the process ends
    try:
        train()
        return _close_sweeps()
    except KeyboardInterrupt:
        return max(130, _close_after_fault(debug=debug, interrupted=True))
    except Exception as error:
        _tell(error, debug=debug)
        return max(1, _close_after_fault(debug=debug))


def _tell(error: Exception, *, debug: bool) -> None:
    if debug or not report_error(error):
        traceback.print_exception(error)


def _close_after_fault(*, debug: bool, interrupted: bool = False) -> int:
    """The exit code of the sweeps; what stopped them (a full disk) may keep their pages from being written, too."""
    try:
        return _close_sweeps(interrupted=interrupted)
    except Exception as error:
        _tell(error, debug=debug)
        return max(1, _close_after_fault(debug=debug, interrupted=interrupted))  # of the sweeps that are left


def report_error(error: Exception) -> bool:
    """Print `error: ...`, one line a fault, to stderr; False, printing nothing, for a defect of the program."""
    faults = error.exceptions if isinstance(error, ExceptionGroup) else (error,)
    if not all(isinstance(fault, TokensieveError) or is_config_error(fault) for fault in faults):
        return False
    for fault in faults:
        print("error: " + ": ".join([*getattr(fault, "__notes__", ()), str(explain(fault))]), file=sys.stderr)
    return True


def _close_sweeps(*, interrupted: bool = False) -> int:
    session = sys.modules.get("tokensieve.sweep.session")  # loaded only where a sweep was planned
    return int(session.close_sessions(interrupted=interrupted)) if session is not None else 0


def run_single(composed: DictConfig) -> float | tuple[float, ...]:
    """One run in this process, in its own folder, or in `hydra.run.dir`: nothing is done where that holds its result.

    Returns what a search optimises (NaN after a dry run).

    Raises:
        SystemExit: 1, after an error that was reported in one line.
    """
    from tokensieve import pipeline
    from tokensieve.ranks.joined import dismiss, follow_or_lead
    from tokensieve.sweep.job import objective

    try:
        config = read_config(composed)
        _refuse_what_needs_a_sweep(config)
        pipeline.validate(config)
        if config.dry_run:
            _print_stages(config)
            return math.nan
        if follow_or_lead():  # a rank that torchrun or srun started only fits; rank 0 does the rest
            return math.nan
        try:
            job_id = pipeline.job_id(config)
            named = named_folder()
            if named is not None and (finished := read_finished(named, job_id)) is not None:
                say(f"run {named} is finished already: {config.run_name}")
                return objective(finished)
            folder, lock = claim_named(named, job_id) if named is not None else open_run_folder(config, job_id)
            with held(lock), _logged(folder / "log.txt"):
                return _run(config, folder)
        finally:
            dismiss()
    except Exception as error:
        if composed.debug is True or not report_error(error):
            raise
        raise SystemExit(1) from error


def _refuse_what_needs_a_sweep(config: RunConfig) -> None:
    """Raise a ConfigError for keys that a single run would not heed."""
    if config.sweep.resume is not None:
        remedy = "add -m; a single run continues when its command is given again"
        raise ConfigError("sweep.resume", "continues a sweep", remedy=remedy)
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    choices = hydra.runtime.choices if hydra is not None else {}
    if hydra is not None and hydra.mode is RunMode.MULTIRUN:
        raise ConfigError(
            "hydra/sweeper",
            "must be tokensieve or tokensieve_search, which plan a sweep and hand its jobs on",
            received=choices["hydra/sweeper"],
            remedy="leave it and hydra/launcher out; search=tpe, random, grid or cmaes searches",
        )
    for key, choice, neutral in (
        ("search", choices.get("search"), "none"),
        ("launcher", config.launcher.name, "local"),
        ("hydra/launcher", choices.get("hydra/launcher"), "tokensieve"),
    ):
        if choice not in (None, neutral):
            raise ConfigError(
                key, "is for the jobs of a sweep", received=choice, remedy=f"add -m, or set {key}={neutral}"
            )


def _run(config: RunConfig, folder: Path) -> float | tuple[float, ...]:
    from tokensieve import pipeline
    from tokensieve.report import write_report
    from tokensieve.sweep.job import key_scores, objective, show_log
    from tokensieve.sweep.warm import preload

    show_log()
    say(f"run {folder}: {config.run_name}")
    try:
        preload(tracks=config.tracking.backend != "none")
        result = pipeline.run(config, folder)
    except KeyboardInterrupt:
        say("stopped; the same command given again continues this run")
        raise
    say(f"{config.run_name}: {describe_scores(key_scores(result))}")
    with contextlib.suppress(CacheError):  # a full disk costs the page, not the run; the table is printed all the same
        write_report(folder)
    return objective(result)


def _print_stages(config: RunConfig) -> None:
    from tokensieve import pipeline

    rows = [
        [step.stage, (step.digest or "")[:12] or "-", "cached" if step.cached else "to do"]
        for step in pipeline.plan(config)
    ]
    say(f"{config.run_name}: would run these stages; nothing was started")
    say(table(["stage", "digest", "state"], rows))


def open_run_folder(config: RunConfig, job_id: str) -> tuple[Path, FileLock]:
    """`<output_dir>/runs/<time>_<8 hex>`, locked: of an interrupted run of the same job, or a new one."""
    runs = Path(config.output_dir) / "runs"
    for status in sorted(runs.glob(f"*_{job_id[:8]}*/status.json"), reverse=True):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            values = json.loads(status.read_text(encoding="utf-8"))
            if values["job_id"] == job_id and values["status"] in ("RUNNING", "KILLED"):
                lock = try_lock(status.parent / ".lock")
                if lock is not None:
                    say(f"continuing the interrupted run {status.parent}")
                    return status.parent, lock
    return claim_new(runs / f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{job_id[:8]}", may_rename=True)


class _Tee:
    """A text stream that also writes complete lines to a log; the redrawn lines of progress bars are left out."""

    def __init__(self, stream: TextIO, log: TextIO) -> None:
        self._stream = stream
        self._log = log

    def write(self, text: str) -> int:
        if "\r" not in text and "\x1b" not in text:
            self._log.write(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    with path.open("a", buffering=1, encoding="utf-8") as log:
        out, err = _Tee(sys.stdout, log), _Tee(sys.stderr, log)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                yield
            except Exception:
                log.write(traceback.format_exc())
                raise
