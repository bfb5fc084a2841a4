"""Bring local records into MLflow after the fact: of runs whose store was down, slow or refused, or whose tracking was
off. What a store has already is not sent again, so a sync that was stopped goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from filelock import FileLock

from tokensieve.errors import DataError
from tokensieve.sweep.folder import held, try_lock
from tokensieve.sweep.manifest import MANIFEST
from tokensieve.tracking import Uploader, default_uri
from tokensieve.tracking.mark import StoreMark
from tokensieve.tracking.upload import read_json

STATUS = "status.json"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Destination:
    """Where records go: as the options say, else as a run's own config says, else the store of the output folder."""

    output_dir: Path
    uri: str | None = None
    experiment: str | None = None

    def of(self, run: Path) -> tuple[str, str]:
        """(tracking URI, experiment) of a run's record."""
        tracking = _read_tracking(run)
        uri = self.uri or tracking.get("uri") or default_uri(self.output_dir)
        return str(uri), str(self.experiment or tracking.get("experiment") or "tokensieve")


@dataclass(slots=True)
class Synced:
    """What a sync did; `running` runs were left alone."""

    sent: list[Path] = field(default_factory=list)
    complete: int = 0
    running: list[Path] = field(default_factory=list)


def sync(folders: list[Path], destination: Destination, say: Say, *, dry_run: bool = False) -> Synced:
    """Send what the stores lack of every run and sweep in `folders`; a line for each that is sent.

    Args:
        folders: runs, sweeps, or output folders with `runs/` and `sweeps/`.
        destination: where each record goes.
        say: hears the lines.
        dry_run: say what would be sent; no store is opened.

    Raises:
        DataError: a folder without any record. CacheError: a store that cannot be reached; what was sent stays sent.
    """
    done, stores = Synced(), _Stores()
    for folder in folders:
        sweeps, runs = _find(folder)
        if not sweeps and not runs:
            raise DataError(
                str(folder),
                "must be a run, a sweep, or an output folder with runs and sweeps",
                remedy="look below outputs/sweeps and outputs/runs",
            )
        for sweep in sweeps:
            _sync_sweep(sweep, destination, stores, say, done, dry_run)
        for run in runs:
            _sync_run(run, destination.of(run), None, stores, say, done, dry_run)
    return done


class _Stores:
    """One connection a store, opened when the first record needs it."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], Uploader] = {}

    def get(self, where: tuple[str, str]) -> Uploader:
        if where not in self._open:
            self._open[where] = Uploader(*where)
        return self._open[where]


def _sync_sweep(folder: Path, destination: Destination, stores: _Stores, say: Say, done: Synced, dry_run: bool) -> None:
    manifest = read_json(folder / MANIFEST)
    places = dict.fromkeys(str(job["dir"]) for job in manifest.get("jobs", []) if not job.get("same_as"))
    jobs = [folder / place for place in places if (folder / place / STATUS).is_file()]
    if not jobs:
        return
    where = destination.of(jobs[0])
    if (lock := _lock_at_rest(folder, say, done)) is None:
        return
    with held(lock):
        parent = _known(folder, where)
        if not _is_current(folder, where):
            say(f"{'would send' if dry_run else 'sending'} the sweep {folder} to {where[0]}")
            if not dry_run:
                parent = stores.get(where).send_sweep(folder, manifest, *_report_of(folder))
        for job in jobs:
            _sync_run(job, where, parent, stores, say, done, dry_run)


def _lock_at_rest(folder: Path, say: Say, done: Synced) -> FileLock | None:
    """The lock of a sweep or run that nobody is running; None, and a line, where somebody is."""
    lock = try_lock(folder / ".lock")
    if lock is None:
        done.running.append(folder)
        say(f"running, left alone: {folder}")
    return lock


def _is_current(folder: Path, where: tuple[str, str]) -> bool:
    """Whether the store has the sweep's run as the manifest now is."""
    mark = StoreMark.read(folder, *where)
    return mark is not None and mark.is_complete and mark.has(folder / MANIFEST)


def _known(folder: Path, where: tuple[str, str]) -> str | None:
    mark = StoreMark.read(folder, *where)
    return mark.run_id if mark is not None else None


def _report_of(folder: Path) -> tuple[list[Path], str | None]:
    """The files that a sweep's parent run keeps, and the note on its page."""
    report = folder / "report"
    files = [folder / MANIFEST, *sorted(path for path in report.glob("*") if path.is_file())]
    table = report / "table.md"
    return files, table.read_text(encoding="utf-8", errors="replace") if table.is_file() else None


def _sync_run(
    folder: Path,
    where: tuple[str, str],
    parent_run_id: str | None,
    stores: _Stores,
    say: Say,
    done: Synced,
    dry_run: bool,
) -> None:
    mark = StoreMark.read(folder, *where)
    if mark is not None and mark.is_complete and parent_run_id in (None, mark.parent_run_id):
        done.complete += 1
        return
    if (lock := _lock_at_rest(folder, say, done)) is None:
        return
    with held(lock):
        status = read_json(folder / STATUS)
        done.sent.append(folder)
        if dry_run:
            say(f"would send {status.get('name') or folder.name} to {where[0]}")
            return
        run_id = stores.get(where).send_run(folder, status, parent_run_id)
        say(f"sent {status.get('name') or folder.name}: run {run_id} of {where[0]}")


def _find(folder: Path) -> tuple[list[Path], list[Path]]:
    """(sweeps, runs) that `folder` is or holds."""
    if (folder / MANIFEST).is_file():
        return [folder], []
    if (folder / STATUS).is_file():
        return [], [folder]
    return (
        sorted(path.parent for path in folder.glob(f"sweeps/*/{MANIFEST}")),
        sorted(path.parent for path in folder.glob(f"runs/*/{STATUS}")),
    )


def _read_tracking(run: Path) -> Mapping[str, Any]:
    """The tracking group of a run's config, whatever version of the schema wrote it."""
    try:
        values = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    tracking = values.get("tracking") if isinstance(values, dict) else None
    return tracking if isinstance(tracking, dict) else {}
