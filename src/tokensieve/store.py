"""Content-addressed cache: stamp -> folder. Built once, by one process, and never read half-written.

An entry is `<root>/<stage>/<digest>/` and holds its files and, written last, `manifest.json` with the size and the
checksum of each. A build works in a sibling folder that is renamed into place; a lock file a digest keeps two
processes from building the same entry. An entry that does not match its manifest is rebuilt. Who reads an entry holds
a shared lock on its manifest, so that `tokensieve cache prune` leaves it alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import xxhash
from filelock import FileLock

from tokensieve.errors import CacheError, TokensieveError
from tokensieve.records import Stamp
from tokensieve.write_faults import is_forbidden, write_fault

MANIFEST = "manifest.json"
_CHUNK_BYTES = 1 << 20
log = logging.getLogger(__name__)
T = TypeVar("T")


def file_checksum(path: Path) -> str:
    """32 hex digits (xxh3-128) of a file's bytes: detects corruption, not malice."""
    state = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            state.update(chunk)
    return state.hexdigest()


class Lease:
    """Keeps an entry from being pruned for as long as this object, or its process, lives. Notes that it was used."""

    def __init__(self, folder: Path) -> None:
        self._descriptor: int | None = None
        with contextlib.suppress(OSError):  # no such entry, or a file system without locks
            self._descriptor = os.open(folder / MANIFEST, os.O_RDONLY)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            os.utime(self._descriptor)  # the last one, because a read-only cache refuses it

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class Store:
    """The cache below `root`. Several processes, also on a shared file system, may use it at once.

    Where `root` is read-only, what it holds is read, and what it lacks is built into `own`, a folder beside it.
    """

    root: Path

    @property
    def own(self) -> Path:
        return self.root.with_name(f"{self.root.name}.own")

    @property
    def writable_root(self) -> Path:
        """`root`, or `own` where nothing can be written into it."""
        return self.root if _may_write(self.root) else self.own

    def folder(self, stamp: Stamp) -> Path:
        """Where the entry is, or would be built."""
        own = self._place(self.own, stamp)
        return own if _find_fault(own, check_content=False) is None else self._place(self.root, stamp)

    def is_complete(self, stamp: Stamp) -> bool:
        """Whether the entry exists with all files in their recorded sizes. Reads no file's content."""
        return _find_fault(self.folder(stamp), check_content=False) is None

    def get_or_build(self, stamp: Stamp, build: Callable[[Path], None]) -> Path:
        """Folder of the entry; `build(empty_folder)` fills it when it is missing or corrupted.

        Raises:
            CacheError: the cache cannot be written (disk full, not a folder).
        """
        return self.hold_or_build(stamp, build)[0]

    def hold_or_build(self, stamp: Stamp, build: Callable[[Path], None]) -> tuple[Path, Lease]:
        """`get_or_build`, and the lease that keeps the entry from being pruned."""
        while True:
            for target in (self._place(self.own, stamp), self._place(self.root, stamp)):
                lease = Lease(target)
                if _find_fault(target, check_content=True) is None:
                    return target, lease
            self._build_locked(stamp, build)  # then look again: it may be pruned before it is held

    def _build_locked(self, stamp: Stamp, build: Callable[[Path], None]) -> None:
        root = self.root if _may_write(self.root / stamp.stage) else self.own
        try:
            try:
                lock = self._prepare(root, stamp)
            except OSError as error:
                if root == self.own or not is_forbidden(error) or not root.is_dir():
                    raise
                root = self.own
                lock = self._prepare(root, stamp)
            if root == self.own:
                log.warning("the cache %s is read-only: what it lacks goes into %s", self.root, self.own)
            with lock:
                target = self._place(root, stamp)
                fault = _find_fault(target, check_content=True)
                if fault is None:  # another process built it while this one waited
                    return
                if target.exists():
                    log.warning("cache entry %s is damaged (%s): building it again", stamp, fault)
                    shutil.rmtree(target)
                self._build(stamp, target, build)
        except TokensieveError:
            raise
        except Exception as error:
            reason = write_fault(error, root)
            if reason is None:
                raise
            remedy = "free space, or set output_dir to a folder that can be written"
            raise CacheError(str(self.root), "the cache must be writable", received=reason, remedy=remedy) from error

    def _prepare(self, root: Path, stamp: Stamp) -> FileLock:
        target = self._place(root, stamp)
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.parent / f"{stamp.digest}.lock")
        with lock:  # a first time, so that what forbids it is found here and not in the builder
            pass
        return lock

    @staticmethod
    def _place(root: Path, stamp: Stamp) -> Path:
        return root / stamp.stage / stamp.digest

    def _build(self, stamp: Stamp, target: Path, build: Callable[[Path], None]) -> None:
        aside = target.with_name(f"{stamp.digest}.partial")
        shutil.rmtree(aside, ignore_errors=True)  # left by a killed build; the lock is ours
        aside.mkdir()
        try:
            build(aside)
            write_manifest(aside, stamp)
            os.rename(aside, target)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise


def _may_write(folder: Path) -> bool:
    """Whether a folder, or the nearest that exists above it, can be written; also a folder that is a file."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return not folder.is_dir() or os.access(folder, os.W_OK | os.X_OK)


def write_manifest(folder: Path, stamp: Stamp) -> None:
    """Record size and checksum of every file below `folder`, and flush them to disk."""
    files = {}
    for path in sorted(entry for entry in folder.rglob("*") if entry.is_file()):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        files[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "xxh3_128": file_checksum(path)}
    manifest = {"stage": stamp.stage, "digest": stamp.digest, "inputs": dict(stamp.inputs), "files": files}
    with (folder / MANIFEST).open("w", encoding="utf-8") as stream:
        json.dump(manifest, stream, indent=1, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())


def _find_fault(folder: Path, *, check_content: bool) -> str | None:
    """Why the entry cannot be used, or None when it can."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, expected in files.items():
            path = folder / name
            if path.stat().st_size != expected["bytes"]:
                return f"{name} has another size"
            if check_content and file_checksum(path) != expected["xxh3_128"]:
                return f"{name} has another checksum"
    except (FileNotFoundError, NotADirectoryError) as error:
        return f"missing {error.filename}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "unreadable manifest"
    return None


@dataclass(slots=True)
class Artefact(Generic[T]):
    """A stage's result that need not exist yet: its stamp is known at once, its content is built on `get`.

    `build(folder)` writes the entry's files; `load(folder)` opens them. Neither runs when only stamps are asked for,
    which is how a dry run plans without loading any library.
    """

    stamp: Stamp
    store: Store
    build: Callable[[Path], None]
    load: Callable[[Path], T]
    built_here: bool = field(default=False, init=False)
    _value: list[T] = field(default_factory=list, init=False)
    _lease: Lease | None = field(default=None, init=False, repr=False)

    @property
    def digest(self) -> str:
        return self.stamp.digest

    @property
    def is_cached(self) -> bool:
        return self.store.is_complete(self.stamp)

    def get(self) -> T:
        """The content, built first if the cache lacks it. `built_here` tells which it was."""
        if not self._value:
            folder, self._lease = self.store.hold_or_build(self.stamp, self._build_and_note)
            self._value.append(self.load(folder))
        return self._value[0]

    def _build_and_note(self, folder: Path) -> None:
        self.build(folder)
        self.built_here = True
