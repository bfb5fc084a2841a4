"""What a resumed sweep consists of: the jobs of its manifest, provided that they still mean the same, and new ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tokensieve.errors import SweepError
from tokensieve.sweep.arms_file import KEY as ARMS
from tokensieve.sweep.compose import CONTROLLER_KEYS, is_execution, key_of, without
from tokensieve.sweep.invocation import Invocation
from tokensieve.sweep.job_identity import without_new_keys
from tokensieve.sweep.manifest import FAILED, KILLED, PENDING, RUNNING, JobEntry, Manifest, latest_sweep, read_manifest
from tokensieve.sweep.plan import PlannedJob

_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Revision:
    """`batch`: overrides that the manifest will hold. `kept`: its entries that stay. `added`: overrides of new jobs.
    `dropped`: unfinished entries that nobody asks for any more. `execution`: overrides that hold for all jobs now."""

    batch: list[list[str]]
    kept: list[JobEntry]
    added: list[list[str]]
    dropped: list[JobEntry]
    execution: list[str]

    def under_new_execution(self, overrides: Sequence[str]) -> list[str]:
        """The stored overrides of a job, under the execution keys (`sweep.workers`, `tracking`, ...) given now."""
        replaced = {*map(key_of, self.execution), "sweep.resume"}
        return [*without(overrides, replaced), *self.execution]

    def describe(self) -> list[str]:
        """What changes, in a few words each."""
        lines = [f"{len(self.added)} combinations are new"] if self.added else []
        return [*lines, f"{len(self.dropped)} unfinished jobs are no longer asked for"] if self.dropped else lines


def sweep_to_resume(wish: str, output_dir: Path) -> Path:
    """The folder that `sweep.resume` means: `latest`, or a path."""
    return latest_sweep(output_dir / "sweeps") if wish == "latest" else Path(wish)


def follows_file(master: DictConfig) -> bool:
    """Whether the command names a file of arms."""
    return OmegaConf.select(master, ARMS) is not None


def complete_arguments(master: DictConfig, lines: Sequence[str], given: Sequence[str]) -> list[str]:
    """The overrides of the command line, `given`, over those that the resumed sweep was begun with.

    So `sweep.resume=latest seed=1,2,3` asks for a third seed of the sweep, whatever else it was given then. A command
    that asks for nothing, neither here nor in a file of arms nor by `lines` of Hydra's config, is left alone.
    """
    asks = follows_file(master) or any(plan_part([*lines, *given]))
    if master.sweep.resume is None or not asks:
        return list(given)
    manifest = read_manifest(sweep_to_resume(master.sweep.resume, Path(master.output_dir)))
    return [*Invocation.parse(manifest.command).overrides, *given]


def revise(manifest: Manifest, given: Sequence[Sequence[str]], *, follows_file: bool, command: str) -> Revision:
    """The sweep of `manifest` as `given` asks for it now.

    Jobs may be added. What is finished stays. What is not can be taken away by a file of arms that lacks it; its folder
    stays, and goes on where it stopped if it is asked for again.

    Args:
        manifest: of the sweep.
        given: the batch of this command; only `sweep.resume` and execution keys leave the plan as it is.
        follows_file: whether it comes from a file of arms.
        command: what resumes the sweep as it is, for the remedy.

    Raises:
        SweepError: another sweep is asked for, or a part of this one.
    """
    stored = [without(job, CONTROLLER_KEYS) for job in manifest.overrides]
    _require_same_controllers(manifest, given, command)
    execution = [text for text in (given[0] if given else ()) if is_execution(text) and key_of(text) != "sweep.resume"]
    if not any(plan_part(job) for job in given):
        return Revision(stored, manifest.jobs, [], [], execution)
    then = {_key(job, manifest.base): " ".join(plan_part(job)) for job in stored}
    now = {_key(job, manifest.base): " ".join(plan_part(job)) for job in given}
    missing = then.keys() - now.keys()
    if missing and not (follows_file and then.keys() & now.keys()):
        changes = [f"now missing: {then[job] or '(no overrides)'}" for job in sorted(missing)]
        changes += [f"not in the sweep: {now[job]}" for job in sorted(now.keys() - then.keys())]
        raise SweepError(
            "sweep.resume", f"other overrides than the sweep has; {_some(changes)}", remedy=f"run {command}"
        )
    waited_for = {entry.same_as for entry in manifest.jobs}
    open_jobs = [entry for entry in manifest.jobs if _may_drop(entry) and entry.id not in waited_for]
    dropped = [entry for entry in open_jobs if _key(entry.overrides, manifest.base) in missing]
    kept = [entry for entry in manifest.jobs if all(entry is not other for other in dropped)]
    gone = missing - {_key(entry.overrides, manifest.base) for entry in kept}
    added: dict[tuple[str, ...], list[str]] = {}
    for job in given:
        if (key := _key(job, manifest.base)) not in then:
            added.setdefault(key, without(job, ["sweep.resume"]))
    batch = [*(job for job in stored if _key(job, manifest.base) not in gone), *added.values()]
    return Revision(batch, kept, list(added.values()), dropped, execution)


def _may_drop(entry: JobEntry) -> bool:
    """Not what is finished, what the sweep added by itself, or what may be in a cluster's hands."""
    if entry.control is not None or entry.same_as is not None:
        return False
    return entry.state in (PENDING, FAILED, KILLED) or (entry.state == RUNNING and not entry.cluster_job)


def _require_same_controllers(manifest: Manifest, given: Sequence[Sequence[str]], command: str) -> None:
    chosen = {text for job in manifest.overrides for text in job if key_of(text) in CONTROLLER_KEYS}
    chosen_now = {text for job in given for text in job if key_of(text) in CONTROLLER_KEYS}
    if chosen != chosen_now and chosen:
        raise SweepError(
            "sweep.resume", f"the sweep was started with {' '.join(sorted(chosen))}", remedy=f"run {command}"
        )


def plan_part(job: Iterable[str]) -> list[str]:
    """The overrides that say what is computed, not how."""
    return [text for text in job if not is_execution(text) and key_of(text) not in CONTROLLER_KEYS]


def _key(job: Sequence[str], base: Mapping[str, Any]) -> tuple[str, ...]:
    """What tells the jobs of a sweep apart: not `seed=1` where that is the seed anyway."""
    part = plan_part(job)
    keys = {key_of(text) for text in part}
    return tuple(sorted(text for text in part if not _repeats(text, base, keys)))


def _repeats(override: str, base: Mapping[str, Any], keys: Set[str]) -> bool:
    """Whether an override gives a plain key the value of `base`, which none of the other `keys` changes as a group."""
    key, _, text = override.partition("=")
    *groups, last = key.split(".")
    node: Any = base
    for number, group in enumerate(groups, start=1):
        node = node.get(group) if isinstance(node, Mapping) else None
        if ".".join(groups[:number]) in keys:
            return False
    value = node.get(last) if isinstance(node, Mapping) else None
    if isinstance(value, bool) or value is None or isinstance(value, (Mapping, list)):
        return False
    try:
        return float(text) == value if isinstance(value, (int, float)) else text == value
    except ValueError:
        return False


def require_same_base(manifest: Manifest, base: Mapping[str, Any]) -> None:
    """Refuse to resume when the configuration that all jobs share is no longer the one of the manifest.

    Keys that the program gained since are no difference while they are at their defaults.

    Raises:
        SweepError: with the keys that differ.
    """
    then, today = _flat(manifest.base), _flat(without_new_keys(base, manifest.base))
    changes = [
        f"{key}: {then.get(key, '(absent)')} -> {today.get(key, '(absent)')}"
        for key in sorted(then.keys() | today.keys())
        if then.get(key, "(absent)") != today.get(key, "(absent)")
    ]
    if changes:
        raise SweepError(
            "sweep.resume",
            f"the configuration changed since the sweep began; {_some(changes)}",
            remedy="undo the change, or start a new sweep; cached stages are reused",
        )


def require_same_jobs(entries: Sequence[JobEntry], jobs: Sequence[PlannedJob]) -> None:
    """Refuse to resume when a job of the manifest would now compute something else (an option's file was edited).

    Raises:
        SweepError: with the jobs that differ.
    """
    then = {entry.id: entry.name for entry in entries}
    today = {job.job_id: job.name for job in jobs}
    changes = [f"no longer planned: {then[job]}" for job in then.keys() - today.keys()]
    changes += [f"newly planned: {today[job]}" for job in today.keys() - then.keys()]
    if changes:
        raise SweepError(
            "sweep.resume",
            f"the jobs changed since the sweep began; {_some(sorted(changes))}",
            remedy="undo the change, or start a new sweep; cached stages are reused",
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _some(lines: Sequence[str]) -> str:
    more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return "; ".join(lines[:_SHOWN]) + more
