"""Tracking: a complete local record, an MLflow run where MLflow works, and no harm where it does not."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tokensieve.errors import CacheError
from tokensieve.tracking import (
    Tracker,
    close_sweep,
    default_uri,
    end_run,
    git_commit,
    open_sweep,
    package_versions,
    prepare_store,
)
from tokensieve.tracking import mlflow_run as mlflow_run_module
from tokensieve.tracking.run import read_metrics


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for the module: a fresh one takes seconds to make."""
    address = default_uri(tmp_path_factory.mktemp("store"))
    assert prepare_store(address)
    return address


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def run_of(uri: str, run_dir: Path) -> Any:
    return client(uri).get_run((run_dir / "mlflow_run_id").read_text().strip())


def test_local_record_without_mlflow(tmp_path: Path) -> None:
    with Tracker(tmp_path / "run", name="a") as tracker:
        tracker.log_metrics({"train/nll": 1.5, "train/grad_norm": math.nan}, 1)
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()  # there before the run ends
        tracker.log_params({"a": 1})
        tracker.log_artifact(tmp_path)
    record = json.loads(lines[0])
    assert (record["step"], record["train/nll"], record["train/grad_norm"]) == (1, 1.5, None)
    assert record["time"] == pytest.approx(time.time(), abs=600)
    assert not (tmp_path / "run" / "mlflow_run_id").exists()
    with pytest.raises(RuntimeError):
        tracker.log_metrics({"train/nll": 1.0}, 2)


def test_read_metrics_after_a_kill_and_a_resume(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "time": 0, "a": 1.0}\n{"step": 2, "time": 0, "a": 9.0}\n{"step": 3, "ti'
    )
    with Tracker(tmp_path, name="a") as tracker:
        tracker.log_metrics({"a": 2.0}, 2)
        tracker.log_metrics({"a": math.inf, "b": 1}, 3)
    curves = read_metrics(tmp_path)
    assert curves["a"][:2] == [(1, 1.0), (2, 2.0)]
    assert math.isnan(curves["a"][2][1])
    assert curves["b"] == [(3, 1.0)]
    assert read_metrics(tmp_path / "none") == {}


def test_unwritable_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(CacheError, match=r"metrics\.jsonl: must be writable"),
        Tracker(tmp_path / "file" / "run", name="a"),
    ):
        pass


def test_mlflow_run_has_everything(tmp_path: Path, uri: str) -> None:
    parent = open_sweep(uri, "sweep", tags={"kind": "sweep"})
    assert parent is not None
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "weights.bin").write_text("w")
    (tmp_path / "config.yaml").write_text("a: 1")
    long = "x" * 9000
    with Tracker(
        tmp_path / "run", name="lab/stm=2.5/seed=1", uri=uri, parent_run_id=parent, tags={"early": "1"}
    ) as tracker:
        tracker.log_params(
            {"stm": {"threshold": 2.5, "scorer": None}, "long": long, "odd key?": 1, **{f"k{n}": n for n in range(250)}}
        )
        tracker.set_tags({"git_commit": "abc", "version.torch": "2", "long": long, **{f"t{n}": "" for n in range(120)}})
        tracker.log_dataset("lab_code", "f" * 64, 400, "lab:lab_code")
        for step in range(1, 1201):
            tracker.log_metrics({"train/nll": 1 / step}, step)
        tracker.log_metrics({"eval/code/pass@1": 0.5, "nan": math.nan}, 1200)
        tracker.log_artifact(tmp_path / "adapter")
        tracker.log_artifact(tmp_path / "config.yaml")
    run = run_of(uri, tmp_path / "run")
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "lab/stm=2.5/seed=1"
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["early"] == "1"
    assert run.data.tags["version.torch"] == "2"
    assert len(run.data.tags["long"]) == 5000
    assert run.data.params["stm.threshold"] == "2.5"
    assert run.data.params["stm.scorer"] == "null"
    assert run.data.params["odd key_"] == "1"
    assert len(run.data.params["long"]) == 500
    assert len(run.data.params) == 254
    assert run.data.metrics["eval/code/pass_at_1"] == 0.5
    assert math.isnan(run.data.metrics["nan"])
    assert run.data.metrics["train/nll"] == pytest.approx(1 / 1200)
    history = client(uri).get_metric_history(run.info.run_id, "train/nll")
    assert {1, 2, 500, 1200} <= {entry.step for entry in history}
    assert len(history) < 1200  # thinned; the local record is not
    assert len(read_metrics(tmp_path / "run")["train/nll"]) == 1200
    dataset = run.inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.digest, json.loads(dataset.profile)) == ("lab_code", "f" * 36, {"num_rows": 400})
    assert {entry.path for entry in client(uri).list_artifacts(run.info.run_id)} == {"adapter", "config.yaml"}
    close_sweep(
        uri,
        parent,
        "FAILED",
        artefacts=[tmp_path / "config.yaml", tmp_path / "missing"],
        metrics={"jobs/failed": 1},
        note="# table" * 2000,
    )
    whole = client(uri).get_run(parent)
    assert whole.info.status == "FAILED"
    assert whole.data.metrics == {"jobs/failed": 1.0}
    assert whole.data.tags["mlflow.note.content"].endswith("has all of it)")
    assert [entry.path for entry in client(uri).list_artifacts(parent)] == ["config.yaml"]
    assert not Path("mlruns").exists()


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_status_after_an_exception(tmp_path: Path, uri: str, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), Tracker(tmp_path, name="a", uri=uri):
        raise error
    assert run_of(uri, tmp_path).info.status == status


def test_a_burst_waits_while_the_run_steps_and_arrives_whole(tmp_path: Path, uri: str) -> None:
    keys = [f"train/{name}" for name in "abcd"]
    with Tracker(tmp_path / "run", name="burst", uri=uri) as tracker:
        for step in range(1, 301):
            tracker.log_metrics(dict.fromkeys(keys, float(step)), step)
        assert tracker._remote is not None
        assert len(tracker._remote._rows) + len(tracker._remote._pending) < 4 * 300 // 2
    run = run_of(uri, tmp_path / "run")
    for key in keys:
        assert {entry.step for entry in client(uri).get_metric_history(run.info.run_id, key)} == set(range(1, 301))


def test_resume_continues_the_run(tmp_path: Path, uri: str) -> None:
    with Tracker(tmp_path, name="a", uri=uri) as tracker:
        tracker.log_params({"a": 1, "path": "old"})
        tracker.log_metrics({"m": 1.0}, 1)
        tracker.finish("KILLED")
    first = run_of(uri, tmp_path)
    with Tracker(tmp_path, name="a", uri=uri) as tracker:
        tracker.log_params({"a": 1, "path": "new", "more": 2})
        tracker.log_metrics({"m": 2.0}, 2)
    again = run_of(uri, tmp_path)
    assert again.info.run_id == first.info.run_id
    assert (first.info.status, again.info.status) == ("KILLED", "FINISHED")
    assert again.data.params == {"a": "1", "path": "old", "more": "2"}
    assert [entry.value for entry in client(uri).get_metric_history(again.info.run_id, "m")] == [1.0, 2.0]


def test_a_run_that_the_store_lost_is_created_anew(tmp_path: Path, uri: str) -> None:
    (tmp_path / "mlflow_run_id").write_text("0123456789abcdef0123456789abcdef\n")
    with Tracker(tmp_path, name="a", uri=uri):
        pass
    assert run_of(uri, tmp_path).info.status == "FINISHED"
    parent = open_sweep(uri, "s", parent_run_id="0123456789abcdef0123456789abcdef")
    assert parent is not None
    assert open_sweep(uri, "s", parent_run_id=parent) == parent


def test_end_run_of_a_process_that_died(tmp_path: Path, uri: str) -> None:
    tracker = Tracker(tmp_path, name="a", uri=uri)
    tracker.__enter__()
    while not (tmp_path / "mlflow_run_id").exists():
        time.sleep(0.01)
    end_run(uri, tmp_path, "FAILED")
    assert run_of(uri, tmp_path).info.status == "FAILED"
    end_run(uri, tmp_path / "nothing", "FAILED")
    tracker.finish("KILLED")


def test_a_store_that_cannot_work_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database " * 100)
    uri = default_uri(tmp_path)
    with (
        caplog.at_level(logging.WARNING, "tokensieve.tracking"),
        Tracker(tmp_path / "run", name="a", uri=uri) as tracker,
    ):
        for step in range(3):
            tracker.log_metrics({"m": step}, step)
            tracker.set_tags({"a": "b"})
    assert len(caplog.records) == 1
    assert "not a database" in caplog.text
    assert str(tmp_path / "run") in caplog.text
    assert len(read_metrics(tmp_path / "run")["m"]) == 3
    caplog.clear()
    assert open_sweep(uri, "s") is None
    close_sweep(uri, None, "FINISHED")
    assert len(caplog.records) == 1


def test_refused_metrics_are_warned_about_once_and_the_run_still_ends(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(rows: object, client: object, run_id: str) -> None:
        raise OSError("server says no\nwith a long story")

    monkeypatch.setattr(mlflow_run_module, "_send", refuse)
    with Tracker(tmp_path, name="a", uri=uri) as tracker:
        tracker.log_metrics({"m": 1}, 1)
    assert caplog.text.count("server says no") == 1
    assert "long story" not in caplog.text
    assert run_of(uri, tmp_path).info.status == "FINISHED"


def test_a_slow_store_does_not_hold_the_run(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hang, connect = threading.Event(), mlflow_run_module.connect

    def slow(*arguments: str) -> Any:
        hang.wait(60)
        return connect(*arguments)

    monkeypatch.setattr(mlflow_run_module, "connect", slow)
    with Tracker(tmp_path, name="a", uri=uri, drain_seconds=0.05) as tracker:
        for step in range(100):
            tracker.log_metrics({"m": step}, step)
    assert "not done 0.05 s after the run ended" in caplog.text
    assert len(read_metrics(tmp_path)["m"]) == 100
    hang.set()
    tracker._remote._thread.join(60)  # type: ignore[union-attr]


def _track(folder: str, uri: str, number: int) -> None:
    with Tracker(Path(folder), name=f"job {number}", uri=uri) as tracker:
        for step in range(20):
            tracker.log_metrics({"m": step}, step)


def test_processes_that_meet_a_fresh_store_all_succeed(tmp_path: Path) -> None:
    uri = default_uri(tmp_path / "fresh")
    context = multiprocessing.get_context("forkserver")  # as sweeps do; it imports MLflow once
    context.set_forkserver_preload(["mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store"])
    workers = [context.Process(target=_track, args=(str(tmp_path / str(n)), uri, n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert {run_of(uri, tmp_path / str(n)).info.status for n in range(3)} == {"FINISHED"}
    assert {run_of(uri, tmp_path / str(n)).data.metrics["m"] for n in range(3)} == {19.0}
    assert client(uri).get_experiment_by_name("tokensieve").artifact_location.endswith("/fresh/mlartifacts")


def test_provenance(tmp_path: Path) -> None:
    assert package_versions()["torch"]
    assert git_commit(tmp_path) is None
