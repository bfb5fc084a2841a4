"""A root of its own for programs, inside a mount namespace: the libraries, read-only, and a small scratch folder."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_DETACH = 2
SCRATCH = "/scratch"
_SCRATCH_OPTIONS = b"size=64m,nr_inodes=4096,mode=777"


def build_root(libc: ctypes.CDLL, scratch: str) -> None:
    """Make a root that holds the standard library and the C libraries, read-only, and a small scratch folder.

    Nothing else of the host's files is there: no home, no /proc, no /etc, no data, no site-packages of ours.
    """
    _mount(libc, "none", "/", None, _MS_REC | _MS_PRIVATE, None)
    _mount(libc, "tmpfs", scratch, b"tmpfs", _MS_NOSUID | _MS_NODEV, b"size=1m,mode=755")
    Path(scratch + SCRATCH).mkdir()
    for folder in library_folders():
        target = scratch + folder
        Path(target).mkdir(parents=True, exist_ok=True)
        try:
            _mount(libc, folder, target, None, _MS_BIND, None)
        except OSError:
            _mount(libc, folder, target, None, _MS_BIND | _MS_REC, None)
        _mount(libc, "none", target, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _locked_flags(target), None)
    site = f"{scratch}{Path(os.__file__).parent}/site-packages"
    if Path(site).is_dir():
        _mount(libc, "tmpfs", site, b"tmpfs", _MS_RDONLY | _MS_NOSUID | _MS_NODEV, b"size=0,mode=755")
    os.chdir(scratch)
    _check(libc.pivot_root(b".", b"."))  # the old root now lies over the new one; let it go
    _check(libc.umount2(b".", _DETACH))
    os.chdir("/")
    _mount(libc, "tmpfs", SCRATCH, b"tmpfs", _MS_NOSUID | _MS_NODEV, _SCRATCH_OPTIONS)
    _mount(libc, "none", "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV, None)


def library_folders() -> list[str]:
    """Folders that the interpreter loads from, none inside another."""
    own = () if sys.base_prefix in ("/", "/usr") else (f"{sys.base_prefix}/lib",)
    kept: list[str] = []
    for path in sorted({"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", *own, *sys.path}):
        covered = any(path.startswith(f"{other}/") for other in kept)
        if path.startswith("/") and Path(path).is_dir() and not covered:
            kept.append(path)
    return kept


def renew_scratch(libc: ctypes.CDLL) -> None:
    """Replace the scratch folder by an empty one.

    Raises:
        OSError: it cannot be mounted.
    """
    libc.umount2(SCRATCH.encode(), _DETACH)
    _mount(libc, "tmpfs", SCRATCH, b"tmpfs", _MS_NOSUID | _MS_NODEV, _SCRATCH_OPTIONS)


def _locked_flags(path: str) -> int:
    """Mount flags that a remount must repeat (a user namespace may not clear them)."""
    flags = os.statvfs(path).f_flag
    kept = flags & (_MS_NOSUID | _MS_NODEV | 8 | 1024 | 2048)  # 8 noexec, 1024 noatime, 2048 nodiratime
    return kept | (1 << 21 if flags & 4096 else 0)  # relatime has another number in statvfs


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _mount(libc: ctypes.CDLL, source: str, target: str, kind: bytes | None, flags: int, options: bytes | None) -> None:
    _check(libc.mount(source.encode(), target.encode(), kind, ctypes.c_ulong(flags), options))
