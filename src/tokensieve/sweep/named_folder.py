"""A single run in the folder that the user names with `hydra.run.dir`, so that other commands can refer to it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig

from tokensieve.errors import CacheError, ConfigError, SweepError
from tokensieve.records import RunResult
from tokensieve.sweep.folder import try_lock

KEY = "hydra.run.dir"


def named_folder() -> Path | None:
    """What `hydra.run.dir` says; None where it was not set (its default is the working directory)."""
    if not HydraConfig.initialized():
        return None
    folder = Path(str(HydraConfig.get().run.dir))
    return None if folder == Path(".") else folder


def read_finished(folder: Path, job_id: str) -> RunResult | None:
    """The result in `folder`, if it is that of the finished job `job_id`."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        result = RunResult.from_json((folder / "result.json").read_text(encoding="utf-8"))
        return result if result.job_id == job_id and result.status == "FINISHED" else None
    return None


def claim_named(folder: Path, job_id: str) -> tuple[Path, FileLock]:
    """Make and lock `folder` for the job, which continues there if it was interrupted or failed.

    Raises:
        ConfigError: another job's run, or a sweep, lies there. SweepError: another process runs in it.
        CacheError: it cannot be written.
    """
    _require_own(folder, job_id)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = try_lock(folder / ".lock")
    except OSError as error:
        remedy = "name another folder, or correct its permissions"
        raise CacheError(KEY, "must be writable", received=f"{folder}: {error.strerror}", remedy=remedy) from error
    if lock is None:
        raise SweepError(str(folder), "is run by another process at this moment", remedy="wait for it, or stop it")
    try:
        _require_own(folder, job_id)  # again, now that nobody else writes it
    except ConfigError:
        lock.release()
        raise
    return folder, lock


def _require_own(folder: Path, job_id: str) -> None:
    remedy = "name another folder, or remove this one"
    if (folder / "sweep.json").exists():
        raise ConfigError(KEY, "must be a folder for one run", received=f"{folder}, which holds a sweep", remedy=remedy)
    try:
        found = json.loads((folder / "status.json").read_text(encoding="utf-8"))["job_id"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, KeyError):
        found = None  # cut off: of whatever run it was
    if found != job_id:
        raise ConfigError(
            KEY, "must be a new folder, or this run's", received=f"{folder}, of another run", remedy=remedy
        )
