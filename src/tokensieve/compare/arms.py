"""The runs that a name on the command line means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tokensieve.errors import DataError
from tokensieve.records import EvalResult
from tokensieve.report.labels import group_label
from tokensieve.report.load import Run, Sweep, read_sweep

BASE = "base"
_MIN_ID = 6  # shortest prefix of a job's id that names it


@dataclass(frozen=True, slots=True)
class ComparedArm:
    """Runs that differ in their seed alone. The base model has no runs: its scores stand in the runs of the others."""

    label: str
    runs: tuple[Run, ...]

    @property
    def is_base(self) -> bool:
        return not self.runs


def find_arm(name: str, find_sweep: Callable[[], Path]) -> ComparedArm:
    """The arm of a name: a run's folder; `base`; or, in a sweep, a run's name or job id, or an arm with all its seeds.

    Args:
        name: as given on the command line.
        find_sweep: folder of the sweep; asked only for names that need it.

    Raises:
        DataError: no such run, or none that finished.
    """
    path = Path(name)
    if path.is_dir() and ((path / "status.json").is_file() or (path / "result.json").is_file()):
        return _arm(name, read_sweep(path).runs)
    if name == BASE:
        return ComparedArm(BASE, ())
    if (path / "sweep.json").is_file():
        raise DataError(
            name,
            "is a sweep: two of its arms can be compared",
            received=_listed(read_sweep(path)),
            remedy=f"name them, with --sweep {name}",
        )
    if path.is_dir() or ("/" in name.strip("/") and path.parent.is_dir()):
        raise DataError(
            name,
            "must be the folder of a run, with result.json",
            received="a folder without" if path.is_dir() else "no such folder",
            remedy="look below outputs/runs and a sweep's jobs",
        )
    sweep = read_sweep(find_sweep())
    # First by label, which may be part of other arms' names.
    found = [run for run in sweep.runs if group_label(run, sweep.runs) == name]
    found = found or [run for run in sweep.runs if _is_called(run, name, sweep)]
    if not found:
        raise DataError(
            name,
            f"must be a run's folder, or an arm of the sweep {sweep.folder}",
            received=_listed(sweep),
            remedy="name one of these, or another sweep with --sweep",
        )
    return _arm(name, found)


def group_runs(names: Sequence[str], find_sweep: Callable[[], Path]) -> ComparedArm:
    """Several names as the seeds of one arm.

    Raises:
        DataError: as `find_arm`; the base among several; two runs of one seed.
    """
    arms = [find_arm(name, find_sweep) for name in names]
    if len(arms) == 1:
        return arms[0]
    if any(arm.is_base for arm in arms):
        raise DataError(BASE, "is an arm by itself", received=" ".join(names), remedy="give it alone")
    runs = [run for arm in arms for run in arm.runs]
    return _arm(" ".join(names), runs)


def label_arms(arms: Sequence[ComparedArm]) -> list[ComparedArm]:
    """The arms under the parts of their runs' names in which they differ; the names given, where they do not."""
    trained = [arm for arm in arms if not arm.is_base]
    names = [_shared_parts(arm) for arm in trained]
    width = max((len(parts) for parts in names), default=0)
    padded = [parts + [""] * (width - len(parts)) for parts in names]
    differing = [place for place in range(width) if len({parts[place] for parts in padded}) > 1]
    if not differing and width:
        differing = [place for place in range(width) if place == 3]  # a single arm, against the base: its token rule
    labels = ["/".join(parts[place] for place in differing if parts[place]) for parts in padded]
    if len(set(labels)) < len(labels) or not all(labels):
        labels = [arm.label for arm in trained]
    found = iter(labels)
    return [arm if arm.is_base else replace(arm, label=next(found)) for arm in arms]


def results_of(run: Run, *, of_base: bool) -> Mapping[str, EvalResult]:
    """Task -> scores of a finished run, or of the base as that run met it."""
    assert run.result is not None
    return {entry.task: entry for entry in (run.result.base_evals if of_base else run.result.evals)}


def _arm(name: str, runs: Sequence[Run]) -> ComparedArm:
    finished = list({run.folder.resolve(): run for run in runs if run.result is not None}.values())
    if not finished:
        states = sorted({f"{run.state}{f': {run.error}' if run.error else ''}" for run in runs})
        raise DataError(name, "must be a finished run", received=", ".join(states), remedy="finish or resume it first")
    seeds = [run.seed for run in finished]
    if len(set(seeds)) < len(seeds):
        raise DataError(
            name,
            "must mean runs that differ in their seed alone",
            received=", ".join(run.name if run.name else str(run.folder) for run in finished),
            remedy="name the runs by their folders, or the arm as tokensieve report prints it",
        )
    return ComparedArm(name, tuple(finished))


def _is_called(run: Run, name: str, sweep: Sweep) -> bool:
    return (
        name in (run.name, run.arm, group_label(run, sweep.runs), run.folder.name)
        or (len(name) >= _MIN_ID and run.job_id.startswith(name))
        or name == f"{run.arm}/seed={run.seed}"
    )


def _listed(sweep: Sweep) -> str:
    return ", ".join(dict.fromkeys(group_label(run, sweep.runs) for run in sweep.runs))


def _shared_parts(arm: ComparedArm) -> list[str]:
    """Parts of the runs' names that all seeds of the arm share."""
    names = [run.name.split("/") for run in arm.runs]
    if len({len(parts) for parts in names}) > 1:
        return []
    return [parts[0] if len(set(parts)) == 1 else "" for parts in zip(*names, strict=True)]
