"""Local records that a store does not have, and what brings them there."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tokensieve.cli import main
from tokensieve.errors import CacheError, DataError
from tokensieve.sync import Destination, sync
from tokensieve.tracking import Tracker, default_uri, open_sweep, prepare_store
from tokensieve.tracking import upload as upload_module
from tokensieve.tracking.journal import note, read_told
from tokensieve.tracking.mark import StoreMark


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    address = default_uri(tmp_path_factory.mktemp("store"))
    assert prepare_store(address)
    return address


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def make_run(folder: Path, *, status: str = "FINISHED", steps: int = 5, uri: str | None = None) -> Path:
    """What a run leaves without a store."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("tracking: {backend: none, uri: null, experiment: tokensieve}\n")
    with Tracker(folder, name="a/b", uri=uri) as tracker:
        tracker.log_params({"stm": {"threshold": 2.5}, "long": "x" * 900})
        tracker.set_tags({"job_id": "j", "version.torch": "2"})
        tracker.log_dataset("lab", "d" * 64, 40, "lab:lab_code")
        for step in range(1, steps + 1):
            tracker.log_metrics({"train/nll": 1 / step, "odd@key": math.nan}, step)
        (folder / "adapter").mkdir(exist_ok=True)
        (folder / "adapter" / "weights.bin").write_text("w")
        tracker.log_artifact(folder / "config.yaml")
        tracker.log_artifact(folder / "adapter")
        tracker.log_artifact(folder / "gone")
    values = {"status": status, "name": "a/b", "started": "2026-01-02T03:04:05+00:00",
              "ended": "2026-01-02T03:05:05+00:00"}  # fmt: skip
    (folder / "status.json").write_text(json.dumps(values))
    return folder


def send(folder: Path, uri: str, **options: Any) -> Any:
    lines: list[str] = []
    return sync([folder], Destination(folder, uri), lines.append, **options)


def stored(folder: Path, uri: str) -> Any:
    mark = StoreMark.read(folder, uri, "tokensieve")
    assert mark is not None
    assert mark.run_id is not None
    return client(uri).get_run(mark.run_id)


def test_a_run_without_tracking_arrives_whole(tmp_path: Path, uri: str) -> None:
    folder = make_run(tmp_path / "run")
    assert not (folder / "tracking.json").exists()
    assert send(folder, uri).sent == [folder]
    run = stored(folder, uri)
    assert (run.info.run_name, run.info.status) == ("a/b", "FINISHED")
    assert (run.info.start_time, run.info.end_time) == (1767323045000, 1767323105000)
    assert run.data.params == {"stm.threshold": "2.5", "long": "x" * 499 + "…"}
    assert {key: run.data.tags[key] for key in ("job_id", "version.torch")} == {"job_id": "j", "version.torch": "2"}
    history = client(uri).get_metric_history(run.info.run_id, "train/nll")
    assert [(point.step, point.value) for point in history] == [(step, 1 / step) for step in range(1, 6)]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [point.timestamp for point in history] == [int(line["time"] * 1000) for line in lines]
    assert math.isnan(run.data.metrics["odd_at_key"])
    [entry] = run.inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("lab", "d" * 36)
    assert {file.path for file in client(uri).list_artifacts(run.info.run_id)} == {"config.yaml", "adapter"}


def test_twice_sends_nothing_the_second_time(tmp_path: Path, uri: str) -> None:
    folder = make_run(tmp_path / "run")
    send(folder, uri)
    before = len(client(uri).search_runs(["1"], max_results=1000))
    done = send(folder, uri)
    assert (done.sent, done.complete) == ([], 1)
    (folder / "tracking.json").unlink()  # somebody tidied up: the record is found by nothing, and made anew
    send(folder, uri)
    assert len(client(uri).search_runs(["1"], max_results=1000)) == before + 1


def test_a_sync_that_died_goes_on_in_the_same_run(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path / "run")

    def die(*arguments: Any) -> None:
        raise OSError("the cable was pulled")

    with monkeypatch.context() as patch:
        patch.setattr("tokensieve.tracking.replay.upload", die)
        with pytest.raises(CacheError, match=r"the cable was pulled.*run tokensieve sync again"):
            send(folder, uri)
    first = stored(folder, uri)
    assert first.info.status == "RUNNING"
    mark = StoreMark.read(folder, uri, "tokensieve")
    assert mark is not None
    mark.run_id = None  # killed after the run was created, before its id was noted
    mark.save()
    send(folder, uri)
    run = stored(folder, uri)
    assert run.info.run_id == first.info.run_id
    assert run.info.status == "FINISHED"
    points = client(uri).get_metric_history(run.info.run_id, "train/nll")
    assert [point.step for point in points] == [1, 2, 3, 4, 5]


def test_what_the_store_has_is_not_sent_again(tmp_path: Path, uri: str) -> None:
    folder = make_run(tmp_path / "run", uri=uri)
    run = stored(folder, uri)
    mark = StoreMark.read(folder, uri, "tokensieve")
    assert mark is not None
    assert mark.is_complete  # but for an artefact that does not exist
    mark.is_complete = False
    mark.save()
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 6, "time": 1.0, "train/nll": 9.0}\n{"step": 2, "time": 2.0, "train/nll": 8.0}\n{"st')
    send(folder, uri)
    points = client(uri).get_metric_history(run.info.run_id, "train/nll")
    assert sorted((point.step, point.value) for point in points) == sorted(
        [*((step, 1 / step) for step in range(1, 6)), (6, 9.0), (2, 8.0)]
    )
    assert stored(folder, uri).info.run_id == run.info.run_id
    assert send(folder, uri).complete == 1


@pytest.mark.parametrize(("status", "then"), [("FAILED", "FAILED"), ("RUNNING", "KILLED"), ("PRUNED", "KILLED")])
def test_how_a_run_ended_arrives(tmp_path: Path, uri: str, status: str, then: str) -> None:
    folder = make_run(tmp_path / "run", status=status)
    send(folder, uri)
    assert stored(folder, uri).info.status == then


def make_sweep(folder: Path, *, parent: str | None = None) -> Path:
    for name in ("aa", "bb"):
        make_run(folder / "jobs" / name)
    jobs = [{"id": name, "dir": f"jobs/{name}", "state": "FINISHED", "same_as": None} for name in ("aa", "bb", "cc")]
    jobs.append({"id": "dd", "dir": "jobs/aa", "state": "SKIPPED", "same_as": "aa"})
    jobs[2]["state"] = "PENDING"
    manifest = {"name": "my sweep", "created": "2026-01-02T03:04:05+00:00", "jobs": jobs,
                "mlflow_parent_run_id": parent}  # fmt: skip
    (folder / "sweep.json").write_text(json.dumps(manifest))
    (folder / "report").mkdir(exist_ok=True)
    (folder / "report" / "table.md").write_text("| a |")
    return folder


def test_a_sweep_arrives_with_its_jobs_below_it(tmp_path: Path, uri: str) -> None:
    folder = make_sweep(tmp_path / "sweeps" / "s")
    done = send(tmp_path, uri)
    assert [path.name for path in done.sent] == ["aa", "bb"]
    parent = stored(folder, uri)
    assert (parent.info.run_name, parent.info.status) == ("my sweep", "KILLED")
    assert parent.data.tags["mlflow.note.content"] == "| a |"
    assert {file.path for file in client(uri).list_artifacts(parent.info.run_id)} == {"sweep.json", "table.md"}
    for name in ("aa", "bb"):
        assert stored(folder / "jobs" / name, uri).data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert send(tmp_path, uri).complete == 2
    manifest = json.loads((folder / "sweep.json").read_text())
    manifest["jobs"][2]["state"] = "FINISHED"
    (folder / "sweep.json").write_text(json.dumps(manifest))
    make_run(folder / "jobs" / "cc")
    assert [path.name for path in send(tmp_path, uri).sent] == ["cc"]
    assert stored(folder, uri).info.status == "FINISHED"
    assert stored(folder, uri).info.run_id == parent.info.run_id


def test_a_sweep_goes_on_below_the_run_that_it_had(tmp_path: Path, uri: str) -> None:
    parent = open_sweep(uri, "my sweep")
    folder = make_sweep(tmp_path / "s", parent=parent)
    send(folder, uri)
    assert stored(folder, uri).info.run_id == parent
    assert stored(folder / "jobs" / "aa", uri).data.tags["mlflow.parentRunId"] == parent


def test_what_is_running_is_left_alone(tmp_path: Path, uri: str) -> None:
    run, sweep = make_run(tmp_path / "runs" / "r"), make_sweep(tmp_path / "sweeps" / "s")
    with FileLock(run / ".lock"), FileLock(sweep / ".lock"):
        done = send(tmp_path, uri)
    assert (done.sent, done.running) == ([], [sweep, run])
    assert not (run / "tracking.json").exists()
    with FileLock(sweep / "jobs" / "aa" / ".lock"):
        assert [path.name for path in send(tmp_path, uri).sent] == ["bb", "r"]


def test_dry_run_opens_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "run")
    assert main(["sync", str(folder), "--uri", "http://127.0.0.1:1", "--dry-run"]) == 0
    assert "would send a/b to http://127.0.0.1:1" in capsys.readouterr().out
    assert not (folder / "tracking.json").exists()


def test_the_verb(tmp_path: Path, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "runs" / "r")
    assert main(["sync", "--output-dir", str(tmp_path), "--uri", uri]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 runs sent, 0 were there already"
    assert main(["sync", str(tmp_path / "no such folder")]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_a_folder_without_records_is_an_error(tmp_path: Path, uri: str) -> None:
    with pytest.raises(DataError, match="outputs/sweeps"):
        send(tmp_path, uri)


def test_the_destination_is_the_run_s_own_unless_another_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "r")
    assert Destination(tmp_path).of(run) == (default_uri(tmp_path), "tokensieve")
    (run / "config.yaml").write_text("tracking: {uri: 'http://h:1', experiment: mine}\n")
    assert Destination(tmp_path).of(run) == ("http://h:1", "mine")
    assert Destination(tmp_path, "http://h:2", "yours").of(run) == ("http://h:2", "yours")
    (run / "config.yaml").write_text("[")
    assert Destination(tmp_path).of(run) == (default_uri(tmp_path), "tokensieve")


def test_a_journal_of_a_killed_and_resumed_run(tmp_path: Path) -> None:
    note(tmp_path, "params", {"a": "1", "path": "old"})
    note(tmp_path, "tags", {"t": "old"})
    with (tmp_path / "tracked.jsonl").open("a") as stream:
        stream.write('{"tags": {"t": "ha')
    note(tmp_path, "tags", {"t": "new ä"})
    note(tmp_path, "params", {"path": "new", "b": "2", "text": "one\u2028two\x85"})
    (tmp_path / "file").write_text("")
    note(tmp_path, "artefact", "file")
    note(tmp_path, "artefact", "missing")
    told = read_told(tmp_path)
    assert told.params == {"a": "1", "path": "old", "b": "2", "text": "one\u2028two\x85"}
    assert told.tags == {"t": "new ä"}
    assert list(told.artefacts) == [tmp_path / "file"]


def test_one_store_that_fails_leaves_what_was_sent(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        make_run(tmp_path / "runs" / name)
    calls: list[str] = []
    send_missing = upload_module.send_missing

    def fail_second(*arguments: Any) -> None:
        calls.append("")
        if len(calls) == 2:
            raise ConnectionError("gone")
        send_missing(*arguments)

    monkeypatch.setattr(upload_module, "send_missing", fail_second)
    with pytest.raises(CacheError, match="gone"):
        send(tmp_path, uri)
    done = send(tmp_path, uri)
    assert [path.name for path in done.sent] == ["b"]
    assert done.complete == 1
