"""Plans the batches of one sweep, each beside what the sweep holds already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf

from tokensieve.config import RunConfig
from tokensieve.sweep.compose import composer, key_of, swept_keys
from tokensieve.sweep.job_identity import without_new_keys
from tokensieve.sweep.left_out import LeftOut, describe_left_out
from tokensieve.sweep.manifest import Manifest, finite
from tokensieve.sweep.plan import PlannedJob, base_values, plan_jobs
from tokensieve.sweep.resume import Revision, plan_part, require_same_base, require_same_jobs
from tokensieve.sweep.terminal import say

_VALUES_IN_NAME = 10


@dataclass(frozen=True, slots=True)
class Earlier:
    """The sweep that is resumed, as it was read."""

    folder: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Plan:
    """A batch, planned: `kept` jobs are the manifest's already, `new` ones are not; `left_out` are no jobs."""

    batch: Sequence[Sequence[str]]
    new: list[PlannedJob]
    left_out: list[LeftOut]
    kept: Sequence[PlannedJob] = ()
    earlier: Earlier | None = None
    revision: Revision | None = None

    @property
    def jobs(self) -> list[PlannedJob]:
        return [*self.kept, *self.new]


class Planner:
    """`swept`: the keys that vary over the sweep. `is_search`: batches come one after another and depend on results, so
    nothing is known in advance, and no controls are added."""

    def __init__(self, loader: ConfigLoader, master: DictConfig, *, is_search: bool) -> None:
        self._compose = composer(loader, master)
        self._is_search = is_search
        self._planned: list[PlannedJob] = []
        self._then: Mapping[str, Any] | None = None
        self.swept = swept_keys(master)

    def plan(self, batch: Sequence[Sequence[str]]) -> tuple[list[PlannedJob], list[LeftOut]]:
        """The jobs of `batch`, and its combinations that are none; says which those are.

        Raises:
            ExceptionGroup: of every job that cannot run.
        """
        left_out: list[LeftOut] = []
        jobs = self._plan(batch, left_out)
        if not jobs and not self._planned and not self._is_search:
            self._plan(batch, None)  # refuses the sweep, each fault under its jobs
        for line in describe_left_out(left_out, len(batch), self.swept):
            say(line)
        self._planned += jobs
        return jobs, left_out

    def _plan(
        self, batch: Sequence[Sequence[str]], left_out: list[LeftOut] | None, *, with_controls: bool = True
    ) -> list[PlannedJob]:
        return plan_jobs(
            batch,
            self._compose,
            _validate,
            swept=self.swept,
            with_controls=with_controls and not self._is_search,
            earlier=self._planned,
            then=self._then,
            left_out=left_out,
        )

    def resume(self, manifest: Manifest) -> None:
        """Take over the keys of a sweep that began earlier."""
        self.swept, self._then = tuple(manifest.axes), manifest.base

    def plan_kept(self, manifest: Manifest, revision: Revision) -> list[PlannedJob]:
        """The jobs that a resumed sweep keeps, as it planned them; from then on `swept` counts those that it gains.

        Raises:
            SweepError: they no longer mean the same. ExceptionGroup: of every job that cannot run any more.
        """
        require_same_base(manifest, self.base(manifest.overrides))
        entries = {tuple(revision.under_new_execution(entry.overrides)): entry for entry in revision.kept}
        jobs = self._plan(list(entries), [], with_controls=False)
        require_same_jobs(revision.kept, jobs)
        for job in jobs:
            entry = entries[job.overrides]
            self._planned.append(replace(job, name=entry.name, control=entry.control))
        self.swept = (*self.swept, *_varied(revision.batch, self.swept))
        return list(self._planned)

    def base(self, batch: Sequence[Sequence[str]]) -> dict[str, Any]:
        """The values that all jobs start from, in the keys that the sweep knew when it began."""
        values: dict[str, Any] = finite(base_values(batch, self._compose, self.swept))
        return values if self._then is None else without_new_keys(values, self._then)

    def axes(self, batch: Iterable[Sequence[str]]) -> dict[str, list[str]]:
        """Swept key -> its values in `batch`, in their order."""
        jobs = list(batch)
        return {
            key: list(dict.fromkeys(text.partition("=")[2] for job in jobs for text in job if key_of(text) == key))
            for key in self.swept
        }


def _varied(batch: Sequence[Sequence[str]], known: Sequence[str]) -> list[str]:
    """Keys beside those `known` whose overrides are not the same in all jobs."""
    jobs = [set(plan_part(job)) for job in batch]
    shared = set.intersection(*jobs) if jobs else set[str]()
    varied = dict.fromkeys(key_of(text) for job in batch for text in plan_part(job) if text not in shared)
    return [key for key in varied if key not in known]


def _validate(config: RunConfig) -> None:
    from tokensieve.pipeline import validate

    validate(config)


def name_sweep(
    config: RunConfig, axes: Mapping[str, Sequence[str]], master: DictConfig, *, is_search: bool = False
) -> str:
    """What a table of sweeps calls one: by its first job, the file of its arms where it has one, and its other axes;
    a search by its keys alone, because it finds their values as it goes."""
    if is_search:
        return f"{config.model.name}/{config.dataset.name} search over {', '.join(axes)}"[:200]
    arms = OmegaConf.select(master, "hydra.sweeper.arms")
    typed = {key_of(text) for text in master.hydra.overrides.task}
    varied = [
        f"{key}={','.join(values)}" if len(values) <= _VALUES_IN_NAME else f"{key} ({len(values)} values)"
        for key, values in axes.items()
        if arms is None or key in typed
    ]
    of_file = [] if arms is None else [f"arms of {'/'.join(Path(arms).parts[-2:])}"]
    return " ".join([f"{config.model.name}/{config.dataset.name}", *of_file, *varied])[:200]
