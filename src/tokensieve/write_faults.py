"""What a failed write means: a disk that is full, a file that may not grow, a folder that is read-only.

Libraries wrap the system's error (Arrow, safetensors, SQLite) or lose its number (torch), so the chain of causes and
the texts are read.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tokensieve.errors import CacheError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}
_FULL_TEXTS = re.compile(
    r"no space left on device|disk quota exceeded|file too large|database or disk is full"
    r"|os error (?:28|27|122)\b|PytorchStreamWriter failed writing|disk i/o error",
    re.IGNORECASE,
)
FREE_SPACE = "free space, then give the same command again: it continues"


def write_fault(error: BaseException, folder: Path) -> str | None:
    """Why nothing could be written below `folder`, in the system's words; None when `error` means something else.

    A file elsewhere that may not be read is something else.

    >>> write_fault(OSError(28, "No space left on device"), Path("cache"))
    'No space left on device'
    >>> write_fault(PermissionError(13, "Permission denied", "data.jsonl"), Path("cache")) is None
    True
    """
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return os.strerror(cause.errno)
        if isinstance(cause, OSError) and cause.errno in _FORBIDDEN and _lies_below(cause.filename, folder):
            return f"{cause.strerror or os.strerror(cause.errno)}: {cause.filename or folder}"
        told = _FULL_TEXTS.search(str(cause))
        if told and getattr(cause, "errno", None) is None:  # shutil collects errors into one without a number
            return told[0]
    return None


def is_forbidden(error: OSError) -> bool:
    """Whether a write failed because this user, or the file system, allows none there."""
    return error.errno in _FORBIDDEN


def cannot_write(subject: Path, reason: str, remedy: str = FREE_SPACE) -> CacheError:
    """The error that a user reads."""
    return CacheError(str(subject), "must be writable", received=reason, remedy=remedy)


def output_refused(folder: Path, error: OSError) -> CacheError:
    """The error that a user reads whose output folder cannot be written."""
    return CacheError(
        "output_dir",
        "must be a folder that can be written",
        received=f"{folder}: {error.strerror}",
        remedy="set output_dir to another folder, or correct its permissions",
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _lies_below(filename: object, folder: Path) -> bool:
    if not isinstance(filename, (str, os.PathLike)):
        return True
    path, root = os.path.abspath(filename), os.path.abspath(folder)
    return path == root or path.startswith(root + os.sep) or root.startswith(path + os.sep)
