"""What lies in the cache, which runs it belongs to, and the removal of what nobody needs."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tokensieve.errors import CacheError, DataError
from tokensieve.store import MANIFEST, Store

COMPLETE, DAMAGED, LEFTOVER, KEPT = "complete", "damaged", "leftover", "kept"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class Entry:
    """One artefact of the cache, or what a killed build left of one.

    `state`: complete; damaged (it is built again when it is asked for); leftover (of a killed build); kept (a file
    that is no artefact, such as the store of completions: never pruned). `idle_seconds` since it was used last.
    `inputs`: digests of the artefacts that it was made from.
    """

    kind: str
    digest: str
    path: Path
    num_bytes: int
    idle_seconds: float
    state: str
    inputs: frozenset[str]


@dataclass(slots=True)
class Pruned:
    """What went, or would go; and what met the criteria but is used at this moment."""

    removed: list[Entry] = field(default_factory=list)
    in_use: list[Entry] = field(default_factory=list)


def list_entries(output_dir: Path) -> list[Entry]:
    """Every entry of the cache of `output_dir`, by kind and digest.

    Raises:
        DataError: there is no cache.
    """
    store = Store(output_dir / "cache")
    roots = [root for root in (store.root, store.own) if root.is_dir()]
    if not roots:
        raise DataError(
            str(store.root),
            "must be the cache of an output folder",
            received="no such folder",
            remedy="name the runs' output_dir with --output-dir",
        )
    return sorted((entry for root in roots for entry in _read_root(root)), key=lambda entry: (entry.kind, entry.digest))


def read_references(output_dir: Path) -> dict[str, set[Path]]:
    """Digest -> folders of the runs below `output_dir` whose records lead to it, directly or through what they used."""
    inputs: dict[str, frozenset[str]] = {}
    with suppress(DataError):
        inputs = {entry.digest: entry.inputs for entry in list_entries(output_dir)}
    found: dict[str, set[Path]] = {}
    for pattern in ("runs/*/status.json", "sweeps/*/jobs/*/status.json"):
        for status in output_dir.glob(pattern):
            waiting, seen = list(_named_by(status.parent)), set()
            while waiting:
                digest = waiting.pop()
                if digest not in seen:
                    seen.add(digest)
                    found.setdefault(digest, set()).add(status.parent)
                    waiting += inputs.get(digest, ())
    return found


def prune(
    output_dir: Path,
    *,
    idle_seconds: float | None = None,
    unreferenced: bool = False,
    kinds: Collection[str] = (),
    dry_run: bool = False,
) -> Pruned:
    """Remove the entries that meet every criterion that is given, but none that a process reads or builds.

    Args:
        output_dir: the folder of runs, sweeps and cache.
        idle_seconds: not used for so long.
        unreferenced: no run below `output_dir` leads to it.
        kinds: only these.
        dry_run: remove nothing.

    Raises:
        DataError: there is no cache. CacheError: it cannot be written.
    """
    done = Pruned()
    entries = [entry for entry in list_entries(output_dir) if entry.state != KEPT]
    references = read_references(output_dir) if unreferenced else {}
    for entry in entries:
        is_old = idle_seconds is None or entry.idle_seconds >= idle_seconds
        is_wanted = unreferenced and entry.state == COMPLETE and entry.digest in references
        if is_old and not is_wanted and (not kinds or entry.kind in kinds):
            try:
                with _alone_with(entry) as is_free:
                    (done.removed if is_free else done.in_use).append(entry)
                    if is_free and not dry_run:
                        _remove(entry.path)
            except OSError as error:
                raise CacheError(
                    str(entry.path), "must be removable", received=error.strerror, remedy="correct its permissions"
                ) from error
    return done


def _remove(path: Path) -> None:
    """Out of sight in one step, so that nobody finds half an entry; a removal that is killed leaves a leftover."""
    if path.suffix != _PARTIAL:
        aside = path.with_name(path.name + _PARTIAL)
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(path, aside)
        path = aside
    shutil.rmtree(path)


@contextmanager
def _alone_with(entry: Entry) -> Iterator[bool]:
    """Whether nobody builds or reads the entry, nor begins to within the block."""
    try:
        with FileLock(entry.path.with_name(f"{entry.digest}.lock"), timeout=0):
            descriptor = None
            try:
                if entry.state == COMPLETE:
                    descriptor = os.open(entry.path / MANIFEST, os.O_RDWR)
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, FileNotFoundError):  # read at this moment, or gone meanwhile
                yield False
            else:
                yield entry.path.exists()
            finally:
                if descriptor is not None:
                    os.close(descriptor)
    except Timeout:
        yield False


def _read_root(root: Path) -> Iterator[Entry]:
    for kind in sorted(path for path in root.iterdir() if path.is_dir()):
        for path in kind.iterdir():
            digest = path.name.removesuffix(_PARTIAL)
            if path.is_dir() and _DIGEST.fullmatch(digest):
                yield _read_entry(kind.name, digest, path)
    files = [path for path in root.iterdir() if path.is_file() and path.suffix != ".lock"]
    for path in sorted(files):
        yield Entry(path.stem.split(".")[0], "", path, path.stat().st_size, _idle(path), KEPT, frozenset())


def _read_entry(kind: str, digest: str, path: Path) -> Entry:
    size = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):  # removed meanwhile
                size += os.stat(os.path.join(folder, name)).st_size
    manifest = path / MANIFEST
    try:
        values: Any = json.loads(manifest.read_text(encoding="utf-8"))
        inputs = frozenset(_digests(values["inputs"])) - {digest}
        state = COMPLETE
    except (OSError, ValueError, TypeError, KeyError):
        inputs, state = frozenset(), DAMAGED
    if path.suffix == _PARTIAL:
        state = LEFTOVER
    return Entry(kind, digest, path, size, _idle(manifest if manifest.exists() else path), state, inputs)


def _idle(path: Path) -> float:
    """Seconds since a path was used last; 0 where the clock went back since."""
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return 0.0


def _named_by(run: Path) -> Iterator[str]:
    """Digests in a run's own records: what it asked the cache for, and what its result says."""
    for name, key in (("status.json", "artefacts"), ("result.json", "stamps")):
        try:
            values = json.loads((run / name).read_text(encoding="utf-8"))[key]
        except (OSError, ValueError, TypeError, KeyError):
            continue
        yield from _digests(values)


def _digests(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from _DIGEST.findall(value)
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _digests(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _digests(entry)
