"""Trials on the packaged model: objectives on validation items, and trials ended inside the fit and between items."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from pyarrow import feather

from tokensieve import pipeline
from tokensieve.cli import compose
from tokensieve.config import RunConfig, SearchConfig
from tokensieve.errors import ConfigError, TrialPruned
from tokensieve.pruning import FitReport, open_storage
from tokensieve.stages import define_stages
from tokensieve.store import Store
from tokensieve.trial_values import define_part, find_judged_tasks

ROOT = Path(__file__).parents[1]
SMALL = [
    "dataset.num_train=24", "dataset.num_validation=24", "trainer.epochs=1", "trainer.validations_per_epoch=3",
    "eval.num_items=4", "eval.batch_size=24", "tracking=none", "trainer=cpu",
]  # fmt: skip


def make_study(path: Path, values: dict[int, float], value: float = 50.0) -> str:
    """A study whose first trial is complete with these reports, and whose second one runs."""
    study = optuna.create_study(study_name="search", storage=open_storage(str(path)), direction="maximize")
    best = optuna.trial.create_trial(value=value, intermediate_values=values)
    study.add_trial(best)
    study.ask()
    return str(path)


def trial_config(tmp_path: Path, study: str, **rules: object) -> RunConfig:
    config = compose([*SMALL, "eval.tasks=[]", f"output_dir={tmp_path}"])
    return replace(config, search=SearchConfig(study=study, trial=1, **rules))  # type: ignore[arg-type]


def test_a_fit_is_ended_from_inside_and_recorded_as_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(ROOT)
    study = make_study(tmp_path / "study.db", {1: -0.01, 2: -0.01, 3: -0.01})
    config = trial_config(tmp_path, study, pruner="median", startup_trials=1, warmup_validations=2)
    with pytest.raises(TrialPruned, match=r"trial 1: ended early by search\.pruner=median after validation 2"):
        pipeline.run(config, tmp_path / "run")
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["status"], status["stage"]) == ("PRUNED", "fit")
    assert not (tmp_path / "run" / "checkpoints").exists()
    reported = optuna.load_study(study_name="search", storage=open_storage(study)).trials[1].intermediate_values
    assert sorted(reported) == [1, 2]
    assert all(value < 0 for value in reported.values())  # a gain is to be raised, so the NLL is reported below 0
    # Nothing half-trained is taken for the result of the same fit.
    alone = replace(config, search=SearchConfig(study=study, trial=1, objective=["nll", "nll_kept"]))
    result = pipeline.run(alone, tmp_path / "alone")
    assert list(result.objectives) == ["nll", "nll_kept"]
    assert result.objectives["nll"] == result.fit["val/nll"]
    assert result.objectives["nll"] == pytest.approx(-reported[2], rel=0.5)


def test_all_ranks_of_a_group_end_with_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = make_study(tmp_path / "study.db", {1: -0.01, 2: -0.01})
    config = trial_config(tmp_path, study, pruner="median", startup_trials=1, warmup_validations=1)
    config = replace(config, trainer=replace(config.trainer, devices=2, strategy="ddp", micro_batch_size=4))
    with pytest.raises(TrialPruned, match=r"trial 1: ended early by search\.pruner=median after validation 1"):
        pipeline.run(config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "PRUNED"
    errors = sorted(path.name for path in (tmp_path / "run" / "ranks").glob("error-*.json"))
    assert errors
    for name in errors:  # each of those that said so before torchrun ended them
        assert json.loads((tmp_path / "run" / "ranks" / name).read_text())["type"] == "TrialPruned"


def test_items_end_a_trial_and_parts_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    hopeless = make_study(tmp_path / "best.db", dict.fromkeys(range(24), 1.0))
    rules = {"pruner": "wilcoxon", "items_per_test": 8}
    with pytest.raises(TrialPruned, match=r"after (8|16) of 24 validation items, with \d"):
        pipeline.run(trial_config(tmp_path, hopeless, **rules), tmp_path / "pruned")
    assert json.loads((tmp_path / "pruned" / "status.json").read_text())["status"] == "PRUNED"
    equal = make_study(tmp_path / "equal.db", dict.fromkeys(range(24), 0.0), value=-99.0)
    in_parts = pipeline.run(trial_config(tmp_path, equal, **rules), tmp_path / "parts")
    at_once = pipeline.run(trial_config(tmp_path, equal), tmp_path / "whole")
    assert in_parts.objectives == at_once.objectives
    [path] = (tmp_path / "whole" / "validation").iterdir()
    lines, parts = (
        feather.read_table(str(tmp_path / name / "validation" / path.name)).to_pylist() for name in ("whole", "parts")
    )
    assert sorted(map(str, lines)) == sorted(map(str, parts))
    [test] = at_once.evals
    assert len(lines) == 24
    assert not {line["id"] for line in lines} & set(test.item_ids)
    frozen = optuna.load_study(study_name="search", storage=open_storage(equal)).trials[1].intermediate_values
    stride = 3
    order = [row for part in range(stride) for row in range(part, 24, stride)]
    assert [frozen[row] for row in order] == [line["score"] for line in parts]


def test_parts_are_strides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    stages = define_stages(compose([*SMALL, "eval.tasks=[]"]), Store(tmp_path))
    items = stages.items["lab_code"]
    ids = list(items.get().rows["id"])
    assert list(define_part(items, 1, 3).get().rows["id"]) == ids[1::3]


def test_what_a_trial_cannot_be_judged_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)

    def check(*overrides: str, **rules: object) -> None:
        config = compose([*SMALL, f"output_dir={tmp_path}", *overrides])
        pipeline.validate(replace(config, search=SearchConfig(trial=0, study="x", **rules)))  # type: ignore[arg-type]

    check(objective=["gain", "forgetting"])
    with pytest.raises(ConfigError, match="forgetting needs other tasks than the target"):
        check("eval=target", objective=["forgetting"])
    with pytest.raises(ConfigError, match="gain needs a target task that our own graders score"):
        check("dataset.task=null", objective=["gain"])
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "a", "response": "b", "split": "train"}) * 1 + "\n")
    local = ["dataset=local", f"dataset.path={rows}", "eval=target", "dataset.val_fraction=0"]
    with pytest.raises(ConfigError, match="a validation NLL needs a validation split"):
        check(*local, objective=["nll"])
    stages = define_stages(compose([*SMALL, f"output_dir={tmp_path}"]), Store(tmp_path))
    for objective, expected in ((["gain"], ["lab_code"]), (["nll"], [])):
        stages.config = replace(stages.config, search=SearchConfig(objective=objective))
        assert find_judged_tasks(stages) == expected


def test_a_study_that_cannot_be_used_lets_the_trial_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    report = FitReport(SearchConfig(study=str(tmp_path / "no" / "study.db"), trial=0, pruner="median"))
    assert not report.is_hopeless({"val/nll": 1.0}, 1)
    assert not report.is_hopeless({"val/nll": 1.0}, 2)
    assert caplog.text.count("cannot be used") == 1
    assert not FitReport(SearchConfig(pruner="median")).is_hopeless({"val/nll": float("nan")}, 1)


def test_mlflow_shows_a_pruned_trial_as_such(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    from tokensieve.tracking import Tracker, default_uri

    uri = default_uri(tmp_path)
    end = TrialPruned("trial 1", "ended early")
    with Tracker(tmp_path / "run", name="trial", uri=uri) as tracker:
        tracker.__exit__(TrialPruned, end, None)
    client = MlflowClient(uri)
    [run] = client.search_runs([found.experiment_id for found in client.search_experiments()])
    assert run.info.status == "KILLED"
    assert run.data.tags["state"] == "PRUNED"
    assert run.data.tags["pruned"] == "trial 1: ended early."


def test_a_search_on_the_packaged_model_ends_in_a_pareto_set(tmp_path: Path) -> None:
    command = [
        sys.executable, "train.py", "-m", "search=random", "optim.lr=tag(log, interval(1e-3, 6e-3))",
        "search.n_trials=2", "search.objective=[gain,forgetting]", "search.num_items=6", *SMALL,
        "eval.tasks=[lab_math]", "trainer.max_steps=2", f"output_dir={tmp_path}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert "the Pareto set has" in done.stdout
    [folder] = (tmp_path / "sweeps").iterdir()
    trials = json.loads((folder / "search.json").read_text())["trials"]
    assert [trial["state"] for trial in trials] == ["FINISHED", "FINISHED"]
    for trial in trials:
        result = json.loads((folder / trial["job"] / "result.json").read_text())
        assert list(result["objectives"].values()) == trial["values"]
        validation = {path.stem for path in (folder / trial["job"] / "validation").iterdir()}
        assert validation == {"lab_code", "lab_math"}
    assert "<h2>Pareto set</h2>" in (folder / "report" / "report.html").read_text()
    assert len((folder / "report" / "trials.csv").read_text().splitlines()) == 3
