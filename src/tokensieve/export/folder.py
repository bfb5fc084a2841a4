"""A folder that appears whole or not at all."""

from __future__ import annotations

import errno
import glob
import os
import re
import shutil
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tokensieve.errors import CacheError, ConfigError

_UNWRITABLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR,
    errno.ENAMETOOLONG,
)  # fmt: skip


def check_target(output: Path, *, force: bool, inputs: Sequence[Path]) -> Path:
    """The absolute path of `output`, once it may be written.

    Args:
        output: absent, an empty folder, or with `force` a folder that holds a model.
        force: whether a model there may be replaced.
        inputs: folders that are read; replacing one of them, or what it lies in, would destroy it.

    Raises:
        ConfigError: it may not be written.
    """
    target = output.expanduser().resolve()
    if target.exists() and not target.is_dir():
        raise ConfigError("--output", "must be a folder", received=str(output), remedy="name another path")
    if not target.is_dir() or not any(target.iterdir()):
        return target
    if not force:
        raise ConfigError(
            "--output", "must be a new or an empty folder", received=str(output), remedy="name another, or add --force"
        )
    kept = [path.expanduser().resolve() for path in (*inputs, Path.cwd(), Path.home())]
    if any(path.is_relative_to(target) for path in kept) or not (target / "config.json").is_file():
        raise ConfigError(
            "--output",
            "--force replaces only a folder that holds a model and nothing that is in use",
            received=str(output),
            remedy="name another folder",
        )
    return target


def check_space(target: Path, num_bytes: int) -> None:
    """Raise CacheError when the disk of `target` has no room for so many bytes."""
    place = next(path for path in (target, *target.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < num_bytes:
        raise CacheError(
            "--output",
            f"needs {num_bytes / 1e9:.1f} GB of free disk",
            received=f"{free / 1e9:.1f} GB free at {place}",
            remedy="free space, or name a folder on another disk",
        )


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`; at the end of the block it takes the target's place, at an exception it goes.

    What stood at `target` stays until the new folder is complete. Killed outright, a hidden folder remains beside it,
    which the next call to the same place removes.

    Raises:
        CacheError: the disk is full or cannot be written, or `target` was filled by another process meanwhile.
    """
    aside = _sibling(target, "partial")
    try:
        _remove_leftovers(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.mkdir()
        replaced = target.is_dir() and any(target.iterdir())
        yield aside
        _finish(aside)
        _put_in_place(aside, target, replaced=replaced)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        fault = _fault_of_writing(error)
        if fault is None:
            raise
        raise CacheError(
            "--output",
            "must be writable, with room for what is written",
            received=f"{target}: {fault}",
            remedy="free space, or name a folder that can be written; nothing was left there",
        ) from error


def _sibling(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{kind}-{socket.gethostname()}-{os.getpid()}")


def _remove_leftovers(target: Path) -> None:
    """Clear up after exports of this machine to the same place that were killed; what they took away comes back."""
    import psutil

    for kind in ("replaced", "partial"):
        for path in target.parent.glob(f".{glob.escape(target.name)}.{kind}-{glob.escape(socket.gethostname())}-*"):
            number = path.name.rpartition("-")[2]
            if not number.isdecimal() or (int(number) != os.getpid() and psutil.pid_exists(int(number))):
                continue
            if kind == "replaced" and not target.exists():
                os.rename(path, target)
            else:
                shutil.rmtree(path, ignore_errors=True)


def _finish(folder: Path) -> None:
    """Flush all files to disk, and let those read them who may read the folder: safetensors are written as private."""
    readable = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for path in (entry for entry in folder.rglob("*") if entry.is_file()):
        path.chmod(readable)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


def _put_in_place(aside: Path, target: Path, *, replaced: bool) -> None:
    if not replaced:
        os.rename(aside, target)  # over an empty folder; one that was filled meanwhile is ENOTEMPTY
        return
    old = _sibling(target, "replaced")
    os.rename(target, old)
    try:
        os.rename(aside, target)
    except BaseException:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _fault_of_writing(error: BaseException) -> str | None:
    """What stands in the way of writing, or None for any other exception."""
    if isinstance(error, OSError):
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return "another process wrote there meanwhile"
        return error.strerror if error.errno in _UNWRITABLE else None
    if type(error).__name__ == "SafetensorError":  # it wraps the system's error as text
        found = re.search(r"os error (\d+)", str(error))
        return os.strerror(int(found[1])) if found else str(error)
    return None
