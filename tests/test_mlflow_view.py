"""What a sweep looks like in MLflow: its note, its view of the charts, the names of its runs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from fake_sweep import job, threshold_sweep, write_sweep
from rich.console import Console

from tokensieve.report import write_report
from tokensieve.report.arms import build_arms
from tokensieve.report.load import read_sweep
from tokensieve.report.note import MAX_CHARACTERS, write_note
from tokensieve.tracking import Tracker, arm_first, close_sweep, default_uri, open_sweep
from tokensieve.tracking.mlflow_view import MAX_CHARACTERS as MAX_TAG
from tokensieve.tracking.mlflow_view import TAG_PREFIX, draw_view, link_report, read_axes


@pytest.mark.parametrize("name", ["", "a", "a/b (c)", "one/two/three/four/five/six", "a/b/c/d/e/seed=1 ("])
def test_other_names_stay(name: str) -> None:
    assert arm_first(name) in (name, "d seed=1 · e/c/b/a")


def test_runs_of_a_sweep_differ_within_a_narrow_column() -> None:
    names = [
        f"model/data/ground_truth/stm={t}/r16/seed={s} (stm.threshold={t} optim.lr={lr})"
        for t in (1.5, 2.5)
        for s in (1, 2)
        for lr in (0.001, 0.004)
    ]
    assert len({arm_first(name)[:28] for name in names}) == len(names)


def test_note_has_whole_rows_and_fits(tmp_path: Path) -> None:
    folder = threshold_sweep(tmp_path / "s", [f"{1 + n / 50:g}" for n in range(60)])
    sweep = read_sweep(folder)
    arms = build_arms(sweep)
    note = write_note(sweep, arms)
    assert len(note) <= MAX_CHARACTERS
    rows = [line for line in note.splitlines() if line.startswith("| ")]
    assert len({row.count("|") for row in rows}) == 1
    (more,) = [line for line in note.splitlines() if line.startswith("and ")]
    assert int(more.split()[1]) + len(rows) - 1 == len(arms)
    assert "Against unmasked training" in note
    assert "n = 200 items" in note or len(rows) - 1 < len(arms)
    few = read_sweep(threshold_sweep(tmp_path / "few"))
    short = write_note(few, build_arms(few))
    assert "and " + "0 more" not in short
    assert "n = 200 items of lab_code" in short


def test_note_of_failures_is_cut_not_long(tmp_path: Path) -> None:
    jobs = [job([f"stm.threshold={n + 1}"], state="FAILED", error="x" * 5000) for n in range(80)]
    sweep = read_sweep(write_sweep(tmp_path / "s", jobs, {"stm.threshold": ["1"]}))
    note = write_note(sweep, build_arms(sweep))
    assert len(note) <= MAX_CHARACTERS
    assert "- FAILED" in note
    assert "| arm" not in note


def test_view_names_what_was_swept_and_fits_a_tag() -> None:
    view = draw_view(
        "0" * 32, ["arm", "optim.lr"], ["mask/kept_fraction", "summary/target_score", "summary/bwt_points"]
    )
    parallel = view["compareRunCharts"][0]
    assert (parallel["type"], parallel["selectedParams"]) == ("PARALLEL", ["arm", "optim.lr"])
    assert parallel["selectedMetrics"][-1] == "summary/bwt_points"
    assert view["selectedColumns"][0] == "params.`arm`"
    assert view["searchFilter"].endswith(f'"{"0" * 32}"')
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} == {view["compareRunSections"][0]["uuid"]}
    assert len(json.dumps(view)) < MAX_TAG
    assert draw_view("a", ["arm"], [])["compareRunCharts"] == []


def test_of_many_axes_those_that_vary_most_are_drawn() -> None:
    from tokensieve.tracking.mlflow_view import _shown

    axes = ["stm.threshold", "weight", "weight.reference", "regulariser", "optim.lr", "lora", "seed", "loss.normalise"]
    params = {"arm": {"a"}, "weight.reference": {"x", "y", "z"}, "optim.lr": {"1", "2", "3"}, "lora.name": {"p", "q"}}
    params |= {"seed": {"1", "2", "3"}, "loss.normalise": {"kept"}, "weight.rule": {"dft", "none"}}
    assert list(_shown(axes, params)) == ["arm", "optim.lr", "lora.name", "seed"]
    assert list(_shown(["optim.lr"], params)) == ["optim.lr"]
    assert list(_shown([], params)) == ["arm"]


def test_axes_of_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    assert read_axes(tmp_path) == ()
    (tmp_path / "sweep.json").write_text("{")
    assert read_axes(tmp_path) == ()
    assert read_axes(threshold_sweep(tmp_path / "s", seeds=(1, 2))) == ("stm.threshold", "seed")
    assert link_report("1", "a", [tmp_path / "sweep.json"]) is None


def test_parent_run_has_links_and_view(tmp_path: Path) -> None:
    uri = default_uri(tmp_path / "store")
    folder = threshold_sweep(tmp_path / "s", seeds=(1, 2))
    parent = open_sweep(uri, "sweep")
    assert parent is not None
    for number in range(2):
        with Tracker(tmp_path / str(number), name=f"run {number}", uri=uri, parent_run_id=parent) as tracker:
            tracker.log_params({"arm": "unmasked", "seed": number, "stm": {"threshold": 2.5}})
            tracker.log_metrics({"summary/target_score": 0.5, "mask/kept_fraction": 1.0}, 1)
    paths = write_report(folder, console=Console(file=io.StringIO(), width=100))
    close_sweep(uri, parent, "FINISHED", artefacts=paths.existing(), note=paths.note, folder=folder)
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    run = client.get_run(parent)
    note = run.data.tags["mlflow.note.content"]
    first = note.splitlines()[0]
    experiment: Any = client.get_experiment(run.info.experiment_id)
    assert f"viewStateShareKey={parent}" in first
    assert f"/runs/{parent}/artifacts/report.html" in first
    assert "| arm |" in note
    view = json.loads(experiment.tags[f"{TAG_PREFIX}{parent}"])
    assert view["compareRunCharts"][0]["selectedParams"] == ["arm", "seed"]
    assert view["compareRunCharts"][0]["selectedMetrics"] == ["mask/kept_fraction", "summary/target_score"]
    assert "report.html" in {entry.path for entry in client.list_artifacts(parent)}
