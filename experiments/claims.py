"""Claims of a design judged by its runs: which runs are an arm, what differs, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tokensieve.records import EvalResult, RunResult
from tokensieve.statistics import (
    Interval,
    adjust_p_values,
    compare_arms,
    detectable_difference,
    difference_p_value,
    seed_interval,
)
from tokensieve.statistics.rank_correlation import spearman
from tokensieve.sweep.arms_file import read_arms
from tokensieve.sweep.manifest import FINISHED, SKIPPED, read_manifest

BASE = "base"
LEVEL = 0.05
UNKNOWN = Interval(math.nan, math.nan, math.nan)
Runs = dict[str, dict[int, RunResult]]  # arm -> seed -> its finished run


@dataclass(frozen=True)
class Finding:
    """A claim, and what the runs say of it.

    `difference`: points, `first` minus `second`; of a trend, Spearman's correlation with the order of its arms.
    `adjusted`: Holm's p over the claims of a direction in the same family; NaN for a claim of equality.
    """

    claim: Mapping[str, Any]
    seeds: int = 0
    items: int = 0
    difference: Interval = UNKNOWN
    detectable: float = math.nan
    p_value: float = math.nan
    adjusted: float = math.nan
    least_seeds: int = 2  # fewer decide nothing

    @property
    def is_trend(self) -> bool:
        return "trend" in self.claim

    @property
    def compared(self) -> str:
        if self.is_trend:
            return f"{self.claim['trend'][0]} → {self.claim['trend'][-1]}"
        return f"{self.claim['first']} − {self.claim['second']}"

    @property
    def verdict(self) -> str:
        """confirmed, refuted, or undecided; a claim of equality needs the whole interval inside its margin."""
        low, high = self.difference.low, self.difference.high
        if self.seeds == 0 or math.isnan(self.difference.value):
            return "not run"
        if self.seeds < self.least_seeds:
            return "undecided"
        if self.claim["expect"] == "equal":
            margin = self.claim["margin"]
            if -margin < low and high < margin:
                return "confirmed"
            return "refuted" if low > margin or high < -margin else "undecided"
        if not self.adjusted < LEVEL:
            return "undecided"
        return "confirmed" if self.difference.value > 0 else "refuted"


def read_runs(design: Path, sweep: Path) -> Runs:
    """The finished runs of every arm. A job belongs to the arm with the most overrides among those it has all of.

    An arm of `chosen` is, for each seed, the run of the arm that its search of validation items liked best.
    """
    arms = {name: set(overrides) for name, overrides in read_arms(design).items()}
    manifest = read_manifest(sweep)
    finished = {job.id: sweep / job.dir for job in manifest.jobs if job.same_as is None and job.state == FINISHED}
    found: Runs = {name: {} for name in arms}
    for job in manifest.jobs:
        folder = finished.get(job.same_as or job.id)
        own = [name for name, overrides in arms.items() if overrides <= set(job.overrides)]
        if job.state in (FINISHED, SKIPPED) and folder is not None and own:
            result = RunResult.from_json((folder / "result.json").read_text(encoding="utf-8"))
            found[max(own, key=lambda name: len(arms[name]))][int(result.config["seed"])] = result
    for name, how in (yaml.safe_load(design.read_text(encoding="utf-8")).get("chosen") or {}).items():
        found[name] = _choose(found, how, sweep.parent / how["search"])
    return found


def _choose(runs: Runs, how: Mapping[str, Any], search: Path) -> dict[int, RunResult]:
    """For each seed the run, among the arms `how["among"]`, whose trial has the best objective (gain: the more, the
    better). A trial is of an arm when both trained the same adapter."""
    if not (search / "sweep.json").is_file():
        return {}
    gains: dict[str, float] = {}
    for job in read_manifest(search).jobs:
        path = search / job.dir / "result.json"
        if job.state == FINISHED and path.is_file():
            result = RunResult.from_json(path.read_text(encoding="utf-8"))
            gains[result.stamps["fit"]] = result.objectives["gain"]
    seeds = set.intersection(*(set(runs[name]) for name in how["among"]))
    chosen = {}
    for seed in sorted(seeds):
        candidates = [runs[name][seed] for name in how["among"]]
        if all(one.stamps["fit"] in gains for one in candidates):
            chosen[seed] = max(candidates, key=lambda one: gains[one.stamps["fit"]])
    return chosen


def scores(evals: Sequence[EvalResult], target: str, of: str) -> np.ndarray:
    """Item scores in percent: of the target, or of all other tasks one after another."""
    chosen = [entry for entry in evals if (entry.task == target) == (of == "target")]
    return 100 * np.concatenate([np.asarray(entry.item_scores, dtype=float) for entry in chosen])


def judge(claim: Mapping[str, Any], runs: Runs) -> Finding:
    """The finding, its p-value not yet adjusted."""
    names = claim["trend"] if "trend" in claim else [claim["first"], claim["second"]]
    own = [runs[name] for name in names if name != BASE]
    seeds = sorted(set.intersection(*(set(of_arm) for of_arm in own)))
    if not seeds:
        return Finding(claim)
    sides = []
    for name in names:
        results = [(runs[name] if name != BASE else own[0])[seed] for seed in seeds]
        evals = [result.base_evals if name == BASE else result.evals for result in results]
        sides.append([scores(one, result.target_task, claim["of"]) for one, result in zip(evals, results, strict=True)])
    if "trend" in claim:
        return _judge_trend(claim, sides)
    found = Finding(claim, len(seeds), len(sides[0][0]), compare_arms(*sides), detectable_difference(*sides))
    return found if claim["expect"] == "equal" else replace(found, p_value=difference_p_value(*sides))


def _judge_trend(claim: Mapping[str, Any], sides: Sequence[Sequence[np.ndarray]]) -> Finding:
    """Page's test of ordered alternatives: each seed ranks the arms by their mean score; two-sided."""
    from scipy import stats

    means = np.array([[one.mean() for one in side] for side in sides]).T  # [seeds, arms]
    order = np.arange(means.shape[1], dtype=float)
    each = [spearman([(order, row)]) for row in means]
    each = [value for value in each if math.isfinite(value)] or [0.0]
    p_value = math.nan
    if len(means) > 1:
        upward, downward = (stats.page_trend_test(side).pvalue for side in (means, means[:, ::-1]))
        p_value = min(1.0, 2 * min(upward, downward))
    return Finding(claim, len(means), len(sides[0][0]), seed_interval(each), p_value=p_value)


def judge_all(claims: Sequence[Mapping[str, Any]], runs: Runs, *, least_seeds: int = 2) -> list[Finding]:
    """Every claim; p-values adjusted within each family (`family` of a claim; without any, all are one)."""
    found = [replace(judge(claim, runs), least_seeds=least_seeds) for claim in claims]
    families = {str(one.claim.get("family", "")) for one in found}
    adjusted = {
        key: value
        for family in families
        for key, value in adjust_p_values(
            {
                str(place): one.p_value
                for place, one in enumerate(found)
                if str(one.claim.get("family", "")) == family and not math.isnan(one.p_value)
            }
        ).items()
    }
    return [replace(one, adjusted=adjusted.get(str(place), math.nan)) for place, one in enumerate(found)]
