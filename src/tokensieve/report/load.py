"""Read a sweep's folder, or a single run's, as it is: finished, failed, half done."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokensieve.errors import DataError
from tokensieve.records import RunResult

_ARM_LABELS = {"high_ppl": "stm", "low_ppl": "low"}
_RULES = {label: rule for rule, label in _ARM_LABELS.items()}
ARM_PLACE = 3  # of the token rule in a run's name: model/dataset/variant/arm/lora/noise/seed


@dataclass(frozen=True, slots=True)
class Run:
    """One job of a sweep under one of its names.

    `job_id` is the job that computed the result: several names may share one (`same_as`). `axes` holds the swept
    values, `given` those among their keys that the job itself sets (None: all), where arms of a file set some alone.
    `border` is the number in the arm's label: threshold, quantile or DPF bound; None for unmasked.
    """

    name: str
    job_id: str
    folder: Path
    state: str  # FINISHED, FAILED, KILLED, RUNNING, PENDING, SKIPPED
    arm: str
    seed: int | None
    axes: Mapping[str, str] = field(default_factory=dict)
    control: str | None = None
    same_as: str | None = None
    error: str | None = None
    result: RunResult | None = None
    given: frozenset[str] | None = None

    @property
    def rule(self) -> str:
        label = self.arm.partition("=")[0]
        return "none" if label == "unmasked" else _RULES.get(label, label)

    @property
    def border(self) -> float | None:
        return parse_number(self.arm.partition("=")[2])

    @property
    def log_path(self) -> Path:
        return self.folder / "log.txt"


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep's folder. `axes`: swept key -> its values, as written on the command line."""

    folder: Path
    name: str
    created: str
    command: str
    axes: Mapping[str, tuple[str, ...]]
    runs: tuple[Run, ...]


def read_sweep(path: Path) -> Sweep:
    """Read `path`: a folder with `sweep.json`, or the folder of a single run, which becomes a sweep of one.

    Raises:
        DataError: it is neither, or its sweep.json is damaged.
    """
    path = Path(path)
    manifest = path / "sweep.json"
    if not manifest.is_file():
        return _single_run(path)
    try:
        values = json.loads(manifest.read_text(encoding="utf-8"))
        jobs = [dict(job) for job in values["jobs"]]
        folders = {job["id"]: path / job["dir"] for job in jobs if not job.get("same_as")}
        axes = {key: tuple(map(str, entries)) for key, entries in (values.get("axes") or _varying(jobs)).items()}
        varying = [key for key, entries in axes.items() if len(entries) > 1 or _is_set_by_some(key, jobs)]
        runs = tuple(_read_job(job, path, folders, varying) for job in jobs)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            str(manifest), "must be a sweep's manifest", received=str(error), remedy="resume the sweep, or run it again"
        ) from error
    name, created = values.get("name") or path.name, values.get("created") or ""
    return Sweep(path, str(name), str(created), str(values.get("command") or ""), axes, runs)


def _single_run(path: Path) -> Sweep:
    if not (path / "status.json").is_file() and not (path / "result.json").is_file():
        raise DataError(
            str(path),
            "must be the folder of a sweep (with sweep.json) or of a run (with status.json)",
            received="a folder without either" if path.is_dir() else "no such folder",
            remedy="look below outputs/sweeps and outputs/runs",
        )
    status = read_status(path)
    result, _ = _read_result(path)
    name = str(status.get("name") or (result.name if result else path.name))
    run = _read_job({"id": status.get("job_id") or "", "name": name, "state": "PENDING"}, path, {"": path}, [], path)
    return Sweep(path, name, str(status.get("started") or ""), "", {}, (run,))


def read_status(folder: Path) -> dict[str, Any]:
    """status.json of a run's folder; {} where there is none, or half of one."""
    try:
        values = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _read_job(
    job: Mapping[str, Any], sweep: Path, folders: Mapping[str, Path], axes: list[str], folder: Path | None = None
) -> Run:
    same_as = job.get("same_as")
    folder = folder or folders.get(same_as or job["id"]) or sweep / job["dir"]
    result, fault = _read_result(folder)
    status = read_status(folder)
    state = "FINISHED" if result else str(status.get("status") or job.get("state") or "PENDING")
    if result is None and job.get("state") in ("FAILED", "KILLED"):
        state = str(job["state"])  # a process that died could not write its status
    if state == "FINISHED" and result is None:
        state = "FAILED"
    recorded = status.get("error") or {}
    error = job.get("error") or (recorded.get("message") if isinstance(recorded, Mapping) else None) or fault
    name = str(job["name"])
    config = result.config if result is not None else {}
    overrides = dict(entry.lstrip("+").split("=", 1) for entry in job.get("overrides") or () if "=" in entry)
    return Run(
        name=name,
        job_id=str(same_as or job["id"]),
        folder=folder,
        state=state,
        arm=arm_of(config["stm"]) if "stm" in config and not same_as else _arm_of_name(name),
        seed=_seed({} if same_as else config, name),
        axes={key: _value(key, overrides, config) for key in axes},
        control=job.get("control"),
        same_as=same_as,
        error=" ".join(str(error).split()) if error and state != "FINISHED" else None,
        result=result,
        given=frozenset(overrides) & frozenset(axes) if axes else None,
    )


def _is_set_by_some(key: str, jobs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether arms differ in that some set `key`, to one value, and others leave it alone."""
    own = [job for job in jobs if not job.get("control")]
    count = sum(any(text.lstrip("+~").partition("=")[0] == key for text in job.get("overrides") or ()) for job in own)
    return 0 < count < len(own)


def _read_result(folder: Path) -> tuple[RunResult | None, str | None]:
    path = folder / "result.json"
    if not path.is_file():
        return None, None
    try:
        return RunResult.from_json(path.read_text(encoding="utf-8")), None
    except (OSError, ValueError, TypeError, KeyError) as error:
        return None, f"{path.name} cannot be read: {error}"


def arm_of(stm: Mapping[str, Any]) -> str:
    """Label of a token rule, as `RunConfig.arm` writes it; works on results of other versions of the schema.

    >>> arm_of({"rule": "high_ppl", "threshold": 2.5}), arm_of({"rule": "none"})
    ('stm=2.5', 'unmasked')
    """
    rule = str(stm.get("rule", "none"))
    if rule == "none":
        return "unmasked"
    kept = str(stm.get("dpf_keep", "fallen")) if rule in ("dpf", "stm_dpf") else "fallen"
    by_count = kept.startswith("most_")
    key = {"quantile": "quantile", "dpf": "threshold" if by_count else "dpf_threshold"}.get(rule, "threshold")
    border = stm.get(key)
    label = _ARM_LABELS.get(rule, rule) + (f"-{kept.replace('_', '-')}" if kept != "fallen" else "")
    return f"{label}={border:g}" if isinstance(border, (int, float)) else label


def _arm_of_name(name: str) -> str:
    parts = name.split("/")
    return parts[ARM_PLACE] if len(parts) > ARM_PLACE else name


def _seed(config: Mapping[str, Any], name: str) -> int | None:
    if isinstance(config.get("seed"), int):
        return int(config["seed"])
    found = re.search(r"(?:^|/)seed=(\d+)", name)
    return int(found[1]) if found else None


def _value(key: str, overrides: Mapping[str, str], config: Any) -> str:
    if key in overrides:
        return overrides[key]
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    if isinstance(config, Mapping):  # a config group: its options name themselves
        config = config.get("name")
    return "" if config is None else str(config)


def _varying(jobs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Axes of a manifest that names none (a search): the keys that its jobs override."""
    values: dict[str, list[str]] = {}
    for job in jobs:
        for key, _, value in (entry.partition("=") for entry in job.get("overrides") or () if not job.get("control")):
            entries = values.setdefault(key.lstrip("+"), [])
            if value not in entries:
                entries.append(value)
    return values


def parse_number(text: str) -> float | None:
    """
    >>> parse_number("1e-4"), parse_number("lab"), parse_number("nan")
    (0.0001, None, None)
    """
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
