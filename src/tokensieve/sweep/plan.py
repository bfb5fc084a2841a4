"""Every job of a sweep, checked, with its controls and its duplicates, before any of them starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import OmegaConf

from tokensieve.config import EXECUTION_KEYS, RunConfig
from tokensieve.errors import CombinationError, TokensieveError
from tokensieve.sweep.compose import Compose, key_of, without
from tokensieve.sweep.explain import explain, is_config_error
from tokensieve.sweep.job_identity import identify
from tokensieve.sweep.left_out import LeftOut

_MATCHED_RULES = {"random": "random", "low": "low_ppl"}


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """One job. `same_as` is the id of an earlier job that computes the same thing: this one is not run."""

    job_id: str
    fingerprint: str
    name: str
    overrides: tuple[str, ...]
    config: RunConfig
    control: str | None = None
    same_as: str | None = None


def plan_jobs(
    batch: Sequence[Sequence[str]],
    compose: Compose,
    validate: Callable[[RunConfig], None],
    *,
    swept: Sequence[str],
    with_controls: bool,
    earlier: Sequence[PlannedJob] = (),
    then: Mapping[str, Any] | None = None,
    left_out: list[LeftOut] | None = None,
) -> list[PlannedJob]:
    """The jobs of `batch` in its order, then the controls that `sweep.controls` asks for.

    Args:
        batch: each job's overrides.
        compose: overrides -> config.
        validate: raises TokensieveError for what can be known before a model loads.
        swept: keys that vary over the sweep.
        with_controls: whether to add them.
        earlier: jobs of the sweep that are planned already: a search hands its jobs over in several batches, and a
            resumed sweep may gain some.
        then: the base values of the manifest of a sweep that is resumed.
        left_out: takes up the combinations that a rule of combination refuses, which are no jobs then; None: they are
            faults like any other.

    Raises:
        ExceptionGroup: every job that does not compose or validate, as TokensieveErrors that name the job.
    """
    jobs, faults = _check(list(batch), compose, validate, then, left_out)
    if faults:
        raise ExceptionGroup("jobs that cannot run", faults)
    if with_controls and jobs:
        controls = dict(_unique(_controls(jobs, swept)))
        arms, faults = _check(list(controls), compose, validate, then, left_out)
        if faults:
            raise ExceptionGroup("controls that cannot run", faults)
        present = {job.fingerprint for job in (*earlier, *jobs)}
        for arm in arms:
            control = controls[arm.overrides]
            if arm.fingerprint not in present:
                present.add(arm.fingerprint)
                jobs.append(replace(arm, control=control))
    return _name_apart(_mark_duplicates(jobs, earlier), earlier, swept)


def _check(
    batch: Sequence[Sequence[str]],
    compose: Compose,
    validate: Callable[[RunConfig], None],
    then: Mapping[str, Any] | None,
    left_out: list[LeftOut] | None,
) -> tuple[list[PlannedJob], list[Exception]]:
    jobs: list[PlannedJob] = []
    faults: dict[str, tuple[TokensieveError, str, int]] = {}
    for number, overrides in enumerate(batch, start=1):
        try:
            config = compose.read(overrides)
            validate(config)
        except Exception as error:
            if not isinstance(error, TokensieveError) and not is_config_error(error):
                raise
            fault = explain(error)
            if left_out is not None and isinstance(fault, CombinationError):
                left_out.append(LeftOut(tuple(overrides), fault))
                continue
            label = f"job {number} of {len(batch)} ({' '.join(overrides)})"
            first, place, others = faults.get(str(fault), (fault, label, -1))
            faults[str(fault)] = (first, place, others + 1)
        else:
            jobs.append(PlannedJob(*identify(config, then), config.run_name, tuple(overrides), config))
    for fault, place, others in faults.values():
        fault.add_note(place + (f" and {others} more" if others else ""))
    return jobs, [fault for fault, _, _ in faults.values()]


def _controls(jobs: Sequence[PlannedJob], swept: Sequence[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """(overrides, control) for each job of a sweep that varies a token rule, or was told its controls; every other axis
    is inherited.

    random and low are matched to the count that a threshold masks, so only jobs of rule high_ppl have them.
    """
    varied = [key for key in swept if _is_token_key(key)]
    for job in jobs:
        given = list(map(key_of, job.overrides))
        if not varied and "sweep.controls" not in given:
            continue
        token_keys = varied or [key for key in given if _is_token_key(key)]
        for control in job.config.sweep.controls:
            if control == "unmasked":
                yield (*without(job.overrides, [*token_keys, "stm.rule"]), "stm.rule=none"), control
            elif job.config.stm.rule == "high_ppl":
                yield (*without(job.overrides, ["stm.rule"]), f"stm.rule={_MATCHED_RULES[control]}"), control


def _is_token_key(key: str) -> bool:
    return key == "stm" or key.startswith("stm.")


def _unique(pairs: Iterator[tuple[tuple[str, ...], str]]) -> Iterator[tuple[tuple[str, ...], str]]:
    seen = set()
    for overrides, control in sorted(pairs, key=lambda pair: pair[1] != "unmasked"):
        if overrides not in seen:
            seen.add(overrides)
            yield overrides, control


def _mark_duplicates(jobs: Sequence[PlannedJob], earlier: Sequence[PlannedJob]) -> list[PlannedJob]:
    marked = []
    first_of = {job.fingerprint: job.job_id for job in earlier if job.same_as is None}
    for job in jobs:
        original = first_of.get(job.fingerprint)
        first_of.setdefault(job.fingerprint, job.job_id)
        marked.append(replace(job, same_as=original))
    return marked


def _name_apart(jobs: Sequence[PlannedJob], earlier: Sequence[PlannedJob], swept: Sequence[str]) -> list[PlannedJob]:
    """Add the swept overrides to names that several jobs share, such as those of a sweep over `optim.lr`."""
    ids: dict[str, set[str]] = {}
    for job in (*earlier, *jobs):
        ids.setdefault(job.config.run_name, set()).add(job.fingerprint)
    shared = {name for name, marks in ids.items() if len(marks) > 1}

    def apart(job: PlannedJob) -> PlannedJob:
        if job.config.search.trial is not None:  # whatever other batches of the search hold
            return replace(job, name=f"{job.name} (trial {job.config.search.trial})")
        own = [text for text in job.overrides if key_of(text) in swept]
        return replace(job, name=f"{job.name} ({' '.join(own)})") if job.name in shared and own else job

    return [apart(job) for job in jobs]


def base_values(batch: Sequence[Sequence[str]], compose: Compose, swept: Sequence[str]) -> dict[str, Any]:
    """The composed config that all jobs start from: its identity, before ranges and conflicts are checked.

    Not a `RunConfig`: a base need not be runnable without its swept keys.
    """
    composed = compose(without(batch[0] if batch else (), swept))
    values = OmegaConf.to_container(composed, resolve=True)  # whole: a value may refer to one that is left out
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if key not in EXECUTION_KEYS}
