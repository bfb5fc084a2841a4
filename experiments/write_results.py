"""Tables, a figure and verdicts of a design: `python experiments/write_results.py experiments/science/design.yaml`.

A design is a YAML file of arms (what `hydra.sweeper.arms` runs) and claims, each a comparison of two arms over the same
seeds and test items. Written beside it: `results.md` (or the file that the design's `results` names), `arms.csv` and
`claims.png`.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from tokensieve.records import EvalResult, RunResult
from tokensieve.statistics import (
    Interval,
    adjust_p_values,
    backward_transfer,
    compare_arms,
    describe_multiplicity,
    detectable_difference,
    difference_p_value,
    seed_interval,
    target_improvement,
)
from tokensieve.sweep.arms_file import read_arms
from tokensieve.sweep.manifest import FINISHED, SKIPPED, read_manifest

BASE = "base"
LEVEL = 0.05


@dataclass(frozen=True)
class Finding:
    """A claim, and what the runs say of it; differences in points, `first` minus `second`."""

    claim: dict[str, Any]
    seeds: int
    items: int
    difference: Interval
    detectable: float
    p_value: float = math.nan  # Holm's, over all claims of a direction

    @property
    def verdict(self) -> str:
        """confirmed, refuted, or undecided; a claim of equality needs the whole interval inside its margin."""
        low, high = self.difference.low, self.difference.high
        if math.isnan(low):
            return "not run"
        if self.claim["expect"] == "equal":
            margin = self.claim["margin"]
            if -margin < low and high < margin:
                return "confirmed"
            return "refuted" if low > margin or high < -margin else "undecided"
        if self.p_value >= LEVEL:
            return "undecided"
        return "confirmed" if self.difference.value > 0 else "refuted"


def read_runs(design: Path, sweep: Path) -> dict[str, dict[int, RunResult]]:
    """Arm -> seed -> its finished run. A job belongs to the arm with the most overrides among those it has all of."""
    manifest = read_manifest(sweep)
    folders = {job.id: sweep / job.dir for job in manifest.jobs if job.same_as is None and job.state == FINISHED}
    arms = {name: set(overrides) for name, overrides in read_arms(design).items()}
    found: dict[str, dict[int, RunResult]] = {name: {} for name in arms}
    for job in manifest.jobs:
        if job.state not in (FINISHED, SKIPPED) or (job.same_as or job.id) not in folders:
            continue
        own = [name for name, overrides in arms.items() if overrides <= set(job.overrides)]
        text = (folders[job.same_as or job.id] / "result.json").read_text(encoding="utf-8")
        result = RunResult.from_json(text)
        found[max(own, key=lambda name: len(arms[name]))][int(result.config["seed"])] = result
    return found


def scores(evals: Sequence[EvalResult], target: str, of: str) -> np.ndarray:
    """Item scores in percent: of the target, or of all other tasks one after another."""
    chosen = [entry for entry in evals if (entry.task == target) == (of == "target")]
    return 100 * np.concatenate([np.asarray(entry.item_scores, dtype=float) for entry in chosen])


def judge(claim: dict[str, Any], runs: dict[str, dict[int, RunResult]]) -> tuple[Finding, float]:
    """The finding without its adjusted p-value, and the p-value."""
    names = [claim["first"], claim["second"]]
    own = [runs[name] for name in names if name != BASE]
    seeds = sorted(set.intersection(*(set(of_arm) for of_arm in own)))
    if not seeds:
        nothing = Interval(math.nan, math.nan, math.nan)
        return Finding(claim, 0, 0, nothing, math.nan), math.nan
    sides = []
    for name in names:
        results = [(runs[name] if name != BASE else own[0])[seed] for seed in seeds]
        evals = [result.base_evals if name == BASE else result.evals for result in results]
        sides.append([scores(one, result.target_task, claim["of"]) for one, result in zip(evals, results, strict=True)])
    difference = compare_arms(*sides)
    finding = Finding(claim, len(seeds), len(sides[0][0]), difference, detectable_difference(*sides))
    return finding, math.nan if claim["expect"] == "equal" else difference_p_value(*sides)


def judge_all(claims: Sequence[dict[str, Any]], runs: dict[str, dict[int, RunResult]]) -> list[Finding]:
    """Every claim, its p-value adjusted for the number of claims."""
    found = [judge(claim, runs) for claim in claims]
    adjusted = adjust_p_values({str(number): p_value for number, (_, p_value) in enumerate(found)})
    return [
        Finding(one.claim, one.seeds, one.items, one.difference, one.detectable, adjusted[str(number)])
        for number, (one, _) in enumerate(found)
    ]


def describe_arms(runs: dict[str, dict[int, RunResult]]) -> pd.DataFrame:
    """A row for each arm that ran: means over seeds with their intervals over seeds and items."""
    rows = []
    for name, by_seed in runs.items():
        results = list(by_seed.values())
        if not results:
            continue
        first = results[0]
        rows.append({"arm": name, "target": first.target_task, "seeds": len(results)} | _measure(results))
    return pd.DataFrame(rows)


def _measure(results: Sequence[RunResult]) -> dict[str, float]:
    target = results[0].target_task
    values: dict[str, float] = {
        "examples": float(np.mean([result.mask.num_examples for result in results if result.mask])),
        "kept_percent": 100 * float(np.mean([result.mask.kept_fraction for result in results if result.mask])),
    }
    after = [scores(result.evals, target, "target") for result in results]
    values |= _columns("target_percent", seed_interval([float(one.mean()) for one in after]))
    for of in ("target", "others"):
        pairs = [(scores(result.evals, target, of), scores(result.base_evals, target, of)) for result in results]
        values |= _columns(f"{of}_points", compare_arms([one for one, _ in pairs], [other for _, other in pairs]))
    tables = [
        ({e.task: e.value for e in result.evals}, {e.task: e.value for e in result.base_evals}) for result in results
    ]
    changes = [target_improvement(one[target], other[target]) for one, other in tables]
    for one, other in tables:
        del one[target], other[target]
    values |= _columns("ti", seed_interval(changes))
    return values | _columns("bwt", seed_interval([backward_transfer(one, other) for one, other in tables]))


def _columns(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def write_results(design: Path, sweep: Path) -> Path:
    """Write the tables, arms.csv and claims.png; returns the path of the first."""
    values = yaml.safe_load(design.read_text(encoding="utf-8"))
    runs = read_runs(design, sweep)
    arms = describe_arms(runs)
    findings = judge_all(values["claims"], runs)
    arms.to_csv(design.with_name("arms.csv"), index=False, float_format="%.4g")
    figure = design.with_name("claims.png")
    draw(findings, figure)
    path = design.parent / values.get("results", "results.md")
    some = next(result for by_seed in runs.values() for result in by_seed.values())
    base = ", ".join(f"{entry.task} {100 * entry.value:.1f} % (n = {entry.num_items})" for entry in some.base_evals)
    seeds = sorted({seed for by_seed in runs.values() for seed in by_seed})
    directed = sum(not math.isnan(finding.p_value) for finding in findings)
    lines = [
        f"# {values['title']}",
        "",
        f"Arms and claims: `{design.name}`. Seeds {', '.join(map(str, seeds))}; base model: {base}.",
        "Differences are in percentage points over the same seeds and test items, with 95 % intervals over both.",
        f"p is Holm's over the {directed} claims of a direction; a verdict needs p < {LEVEL:g}. A claim of equality is",
        "confirmed when the whole interval lies inside its margin. 'Detectable' is the difference that these runs",
        f"would have found with a chance of 80 %. {describe_multiplicity(directed)}",
        "",
        "## Claims",
        "",
        "| claim | source | compared | of | n seeds × items | difference | detectable | p | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_claim_line(finding) for finding in findings),
        "",
        f"![Differences with their intervals]({os.path.relpath(figure, path.parent)})",
        "",
        "## Arms",
        "",
        "| arm | target | seeds | examples | kept % | target % | target, points | others, points | TI % | BWT % |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_arm_line(row) for row in arms.to_dict("records")),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _claim_line(finding: Finding) -> str:
    claim = finding.claim
    p_value = "" if math.isnan(finding.p_value) else "< 0.001" if finding.p_value < 0.001 else f"{finding.p_value:.3f}"
    cells = [
        claim["claim"],
        claim["source"],
        f"{claim['first']} − {claim['second']}",
        claim["of"],
        f"{finding.seeds} × {finding.items}",
        _show(finding.difference, "+.1f"),
        "" if math.isnan(finding.detectable) else f"{finding.detectable:.1f}",
        p_value,
        f"**{finding.verdict}**",
    ]
    return f"| {' | '.join(cells)} |"


def _arm_line(row: dict[str, Any]) -> str:
    def cell(name: str, form: str) -> str:
        return _show(Interval(row[name], row[f"{name}_low"], row[f"{name}_high"]), form)

    cells = [row["arm"], row["target"], str(row["seeds"]), f"{row['examples']:.0f}", f"{row['kept_percent']:.1f}"]
    cells += [cell("target_percent", ".1f")]
    cells += [cell(name, "+.1f") for name in ("target_points", "others_points", "ti", "bwt")]
    return f"| {' | '.join(cells)} |"


def _show(interval: Interval, form: str) -> str:
    if math.isnan(interval.value):
        return "–"
    value, low, high = (format(round(part, 1) + 0.0, form) for part in interval)
    if math.isnan(interval.low):
        return value
    return f"{value} [{low}, {high}]"


def draw(findings: Sequence[Finding], path: Path) -> None:
    """Every claim's difference with its interval, marked by verdict."""
    from matplotlib.figure import Figure

    looks = {"confirmed": ("o", "#0072B2"), "refuted": ("X", "#D55E00"), "undecided": ("s", "#666666")}
    shown = [finding for finding in findings if finding.verdict in looks][::-1]
    figure = Figure(figsize=(8, 1.2 + 0.28 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for verdict, (marker, colour) in looks.items():
        own = [(place, one.difference) for place, one in enumerate(shown) if one.verdict == verdict]
        if own:
            places, found = zip(*own, strict=True)
            spread = [[one.value - one.low for one in found], [one.high - one.value for one in found]]
            values = [one.value for one in found]
            axes.errorbar(values, places, xerr=spread, fmt=marker, color=colour, capsize=2, label=verdict)
    axes.axvline(0, color="black", linewidth=0.8)
    labels = [f"{one.claim['first']} − {one.claim['second']} ({one.claim['of']})" for one in shown]
    axes.set_yticks(range(len(shown)), labels, fontsize=7)
    axes.set_xlabel("difference in points, 95 % interval")
    axes.legend(loc="best", fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Read a finished or running sweep and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("design", type=Path)
    parser.add_argument("--sweep", type=Path, help="its folder; default: outputs/sweeps/<name of the design's folder>")
    options = parser.parse_args()
    sweep = options.sweep or Path("outputs/sweeps") / options.design.resolve().parent.name
    print(write_results(options.design, sweep))


if __name__ == "__main__":
    main()
