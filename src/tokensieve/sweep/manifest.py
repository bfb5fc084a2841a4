"""sweep.json: what a sweep consists of and how far each job is. Readers see the old content or the new, never half."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokensieve.errors import SweepError

MANIFEST = "sweep.json"
PENDING, RUNNING, FINISHED, FAILED, KILLED, SKIPPED = "PENDING", "RUNNING", "FINISHED", "FAILED", "KILLED", "SKIPPED"
PRUNED = "PRUNED"  # a trial of a search that was ended early: over, and without a result
SUBMITTED = "SUBMITTED"  # queued by a cluster
PREEMPTED = "PREEMPTED"  # stopped by the cluster, which queued it again
_STATES = (PENDING, RUNNING, FINISHED, FAILED, KILLED, SKIPPED, PRUNED, SUBMITTED, PREEMPTED)


def now() -> str:
    """ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(slots=True)
class JobEntry:
    """One job. `dir` is relative to the sweep's folder. SKIPPED: it computes the same as job `same_as`, in whose
    folder its result lies. `control`: unmasked, random or low where the sweep added the job by itself. `cluster_job`:
    its name in the cluster that had it last. `restarts`: how often it started again by the cluster's doing."""

    id: str
    name: str
    overrides: list[str]
    dir: str
    state: str = PENDING
    same_as: str | None = None
    control: str | None = None
    error: str | None = None
    started: str | None = None
    ended: str | None = None
    objective: float | list[float] | None = None  # of a search: one for each of its objectives, in their order
    cluster_job: str | None = None
    restarts: int = 0


@dataclass(slots=True)
class Manifest:
    """The whole file. `overrides` holds the batch as given, without controls; `axes` the swept keys and their values;
    `base` the config without them, which a resumed sweep must still compose to; `left_out` the combinations that a rule
    refuses, each as {overrides, reason}."""

    created: str
    name: str
    overrides: list[list[str]]
    axes: dict[str, list[str]]
    base: dict[str, Any]
    command: str
    jobs: list[JobEntry] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    mlflow_parent_run_id: str | None = None
    number: int = 0  # of the sweeps in one folder, by their beginning, whatever the system's clock said

    def save(self, folder: Path) -> None:
        """Write aside, flush to disk, rename."""
        write_json(folder / MANIFEST, asdict(self))

    def find(self, job_id: str) -> JobEntry:
        """The entry that runs `job_id` (not its duplicates)."""
        return next(entry for entry in self.jobs if entry.id == job_id and entry.same_as is None)

    def count(self, *states: str) -> int:
        return sum(entry.state in states for entry in self.jobs)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Atomic and durable; a line for each key, and for each job.

    Raises:
        SweepError: the file cannot be written.
    """
    lines = ",\n".join(f"{json.dumps(key)}: {_lines(value)}" for key, value in values.items())
    aside = path.with_name(f"{path.name}.partial")
    try:
        with aside.open("w", encoding="utf-8") as stream:
            stream.write(f"{{\n{lines}\n}}\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)
    except OSError as error:
        remedy = "free space, or correct the folder's permissions, and resume"
        raise SweepError(str(path), "must be writable", received=error.strerror, remedy=remedy) from error


def _lines(value: Any) -> str:
    # json's own indentation is many times slower, and a sweep of a thousand jobs is written two thousand times.
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(json.dumps(item, ensure_ascii=False, allow_nan=False) for item in value) + "\n]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def finite(value: Any) -> Any:
    """`value` as JSON can hold it: NaN and infinities become None.

    >>> finite({"a": [float("nan"), 1.5]})
    {'a': [None, 1.5]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a sweep's folder.

    Raises:
        SweepError: there is none, or it is damaged.
    """
    path = folder / MANIFEST
    remedy = "start the sweep again without sweep.resume; cached stages are reused"
    if not folder.is_dir():
        raise SweepError(
            "sweep.resume", "must be `latest` or the folder of a sweep", received=str(folder), remedy=remedy
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest(**{**values, "jobs": [JobEntry(**entry) for entry in values["jobs"]]})
        faults = list(_faults(manifest))
    except FileNotFoundError:
        raise SweepError(str(folder), f"holds no {MANIFEST}, so it is no sweep", remedy=remedy) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        faults = [str(error)]
    if faults:
        raise SweepError(str(path), "is damaged", received=faults[0], remedy=remedy)
    return manifest


def _faults(manifest: Manifest) -> Iterator[str]:
    ids = {entry.id for entry in manifest.jobs}
    for entry in manifest.jobs:
        if entry.state not in _STATES:
            yield f"job {entry.id[:8]} has the unknown state {entry.state}"
        if entry.same_as is not None and entry.same_as not in ids:
            yield f"job {entry.id[:8]} refers to the missing job {entry.same_as[:8]}"
        if Path(entry.dir).is_absolute() or ".." in Path(entry.dir).parts:
            yield f"job {entry.id[:8]} lies outside of the sweep"
    if not all(isinstance(job, list) and all(isinstance(text, str) for text in job) for job in manifest.overrides):
        yield "overrides is no list of lists of texts"
    values: list[object] = [manifest.base, manifest.axes]  # JSON may hold anything
    if not all(isinstance(value, dict) for value in values):
        yield "base or axes is no mapping"


def latest_sweep(sweeps: Path) -> Path:
    """The sweep below `sweeps` that began last: by its number, then by the time that its manifest names.

    Raises:
        SweepError: there is none.
    """
    found = [(*order, path) for path, order in _by_beginning(sweeps).items()]
    if not found:
        raise SweepError(
            str(sweeps),
            "no sweep lies in this folder",
            remedy="start one (python train.py -m ...), or give a sweep's folder or the output_dir it was given",
        )
    return max(found)[-1]


def next_number(sweeps: Path) -> int:
    """One more than any sweep below `sweeps` has. A clock that went back must not make an old sweep the latest."""
    return 1 + max((number for number, _, _ in _by_beginning(sweeps).values()), default=0)


def _by_beginning(sweeps: Path) -> dict[Path, tuple[int, str, str]]:
    """Folder -> (number, time, name), all as the sweeps themselves say."""
    found: dict[Path, tuple[int, str, str]] = {}
    damaged = []
    for path in sweeps.glob(f"*/{MANIFEST}"):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            found[path.parent] = int(values.get("number") or 0), str(values["created"]), path.parent.name
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            damaged.append(path)
    for path in damaged:
        # Placed by its age, so that the newest sweep is named in the error, not an older one resumed.
        age = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
        number = max((number for number, created, _ in found.values() if created <= age), default=0)
        found[path.parent] = number, age, path.parent.name
    return found
