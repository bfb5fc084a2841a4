from __future__ import annotations

import dataclasses
import importlib.util
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


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_results", EXPERIMENTS / "write_results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_there_are_two_designs() -> None:
    assert [path.parent.name for path in DESIGNS] == ["robustft_lab", "science"]


@pytest.mark.parametrize("design", DESIGNS, ids=lambda path: path.parent.name)
def test_every_arm_composes_and_every_claim_compares_arms(design: Path) -> None:
    arms = read_arms(design)
    names = [compose([*overrides, "seed=1"]) for overrides in arms.values()]
    assert len(names) == len(arms)
    claims = yaml.safe_load(design.read_text(encoding="utf-8"))["claims"]
    assert claims
    for claim in claims:
        assert {claim["first"], claim["second"]} <= {*arms, "base"}
        assert claim["first"] != claim["second"]
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


def _result(seed: int, after: dict[str, list[float]], before: dict[str, list[float]]) -> RunResult:
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
    return RunResult(
        job_id="", name="", status="FINISHED", config={"seed": seed}, target_task="a", stamps={}, mask=mask,
        base_evals=evals(before), evals=evals(after), fit={}, seconds={}, peak_memory_bytes={}, versions={}, git_commit=None,
    )  # fmt: skip


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
