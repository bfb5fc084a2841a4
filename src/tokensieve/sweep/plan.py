"""Every job of a sweep, checked, with its controls and its duplicates, before any of them starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import OmegaConf

from tokensieve.config import EXECUTION_KEYS, RunConfig, identity
from tokensieve.errors import CombinationError, TokensieveError
from tokensieve.records import digest
from tokensieve.sweep.compose import Compose, key_of, without
from tokensieve.sweep.explain import explain, is_config_error
from tokensieve.sweep.left_out import LeftOut

_SCORE_FIELDS = {"scorer", "scorer_revision", "scores_path"}
_UNUSED_FIELDS = {
    "high_ppl": {"dpf_threshold", "quantile", "quantile_scope", "tuned_adapter", "mask_seed"},
    "low_ppl": {"dpf_threshold", "quantile", "quantile_scope", "tuned_adapter", "mask_seed"},
    "random": {"dpf_threshold", "quantile", "quantile_scope", "tuned_adapter"},
    "quantile": {"threshold", "dpf_threshold", "tuned_adapter", "mask_seed"},
    "dpf": {"threshold", "quantile", "quantile_scope", "mask_seed"},
    "stm_dpf": {"quantile", "quantile_scope", "mask_seed"},
}
_MATCHED_RULES = {"random": "random", "low": "low_ppl"}


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """One job. `same_as` is the id of an earlier job that computes the same thing: this one is not run."""

    job_id: str
    name: str
    overrides: tuple[str, ...]
    config: RunConfig
    fingerprint: str
    control: str | None = None
    same_as: str | None = None


def fingerprint(config: RunConfig) -> str:
    """Digest of what a run computes: its identity without the fields that its token rule does not read.

    >>> one, two = RunConfig(), RunConfig()
    >>> one.stm.rule = two.stm.rule = "none"
    >>> one.stm.threshold = 7
    >>> fingerprint(one) == fingerprint(two)
    True
    """
    return _fingerprint(identity(config))


def _fingerprint(values: Mapping[str, Any]) -> str:
    rule = values["stm"]["rule"]
    unused = set(values["stm"]) - {"rule"} if rule == "none" else _UNUSED_FIELDS.get(rule, set())
    return digest({**values, "stm": {key: value for key, value in values["stm"].items() if key not in unused}})


def plan_jobs(
    batch: Sequence[Sequence[str]],
    compose: Compose,
    validate: Callable[[RunConfig], None],
    *,
    swept: Sequence[str],
    with_controls: bool,
    known: Mapping[str, str] | None = None,
    left_out: list[LeftOut] | None = None,
) -> list[PlannedJob]:
    """The jobs of `batch` in its order, then the controls that `sweep.controls` asks for.

    Args:
        batch: each job's overrides.
        compose: overrides -> config.
        validate: raises TokensieveError for what can be known before a model loads.
        swept: keys that vary over the sweep.
        with_controls: whether to add them.
        known: fingerprint -> job id of jobs planned by earlier batches (a search hands its jobs over in several).
        left_out: takes up the combinations that a rule of combination refuses, which are no jobs then; None: they are
            faults like any other.

    Raises:
        ExceptionGroup: every job that does not compose or validate, as TokensieveErrors that name the job.
    """
    jobs, faults = _check(list(batch), compose, validate, left_out)
    if faults:
        raise ExceptionGroup("jobs that cannot run", faults)
    if with_controls and jobs:
        controls = dict(_unique(_controls(jobs, swept)))
        arms, faults = _check(list(controls), compose, validate, left_out)
        if faults:
            raise ExceptionGroup("controls that cannot run", faults)
        present = {job.fingerprint for job in jobs}
        for arm in arms:
            control = controls[arm.overrides]
            if arm.fingerprint not in present:
                present.add(arm.fingerprint)
                jobs.append(replace(arm, control=control))
    return _name_apart(_mark_duplicates(jobs, dict(known or {})), swept)


def _check(
    batch: Sequence[Sequence[str]],
    compose: Compose,
    validate: Callable[[RunConfig], None],
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
            values = identity(config)
            jobs.append(PlannedJob(digest(values), config.run_name, tuple(overrides), config, _fingerprint(values)))
    for fault, place, others in faults.values():
        fault.add_note(place + (f" and {others} more" if others else ""))
    return jobs, [fault for fault, _, _ in faults.values()]


def _controls(jobs: Sequence[PlannedJob], swept: Sequence[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """(overrides, control) for each job of a sweep that varies a token rule; every other axis is inherited.

    random and low are matched to the count that a threshold masks, so only jobs of rule high_ppl have them.
    """
    token_keys = [key for key in swept if key == "stm" or key.startswith("stm.")]
    if not token_keys:
        return
    for job in jobs:
        for control in job.config.sweep.controls:
            if control == "unmasked":
                yield (*without(job.overrides, [*token_keys, "stm.rule"]), "stm.rule=none"), control
            elif job.config.stm.rule == "high_ppl":
                yield (*without(job.overrides, ["stm.rule"]), f"stm.rule={_MATCHED_RULES[control]}"), control


def _unique(pairs: Iterator[tuple[tuple[str, ...], str]]) -> Iterator[tuple[tuple[str, ...], str]]:
    seen = set()
    for overrides, control in sorted(pairs, key=lambda pair: pair[1] != "unmasked"):
        if overrides not in seen:
            seen.add(overrides)
            yield overrides, control


def _mark_duplicates(jobs: Sequence[PlannedJob], first_of: dict[str, str]) -> list[PlannedJob]:
    marked = []
    for job in jobs:
        original = first_of.get(job.fingerprint)
        first_of.setdefault(job.fingerprint, job.job_id)
        marked.append(replace(job, same_as=original))
    return marked


def _name_apart(jobs: Sequence[PlannedJob], swept: Sequence[str]) -> list[PlannedJob]:
    """Add the swept overrides to names that several jobs share, such as those of a sweep over `optim.lr`."""
    ids: dict[str, set[str]] = {}
    for job in jobs:
        ids.setdefault(job.name, set()).add(job.fingerprint)
    clash = Counter({name: len(marks) for name, marks in ids.items()})

    def apart(job: PlannedJob) -> PlannedJob:
        if job.config.search.trial is not None:  # whatever other batches of the search hold
            return replace(job, name=f"{job.name} (trial {job.config.search.trial})")
        own = [text for text in job.overrides if key_of(text) in swept]
        return replace(job, name=f"{job.name} ({' '.join(own)})") if clash[job.name] > 1 and own else job

    return [apart(job) for job in jobs]


def base_values(batch: Sequence[Sequence[str]], compose: Compose, swept: Sequence[str]) -> dict[str, Any]:
    """The composed config that all jobs start from: its identity, before ranges and conflicts are checked.

    Not a `RunConfig`: a base need not be runnable without its swept keys.
    """
    composed = compose(without(batch[0] if batch else (), swept))
    kept = [str(key) for key in composed if key not in EXECUTION_KEYS]
    values = OmegaConf.to_container(OmegaConf.masked_copy(composed, kept), resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
