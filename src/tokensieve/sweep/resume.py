"""What a resumed sweep runs: the overrides of its manifest, provided that they still mean the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokensieve.errors import SweepError
from tokensieve.sweep.compose import CONTROLLER_KEYS, is_execution, key_of, without
from tokensieve.sweep.manifest import Manifest, latest_sweep
from tokensieve.sweep.plan import PlannedJob

_SHOWN = 6


def sweep_to_resume(wish: str, output_dir: Path) -> Path:
    """The folder that `sweep.resume` means: `latest`, or a path."""
    return latest_sweep(output_dir / "sweeps") if wish == "latest" else Path(wish)


def resumed_batch(manifest: Manifest, given: Sequence[Sequence[str]], command: str) -> list[list[str]]:
    """The stored batch, under the execution keys (`sweep.workers`, `tracking`, ...) that are given now.

    Args:
        manifest: of the sweep.
        given: the batch of this command line; only `sweep.resume` and execution keys, or the whole sweep again.
        command: what resumes the sweep, for the remedy.

    Raises:
        SweepError: other overrides are given.
    """
    stored = [[text for text in job if key_of(text) not in CONTROLLER_KEYS] for job in manifest.overrides]
    chosen = {text for job in manifest.overrides for text in job if key_of(text) in CONTROLLER_KEYS}
    chosen_now = {text for job in given for text in job if key_of(text) in CONTROLLER_KEYS}
    if chosen != chosen_now and chosen:
        raise SweepError(
            "sweep.resume", f"the sweep was started with {' '.join(sorted(chosen))}", remedy=f"run {command}"
        )
    execution = [text for text in (given[0] if given else ()) if is_execution(text) and key_of(text) != "sweep.resume"]
    plan_now = {tuple(sorted(_plan_part(job))) for job in given}
    plan_then = {tuple(sorted(_plan_part(job))) for job in manifest.overrides}
    if plan_now not in ({()}, set(), plan_then):
        changes = [f"not in the sweep: {' '.join(job)}" for job in sorted(plan_now - plan_then)]
        changes += [f"now missing: {' '.join(job) or '(no overrides)'}" for job in sorted(plan_then - plan_now)]
        raise SweepError(
            "sweep.resume", f"other overrides than the sweep has; {_some(changes)}", remedy=f"run {command}"
        )
    replaced = {key_of(text) for text in execution} | {"sweep.resume"}
    return [[*without(job, replaced), *execution] for job in stored]


def _plan_part(job: Sequence[str]) -> list[str]:
    return [text for text in job if not is_execution(text) and key_of(text) not in CONTROLLER_KEYS]


def require_same_base(manifest: Manifest, base: Mapping[str, Any]) -> None:
    """Refuse to resume when the configuration that all jobs share is no longer the one of the manifest.

    Raises:
        SweepError: with the keys that differ.
    """
    then, today = _flat(manifest.base), _flat(base)
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


def require_same_jobs(manifest: Manifest, jobs: Sequence[PlannedJob]) -> None:
    """Refuse to resume when a job of the manifest would now compute something else (an option's file was edited).

    Raises:
        SweepError: with the jobs that differ.
    """
    then = {entry.id: entry.name for entry in manifest.jobs}
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
