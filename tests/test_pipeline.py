"""The whole run on a random-weight checkpoint: repeatable, cached, resumable, honest about failure."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_run import small_run

from tokensieve import pipeline
from tokensieve.cli import main
from tokensieve.config import (
    RunConfig,
    to_yaml,
)
from tokensieve.errors import ConfigError, EmptyMask, TrainingError
from tokensieve.evaluations import define_evaluations
from tokensieve.records import RunResult
from tokensieve.run_metrics import evaluation_metrics
from tokensieve.stages import define_stages
from tokensieve.store import Store


@pytest.fixture
def config(tiny_folder: Path, tmp_path: Path) -> RunConfig:
    return small_run(tiny_folder, tmp_path / "sums.jsonl", tmp_path / "outputs")


def changed(config: RunConfig, **groups: Any) -> RunConfig:
    values = {
        key: dataclasses.replace(getattr(config, key), **change) if isinstance(change, dict) else change
        for key, change in groups.items()
    }
    return dataclasses.replace(config, **values)


def comparable(result: RunResult) -> dict[str, Any]:
    values = json.loads(result.to_json())
    for key in ("seconds", "peak_memory_bytes", "config"):
        values.pop(key)
    values["fit"].pop("train/tokens_per_second")
    return values


def test_run_twice_from_nothing_gives_identical_results(config: RunConfig, tmp_path: Path) -> None:
    first = pipeline.run(config, tmp_path / "a")
    second = pipeline.run(changed(config, output_dir=str(tmp_path / "elsewhere")), tmp_path / "b")
    assert comparable(first) == comparable(second)
    assert json.loads((tmp_path / "a" / "status.json").read_text())["status"] == "FINISHED"
    assert (
        RunResult.from_json((tmp_path / "a" / "result.json").read_text()).evals[0].item_ids == first.evals[0].item_ids
    )
    assert (tmp_path / "a" / "adapter" / "adapter_config.json").is_file()
    assert (tmp_path / "a" / "tokens.html").is_file()
    metrics = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert any("train/nll" in line for line in metrics)


def test_runs_of_one_mask_share_its_page(config: RunConfig, tmp_path: Path) -> None:
    arms = {"a": config, "b": changed(config, optim={"lr": 0.1}), "c": changed(config, stm={"threshold": 300.0})}
    for name, arm in arms.items():
        pipeline.run(arm, tmp_path / name)
    pages = {name: tmp_path / name / "tokens.html" for name in arms}
    assert pages["a"].samefile(pages["b"])
    assert not pages["a"].samefile(pages["c"])
    assert "stm=300" in pages["c"].read_text()
    page = pages["a"].read_text()
    assert main(["inspect", str(tmp_path / "c"), "--output", str(pages["b"])]) == 0
    assert pages["b"].read_text() == pages["c"].read_text()
    assert pages["a"].read_text() == page  # replaced, not written through the link
    assert main(["inspect", str(tmp_path / "c"), "--output", str(tmp_path / "no" / "page.html")]) == 1
    assert main(["inspect", str(tmp_path / "c"), "--output", str(tmp_path)]) == 0
    assert (tmp_path / "tokens.html").samefile(pages["c"])


def test_second_run_computes_nothing_and_a_threshold_scores_nothing(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.run(config, tmp_path / "a")
    assert all(stage.cached for stage in pipeline.plan(config))

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a scoring pass")

    monkeypatch.setattr("tokensieve.score.compute_nll", refuse)
    pipeline.run(config, tmp_path / "b")
    pipeline.run(changed(config, stm={"threshold": 300.0}), tmp_path / "c")


def test_equal_masks_train_once_whatever_rule_made_them(config: RunConfig, tmp_path: Path) -> None:
    unmasked = pipeline.run(changed(config, stm={"rule": "none"}), tmp_path / "a")
    everything = pipeline.run(changed(config, stm={"threshold": 1e30}), tmp_path / "b")
    assert everything.mask is not None
    assert everything.mask.kept_fraction == 1.0
    assert everything.stamps["fit"] == unmasked.stamps["fit"]
    curves = [
        [line for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines() if "train/nll" in line]
        for name in "ab"
    ]
    assert len(curves[0]) == len(curves[1]) > 0  # the arm that reused the fit has its curve too


def test_base_scores_are_shared_by_arms(config: RunConfig, tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    digests = {
        tuple(evaluation.digest for evaluation in define_evaluations(define_stages(arm, store), None).values())
        for arm in (
            config,
            changed(config, stm={"threshold": 3.0}),
            changed(config, seed=2),
            changed(config, optim={"lr": 0.1}),
        )
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"optim": {"lr": 0.5}}, {"fit"}),
        ({"stm": {"threshold": 1.7}}, {"mask"}),
        ({"stm": {"rule": "random"}}, {"mask"}),
        ({"dataset": {"prompt": "Q: {{ question }}"}}, {"dataset", "tokenise", "score", "mask"}),
    ],
    ids=["lr", "threshold", "rule", "prompt"],
)
def test_a_change_reruns_what_depends_on_it(config: RunConfig, change: dict[str, Any], stages: set[str]) -> None:
    store = Store(Path(config.output_dir) / "cache")
    before = {name: artefact.digest for name, artefact in define_stages(config, store).training_data().items()}
    after = {
        name: artefact.digest
        for name, artefact in define_stages(changed(config, **change), store).training_data().items()
    }
    assert {name for name in before if before[name] != after[name]} == stages - {"fit"}


@pytest.mark.parametrize("rule", ["none", "low_ppl", "random", "quantile"])
def test_every_rule_runs_to_the_end(config: RunConfig, tmp_path: Path, rule: str) -> None:
    result = pipeline.run(changed(config, stm={"rule": rule}), tmp_path / "run")
    assert result.mask is not None
    assert 0 < result.mask.kept_tokens <= result.mask.response_tokens


def test_dpf_reads_a_tuned_adapter(config: RunConfig, tmp_path: Path) -> None:
    pipeline.run(changed(config, stm={"rule": "none"}), tmp_path / "tuned")
    folder = str(tmp_path / "tuned" / "adapter")
    for rule in ("dpf", "stm_dpf"):
        result = pipeline.run(
            changed(config, stm={"rule": rule, "tuned_adapter": folder, "dpf_threshold": 0.0}), tmp_path / rule
        )
        assert result.mask is not None
        assert 0 < result.mask.kept_fraction < 1


def test_full_fine_tuning_and_best_checkpoint(config: RunConfig, tmp_path: Path) -> None:
    full = changed(config, lora={"method": "none"}, optim={"lr": 1e-3}, trainer={"evaluate_checkpoint": "best"})
    assert pipeline.run(full, tmp_path / "run").evals
    assert (tmp_path / "run" / "adapter" / "model.safetensors").is_file()


@pytest.mark.parametrize("trainer", [{"patience": 1}, {"evaluate_checkpoint": "best"}])
def test_what_reads_a_validation_needs_one(config: RunConfig, trainer: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"trainer\.{next(iter(trainer))}: needs a validation split"):
        pipeline.validate(changed(config, dataset={"val_fraction": 0.0}, trainer=trainer))


def test_threshold_that_keeps_nothing_is_an_error(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(EmptyMask, match=r"raise stm\.threshold"):
        pipeline.run(changed(config, stm={"threshold": 1.0000001}), tmp_path / "run")
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["status"] == "FAILED"
    assert status["stage"] == "mask"
    assert "EmptyMask" in status["error"]["traceback"]


def test_loss_that_is_not_finite_is_recorded_with_its_step(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step \d+"):
        pipeline.run(changed(config, lora={"method": "none"}, optim={"lr": 1e30}), tmp_path / "run")
    assert "step" in json.loads((tmp_path / "run" / "status.json").read_text())["error"]["message"]


def test_target_without_a_reference_column_fails_before_the_fit(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="column 'truth'"):
        pipeline.run(changed(config, dataset={"reference": {"answer": "truth"}}), tmp_path / "run")


def test_unknown_task_and_missing_file_are_known_before_anything_loads(config: RunConfig) -> None:
    with pytest.raises(ConfigError, match="lab_poetry"):
        pipeline.validate(changed(config, eval={"tasks": ["lab_poetry"]}))
    with pytest.raises(ConfigError, match=r"dataset\.path"):
        pipeline.validate(changed(config, dataset={"path": "/no/such/file.jsonl"}))
    with pytest.raises(ConfigError, match=r"model\.path"):
        pipeline.validate(changed(config, model={"path": "./no-such-model"}))


def test_ti_and_bwt_are_logged_as_published(config: RunConfig) -> None:
    from tokensieve.records import EvalResult

    def result(task: str, value: float) -> EvalResult:
        return EvalResult(task, "accuracy", 1, ["item"], [value], value, 0, 1)

    base = [result("target", 0.5), result("a", 0.8), result("b", 0.4)]
    after = [result("target", 0.6), result("a", 0.6), result("b", 0.4)]
    perplexity = EvalResult("harness", "perplexity", 1, [], [], 9.0, math.nan, math.nan)  # no items: not a score
    values = evaluation_metrics([*base, perplexity], [*after, perplexity], "target")
    assert values["summary/ti"] == pytest.approx(20.0)
    assert values["summary/bwt"] == pytest.approx((-25.0 + 0.0) / 2)
    assert values["summary/bwt_points"] == pytest.approx(-10.0)


def test_killed_run_is_recorded_and_resumes_from_its_checkpoint(config: RunConfig, tmp_path: Path) -> None:
    slow = changed(config, trainer={"epochs": 200, "checkpoint_seconds": 0.05, "max_steps": 80})
    (tmp_path / "config.yaml").write_text(to_yaml(slow))
    script = (
        "import sys; from pathlib import Path; from tokensieve import pipeline; from tokensieve.config import from_yaml\n"
        "folder = Path(sys.argv[1]); pipeline.run(from_yaml((folder / 'config.yaml').read_text()), folder / 'run')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not checkpoint.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    process.wait(60)
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "KILLED"
    resumed = pipeline.run(slow, tmp_path / "run")
    whole = pipeline.run(changed(slow, output_dir=str(tmp_path / "elsewhere")), tmp_path / "whole")
    assert comparable(resumed) == comparable(whole)
    assert not math.isnan(resumed.fit["train/nll"])
