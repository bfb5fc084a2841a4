"""The sweep's folder: claimed by one process at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tokensieve.errors import CacheError, SweepError
from tokensieve.sweep.manifest import MANIFEST
from tokensieve.write_faults import output_refused

LOCK = ".lock"
_kept: dict[Path, FileLock] = {}  # claimed for a sweep that has no job yet


def try_lock(path: Path, *, timeout: float = 0.0) -> FileLock | None:
    """The held lock, or None when another process holds it for longer than `timeout` seconds."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        return None
    return lock


def claim_new(wanted: Path, *, may_rename: bool) -> tuple[Path, FileLock]:
    """Make and lock the folder of a new sweep; `<wanted>-2` and so on where two sweeps start in one second.

    Raises:
        SweepError: the folder was named by the user and holds a sweep. CacheError: it cannot be written.
    """
    if wanted in _kept:
        return wanted, _kept.pop(wanted)
    for number in itertools.count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = try_lock(folder / LOCK)
        except OSError as error:
            raise output_refused(folder, error) from error
        if lock is not None and not (folder / MANIFEST).exists():
            return folder, lock
        if lock is not None:
            lock.release()
        if not may_rename:
            raise SweepError(
                "hydra.sweep.dir",
                "holds a sweep already",
                received=str(folder),
                remedy=f"continue it with sweep.resume={folder}, or name another folder",
            )
    raise AssertionError("unreachable")


def keep(folder: Path, lock: FileLock) -> Path:
    """Hold a claim until the sweep in `folder` takes it over: a search writes there before its first job is known."""
    _kept[folder] = lock
    return folder


def give_up(folder: Path) -> None:
    """Release a claim that no sweep took over."""
    if folder in _kept:
        _kept.pop(folder).release()


@contextmanager
def held(lock: FileLock) -> Iterator[None]:
    """Release a lock at the end of the block."""
    try:
        yield
    finally:
        lock.release()


def claim_existing(folder: Path) -> FileLock:
    """Lock a sweep that is resumed.

    Raises:
        SweepError: another process runs it.
    """
    if folder in _kept:
        return _kept.pop(folder)
    try:
        lock = try_lock(folder / LOCK)
    except OSError as error:
        raise CacheError(
            str(folder), "must be writable", received=error.strerror, remedy="correct its permissions"
        ) from error
    if lock is None:
        raise SweepError(
            str(folder),
            "is run by another process at this moment",
            remedy="wait for it, or stop it with Ctrl-C, and resume then",
        )
    return lock
