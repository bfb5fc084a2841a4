from __future__ import annotations

import dataclasses
import importlib
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tokensieve.cli import compose
from tokensieve.errors import ConfigError
from tokensieve.records import EvalResult, MaskStats, RunResult
from tokensieve.sweep.arms_file import read_arms

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
DESIGNS = sorted(EXPERIMENTS.glob("*/design.yaml"))


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXPERIMENTS)  # as for a script that is run there
    return importlib.import_module("write_results")


def test_there_are_two_designs() -> None:
    assert [path.parent.name for path in DESIGNS] == ["robustft_lab", "science"]


@pytest.mark.parametrize("design", DESIGNS, ids=lambda path: path.parent.name)
def test_every_arm_composes_and_every_claim_compares_arms(design: Path) -> None:
    arms = read_arms(design)
    names = [compose([*overrides, "seed=1"]) for overrides in arms.values()]
    assert len(names) == len(arms)
    values = yaml.safe_load(design.read_text(encoding="utf-8"))
    claims, chosen = values["claims"], values.get("chosen") or {}
    assert claims
    assert all(set(how["among"]) <= set(arms) for how in chosen.values())
    assert set(values.get("curve", {}).get("arms", ())) <= set(arms)
    for claim in claims:
        compared = claim.get("trend") or [claim["first"], claim["second"]]
        assert set(compared) <= {*arms, *chosen, "base"}
        assert len(set(compared)) == len(compared) > 1
        assert claim["of"] in ("target", "others")
        assert claim["expect"] in ("higher", "equal")
        assert ("margin" in claim) == (claim["expect"] == "equal")
        assert claim["source"]
    assert len({claim["claim"] + claim["of"] for claim in claims}) == len(claims)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("arms: {a: [x=1], b: [x=1]}", "a and b are the same"),
        ("arms: {a: x=1}", "must be lists"),
        ("claims: []", "no key arms"),
        ("- a", "attribute"),
        ("a: [", "while parsing"),
    ],
)
def test_a_file_that_is_no_design_is_an_error(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "arms.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=fault):
        read_arms(path)
    with pytest.raises(ConfigError, match="No such file"):
        read_arms(tmp_path / "none.yaml")


def _result(seed: int, after: dict[str, list[float]], before: dict[str, list[float]], **values: Any) -> RunResult:
    def evals(tasks: dict[str, list[float]]) -> list[EvalResult]:
        return [
            EvalResult(
                task=task,
                metric="accuracy",
                version=1,
                item_ids=[str(place) for place in range(len(scores))],
                item_scores=scores,
                value=sum(scores) / len(scores),
                low=0.0,
                high=1.0,
            )
            for task, scores in tasks.items()
        ]

    mask = MaskStats(
        **{entry.name: 0 for entry in dataclasses.fields(MaskStats)} | {"response_tokens": 4, "kept_tokens": 3}
    )
    return RunResult(**{
        "job_id": "", "name": "", "status": "FINISHED", "config": {"seed": seed}, "target_task": "a", "stamps": {},
        "mask": mask, "base_evals": evals(before), "evals": evals(after), "fit": {}, "seconds": {},
        "peak_memory_bytes": {}, "versions": {}, "git_commit": None,
    } | values)  # fmt: skip


def _level(share: float) -> dict[str, list[float]]:
    """Ten items of the target, ten of another task, of which that share is right."""
    scores = [1.0] * round(10 * share) + [0.0] * (10 - round(10 * share))
    return {"a": scores, "b": scores}


def test_results_hold_the_differences_of_hand_made_runs(tmp_path: Path, writer: ModuleType) -> None:
    before = {"a": [0.0, 0.0, 1.0, 1.0], "b": [1.0] * 4, "c": [1.0] * 4}
    good = {"a": [1.0, 0.0, 1.0, 1.0], "b": [1.0] * 4, "c": [1.0] * 4}
    bad = {"a": [0.0, 0.0, 1.0, 1.0], "b": [0.0] * 4, "c": [1.0, 0.0, 0.0, 0.0]}
    jobs: list[dict[str, Any]] = []
    for name, after in (("good", good), ("bad", bad)):
        for seed in (1, 2):
            folder = tmp_path / "jobs" / f"{name}{seed}"
            folder.mkdir(parents=True)
            (folder / "result.json").write_text(_result(seed, after, before).to_json(), encoding="utf-8")
            overrides = ["k=1", *(["extra=2"] if name == "bad" else []), f"seed={seed}"]
            jobs.append(
                {
                    "id": folder.name,
                    "name": name,
                    "overrides": overrides,
                    "dir": f"jobs/{folder.name}",
                    "state": "FINISHED",
                }
            )
    manifest = {"created": "", "name": "", "overrides": [], "axes": {}, "base": {}, "command": "", "jobs": jobs}
    (tmp_path / "sweep.json").write_text(json.dumps(manifest), encoding="utf-8")
    claim = {"claim": "good is better", "source": "s", "first": "good", "second": "bad"}
    design = {
        "title": "T",
        "overrides": ["k=1"],
        "arms": {"good": [], "bad": ["extra=2"], "never": ["k=3"]},
        "claims": [
            claim | {"of": "others", "expect": "higher"},
            claim | {"of": "target", "expect": "equal", "margin": 1},
            claim | {"first": "base", "second": "good", "of": "others", "expect": "equal", "margin": 1},
            claim | {"first": "never", "of": "others", "expect": "higher"},
        ],
    }
    path = tmp_path / "design.yaml"
    path.write_text(yaml.safe_dump(design), encoding="utf-8")
    runs = writer.read_runs(path, tmp_path)
    assert {name: sorted(by_seed) for name, by_seed in runs.items()} == {"good": [1, 2], "bad": [1, 2], "never": []}
    findings = writer.judge_all(design["claims"], runs)
    assert findings[0].difference.value == pytest.approx(100 * 7 / 8)  # 8 of 8 items against 1 of 8
    assert (findings[0].seeds, findings[0].items) == (2, 8)
    assert findings[1].difference.value == pytest.approx(25.0)
    assert findings[1].verdict == "undecided"  # the interval is wider than the margin
    assert findings[2].verdict == "confirmed"  # nothing differs
    assert findings[3].verdict == "not run"
    assert math.isnan(findings[3].p_value)
    arms = writer.describe_arms(runs).set_index("arm")
    assert arms.loc["bad", "others_points"] == pytest.approx(-100 * 7 / 8)
    assert arms.loc["bad", "bwt"] == pytest.approx((-100 - 75) / 2)
    assert arms.loc["good", "ti"] == pytest.approx(50.0)
    assert arms.loc["good", "kept_percent"] == 75.0
    text = writer.write_results(path, tmp_path).read_text(encoding="utf-8")
    assert "+87.5 [" in text
    assert "**not run**" in text
    assert (tmp_path / "claims.png").stat().st_size > 1000


def test_a_trend_is_tested_over_the_seeds(writer: ModuleType) -> None:
    """Page's test of 5 seeds that all rank 4 arms alike: one of 24 orders a seed, so p = 2 * (1 / 24)^5."""
    before = _level(0.5)
    rising = {
        name: {seed: _result(seed, _level(share), before) for seed in range(1, 6)}
        for name, share in zip("wxyz", (0.1, 0.3, 0.6, 0.9), strict=True)
    }
    claim = {"claim": "c", "source": "s", "trend": list("wxyz"), "of": "others", "expect": "higher"}
    found, reverse = writer.judge_all([claim, claim | {"trend": list("zyxw")}], rising, least_seeds=5)
    assert found.difference.value == pytest.approx(1.0)
    assert found.p_value == pytest.approx(2 * (1 / 24) ** 5)
    assert found.verdict == "confirmed"
    assert reverse.verdict == "refuted"
    assert writer._claim_line(found).startswith("| c | s | w → z | others | 5 × 10 | +1.00")
    few = {name: {1: by_seed[1]} for name, by_seed in rising.items()}
    assert writer.judge_all([claim], few, least_seeds=5)[0].verdict == "undecided"
    assert writer.judge_all([claim], {name: {} for name in "wxyz"})[0].verdict == "not run"


def test_p_values_are_adjusted_within_a_family(writer: ModuleType) -> None:
    before, seeds = _level(0.5), range(1, 6)
    runs = {
        "up": {seed: _result(seed, _level(0.8 + 0.1 * (seed % 2)), before) for seed in seeds},
        "down": {seed: _result(seed, _level(0.2 + 0.1 * (seed % 3)), before) for seed in seeds},
    }
    claim = {"claim": "c", "source": "s", "first": "up", "second": "down", "of": "target", "expect": "higher"}
    alone = writer.judge_all([claim | {"family": "one"}, claim | {"family": "two"}], runs)
    together = writer.judge_all([claim | {"family": "one"}, claim | {"family": "one"}], runs)
    assert alone[0].adjusted == alone[0].p_value
    assert together[0].adjusted == pytest.approx(2 * together[0].p_value)


def _write_sweep(folder: Path, jobs: list[tuple[str, list[str], RunResult]]) -> None:
    entries = []
    for name, overrides, result in jobs:
        (folder / "jobs" / name).mkdir(parents=True)
        (folder / "jobs" / name / "result.json").write_text(result.to_json(), encoding="utf-8")
        entries.append({"id": name, "name": name, "overrides": overrides, "dir": f"jobs/{name}", "state": "FINISHED"})
    manifest = {"created": "", "name": "", "overrides": [], "axes": {}, "base": {}, "command": "", "jobs": entries}
    (folder / "sweep.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_a_chosen_arm_is_the_best_on_validation_items_of_each_seed(tmp_path: Path, writer: ModuleType) -> None:
    before, tested, searched = _level(0.5), [], []
    gains = {("t=1", 1): 5.0, ("t=2", 1): 3.0, ("t=1", 2): -1.0, ("t=2", 2): 0.5}
    for (override, seed), gain in gains.items():
        after = _level(0.2 if override == "t=1" else 0.7)  # test items have no say
        result = _result(seed, after, before, stamps={"fit": f"{override}/{seed}"}, objectives={"gain": gain})
        tested.append((f"{override}-{seed}", [override, f"seed={seed}"], result))
        searched.append((f"{override}-{seed}", [override, f"seed={seed}"], result))
    _write_sweep(tmp_path / "science", tested)
    design = tmp_path / "design.yaml"
    values = {"title": "T", "arms": {"one": ["t=1"], "two": ["t=2"]}, "claims": []}
    values["chosen"] = {"best": {"among": ["one", "two"], "search": "choice"}}
    design.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert writer.read_runs(design, tmp_path / "science")["best"] == {}
    _write_sweep(tmp_path / "choice", searched[:-1])  # a trial is missing: the seed has no choice yet
    assert sorted(writer.read_runs(design, tmp_path / "science")["best"]) == [1]
    (tmp_path / "choice" / "sweep.json").unlink()
    _write_sweep(tmp_path / "choice" / "again", searched)
    values["chosen"]["best"]["search"] = "choice/again"
    design.write_text(yaml.safe_dump(values), encoding="utf-8")
    best = writer.read_runs(design, tmp_path / "science")["best"]
    assert {seed: result.stamps["fit"] for seed, result in best.items()} == {1: "t=1/1", 2: "t=2/2"}


def test_a_curve_is_drawn_of_the_arms_that_ran(tmp_path: Path, writer: ModuleType) -> None:
    before = _level(0.5)
    runs = {
        "a": {seed: _result(seed, _level(0.1 * seed), before) for seed in (1, 2)},
        "b": {1: _result(1, _level(0.4), before)},
    }
    arms = writer.describe_arms(runs)
    assert writer.draw_curve({"arms": ["a", "b", "c"], "beside": ["d"]}, arms, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000
    assert not writer.draw_curve({"arms": ["c"]}, arms, tmp_path / "none.png")
