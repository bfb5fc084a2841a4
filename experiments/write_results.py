"""Tables, figures and verdicts of a design: `python experiments/write_results.py experiments/science/design.yaml`.

A design is a YAML file of arms (what `hydra.sweeper.arms` runs) and claims, each a comparison of two arms, or a trend
over several, over the same seeds and test items. Written beside it: `results.md` (or the file that the design's
`results` names), `arms.csv`, `claims.png`, and `curve.png` where the design has a `curve`.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from claims import LEVEL, Finding, Runs, judge_all, read_runs, scores
from figures import draw_claims, draw_curve

from tokensieve.records import EvalResult, RunResult
from tokensieve.report.arms import build_arms
from tokensieve.report.change import change_interval, score_interval
from tokensieve.report.forgetting import predictor_markdown, study_forgetting
from tokensieve.report.load import read_sweep
from tokensieve.report.pairs import pair_tasks
from tokensieve.statistics import (
    Interval,
    compare_arms,
    describe_multiplicity,
)


def describe_arms(runs: Runs) -> pd.DataFrame:
    """A row for each arm that ran: means over seeds with their intervals over seeds and items."""
    rows = []
    for name, by_seed in runs.items():
        results = list(by_seed.values())
        if results:
            first = results[0]
            rows.append({"arm": name, "target": first.target_task, "seeds": len(results)} | _measure(results))
    return pd.DataFrame(rows)


def _measure(results: Sequence[RunResult]) -> dict[str, float]:
    target = results[0].target_task
    values: dict[str, float] = {
        "examples": float(np.mean([result.mask.num_examples for result in results if result.mask])),
        "kept_percent": 100 * float(np.mean([result.mask.kept_fraction for result in results if result.mask])),
    }
    after = [scores(result.evals, target, "target") / 100 for result in results]
    values |= _columns("target_percent", Interval(*(100 * value for value in score_interval(after))))
    for of in ("target", "others"):
        pairs = [(scores(result.evals, target, of), scores(result.base_evals, target, of)) for result in results]
        values |= _columns(f"{of}_points", compare_arms([one for one, _ in pairs], [other for _, other in pairs]))
    evals, bases = ([{e.task: e for e in found} for found in side] for side in zip(*_evaluations(results), strict=True))
    others = [task for task in evals[0] if task != target]
    values |= _columns("ti", change_interval(pair_tasks(evals, bases, [target]), "relative"))
    return values | _columns("bwt", change_interval(pair_tasks(evals, bases, others), "relative"))


def _evaluations(results: Sequence[RunResult]) -> Iterator[tuple[Sequence[EvalResult], Sequence[EvalResult]]]:
    """Of each run: after training, and of the base."""
    return ((result.evals, result.base_evals) for result in results)


def _columns(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def write_results(design: Path, sweep: Path) -> Path:
    """Write the tables, arms.csv and the figures; returns the path of the first.

    Raises:
        SystemExit: no run of any arm is finished.
    """
    values = yaml.safe_load(design.read_text(encoding="utf-8"))
    runs = read_runs(design, sweep)
    if not any(runs.values()):
        raise SystemExit(f"error: {sweep} has no finished run of an arm of {design}")
    arms = describe_arms(runs)
    findings = judge_all(values["claims"], runs, least_seeds=values.get("least_seeds", 2))
    arms.to_csv(design.with_name("arms.csv"), index=False, float_format="%.4g")
    path = design.parent / values.get("results", "results.md")
    figures = {"Differences with their intervals": design.with_name("claims.png")}
    draw_claims(findings, design.with_name("claims.png"))
    if "curve" in values and draw_curve(values["curve"], arms, design.with_name("curve.png")):
        figures[values["curve"]["title"]] = design.with_name("curve.png")
    lines = [
        f"# {values['title']}",
        "",
        *_introduce(design, runs, findings),
        "",
        "## Claims",
        *_claim_tables(findings),
        "",
        *(f"![{title}]({os.path.relpath(figure, path.parent)})" for title, figure in figures.items()),
        "",
        "## Arms",
        "",
        "| arm | target | seeds | examples | kept % | target % | target, points | others, points | TI % | BWT % |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_arm_line(row) for row in arms.to_dict("records")),
        *_predictors(sweep),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _introduce(design: Path, runs: Runs, findings: Sequence[Finding]) -> Iterator[str]:
    some = next(result for by_seed in runs.values() for result in by_seed.values())
    base = ", ".join(f"{entry.task} {100 * entry.value:.1f} % (n = {entry.num_items})" for entry in some.base_evals)
    seeds = sorted({seed for by_seed in runs.values() for seed in by_seed})
    directed = sum(not math.isnan(finding.p_value) for finding in findings)
    yield f"Arms and claims: `{design.name}`. Seeds {', '.join(map(str, seeds))}; base model: {base}."
    yield "Differences are in percentage points over the same seeds and test items, with 95 % intervals over both."
    yield f"p is Holm's over the claims of a direction in the same table; a verdict needs p < {LEVEL:g}. A claim of"
    yield "equality is confirmed when the whole interval lies inside its margin. 'Detectable' is the difference that"
    yield "these runs would have found with a chance of 80 %. A trend is Page's test over the seeds; its number is"
    yield f"Spearman's correlation with the order of the arms. {describe_multiplicity(directed)}"


def _claim_tables(findings: Sequence[Finding]) -> Iterator[str]:
    families: dict[str, list[Finding]] = {}
    for finding in findings:
        families.setdefault(str(finding.claim.get("family", "")), []).append(finding)
    for family, members in families.items():
        yield ""
        if family:
            yield f"### {family}"
            yield ""
        yield "| claim | source | compared | of | n seeds × items | difference | detectable | p | verdict |"
        yield "|---|---|---|---|---|---|---|---|---|"
        yield from (_claim_line(finding) for finding in members)


def _claim_line(finding: Finding) -> str:
    claim, p_value = finding.claim, finding.adjusted
    cells = [
        claim["claim"],
        claim["source"],
        finding.compared,
        claim["of"],
        f"{finding.seeds} × {finding.items}" if finding.seeds else "–",
        _show(finding.difference, "+.2f" if finding.is_trend else "+.1f"),
        "" if math.isnan(finding.detectable) else f"{finding.detectable:.1f}",
        "" if math.isnan(p_value) else "< 0.001" if p_value < 0.001 else f"{p_value:.3f}",
        f"**{finding.verdict}**",
    ]
    return f"| {' | '.join(cells)} |"


def _arm_line(row: Mapping[str, Any]) -> str:
    def cell(name: str, form: str) -> str:
        return _show(Interval(row[name], row[f"{name}_low"], row[f"{name}_high"]), form)

    cells = [row["arm"], row["target"], str(row["seeds"]), f"{row['examples']:.0f}", f"{row['kept_percent']:.1f}"]
    cells += [cell("target_percent", ".1f")]
    cells += [cell(name, "+.1f") for name in ("target_points", "others_points", "ti", "bwt")]
    return f"| {' | '.join(cells)} |"


def _show(interval: Interval, form: str) -> str:
    if math.isnan(interval.value):
        return "–"
    digits = int(form[-2])
    value, low, high = (format(round(part, digits) + 0.0, form) for part in interval)
    if math.isnan(interval.low):
        return value
    return f"{value} [{low}, {high}]"


def _predictors(sweep: Path) -> Iterator[str]:
    """How well each predictor of forgetting does over the sweep's arms; nothing for fewer than five masks."""
    found = read_sweep(sweep)
    text = predictor_markdown(study_forgetting(found, build_arms(found)))
    if text:
        yield ""
        yield "## Can forgetting be foretold?"
        yield text.replace("**Forgetting, foretold before training**", "").strip("\n")


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
