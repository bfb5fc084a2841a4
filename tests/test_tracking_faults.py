"""A tracking server that is slow, down, refuses, or dies: the run goes on, its record is whole, and arrives later."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_server import serve

from tokensieve.sweep.parent_run import ParentRun
from tokensieve.sync import Destination, sync
from tokensieve.tracking import Tracker, default_uri, end_run, open_sweep
from tokensieve.tracking import mlflow_run as mlflow_run_module
from tokensieve.tracking.mark import StoreMark
from tokensieve.tracking.run import read_metrics


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in (("TIMEOUT", "1"), ("MAX_RETRIES", "1"), ("BACKOFF_FACTOR", "0"), ("BACKOFF_JITTER", "0")):
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{key}", value)
    monkeypatch.setattr(mlflow_run_module, "SILENT_SECONDS", 6.0)


def track(folder: Path, uri: str, *, steps: int = 20, **options: Any) -> None:
    (folder / "file.txt").parent.mkdir(parents=True, exist_ok=True)
    (folder / "file.txt").write_text("content")
    (folder / "status.json").write_text('{"status": "FINISHED", "name": "a"}')
    with Tracker(folder, name="a", uri=uri, **options) as tracker:
        tracker.log_params({"a": 1})
        tracker.set_tags({"t": "1"})
        for step in range(steps):
            tracker.log_metrics({"m": step}, step)
        tracker.log_artifact(folder / "file.txt")


def assert_arrives(folder: Path, uri: str, steps: int = 20) -> None:
    """Sync sends the whole record of the run, once."""
    from mlflow import MlflowClient

    lines: list[str] = []
    sync([folder], Destination(folder, uri), lines.append)
    assert len(lines) <= 1
    client = MlflowClient(uri)
    mark = StoreMark.read(folder, uri, "tokensieve")
    assert mark is not None
    assert mark.is_complete
    run = client.get_run(str(mark.run_id))
    assert run.info.status == "FINISHED"
    assert run.data.params == {"a": "1"}
    assert run.data.tags["t"] == "1"
    assert sorted(point.step for point in client.get_metric_history(run.info.run_id, "m")) == list(range(steps))
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["file.txt"]
    assert len(client.search_runs([run.info.experiment_id])) == 1


@pytest.mark.parametrize("behaviour", ["500", "403", "slow", "garbage", "cut", "down"])
def test_a_server_in_trouble_costs_one_line_and_nothing_else(
    tmp_path: Path, behaviour: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    with caplog.at_level(logging.WARNING, "tokensieve.tracking"), serve(behaviour) as address:
        uri = "http://127.0.0.1:9" if behaviour == "down" else address
        start = time.monotonic()
        track(run, uri)
        assert time.monotonic() - start < 60  # the limit of the drain, not a measurement
    ours = [record.getMessage() for record in caplog.records if record.name == "tokensieve.tracking"]
    assert len(ours) == 1
    assert f"MLflow at {uri} does not work" in ours[0]
    assert "tokensieve sync" in ours[0]
    assert "\n" not in ours[0]
    assert {"500": "500", "403": "you may not"}.get(behaviour, "") in ours[0]
    assert len(read_metrics(run)["m"]) == 20
    mark = StoreMark.read(run, uri, "tokensieve")
    assert mark is not None
    assert not mark.is_complete
    assert_arrives(run, default_uri(tmp_path))


def test_a_sweep_starts_and_ends_jobs_without_its_server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mlflow_run_id").write_text("0" * 32)
    with serve("403") as uri:
        assert open_sweep(uri, "s") is None
        parent = ParentRun(uri, "tokensieve", None)
        for _ in range(3):
            parent.end_child(tmp_path, "FAILED")
        assert not end_run(uri, tmp_path, "FAILED")
    assert caplog.text.count("you may not") == 3  # opening, the first job's end, and end_run here


def test_a_server_that_fails_for_a_while_gets_the_rest_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uri, connect, refused = default_uri(tmp_path), mlflow_run_module.connect, []

    def late(*arguments: str) -> Any:
        if not refused:
            refused.append(1)
            raise ConnectionError("not yet")
        return connect(*arguments)

    monkeypatch.setattr(mlflow_run_module, "connect", late)
    track(tmp_path / "run", uri)
    assert "not yet" in caplog.text
    mark = StoreMark.read(tmp_path / "run", uri, "tokensieve")
    assert mark is not None
    assert mark.is_complete
    assert_arrives(tmp_path / "run", uri)


def test_a_killed_session_is_made_up_for_by_the_next(tmp_path: Path) -> None:
    uri = default_uri(tmp_path)
    first = Tracker(tmp_path / "run", name="a", uri=uri)
    first.__enter__()
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "mlflow_run_id").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.log_metrics({"m": 0}, 0)  # in the file; the process dies before it is sent
    first._remote._rows.clear()  # type: ignore[union-attr]
    first._file.close()  # type: ignore[union-attr]
    (tmp_path / "run" / "file.txt").write_text("content")
    (tmp_path / "run" / "status.json").write_text('{"status": "FINISHED", "name": "a"}')
    with Tracker(tmp_path / "run", name="a", uri=uri) as second:
        second.log_params({"a": 1})
        second.set_tags({"t": "1"})
        second.log_metrics({"m": 1}, 1)
        second.log_artifact(tmp_path / "run" / "file.txt")
    assert_arrives(tmp_path / "run", uri, steps=2)


def test_a_clock_that_goes_back_holds_no_metric_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    uri = default_uri(tmp_path)
    now = [2_000_000_000.0]
    monkeypatch.setattr("tokensieve.tracking.run.time.time", lambda: now[0])
    with Tracker(tmp_path / "run", name="a", uri=uri) as tracker:
        for step in range(10):
            now[0] += -86_400 if step % 2 else 3600
            tracker.log_metrics({"m": step}, step)
    run_id = (tmp_path / "run" / "mlflow_run_id").read_text().strip()
    client = MlflowClient(uri)
    assert sorted(point.step for point in client.get_metric_history(run_id, "m")) == list(range(10))
    assert client.get_run(run_id).data.metrics["m"] == 9  # the last step, not the latest time
    assert [step for step, _ in read_metrics(tmp_path / "run")["m"]] == list(range(10))


class Server:
    """A real MLflow server."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self.uri, self.folder = f"http://127.0.0.1:{self.port}", folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                   "--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'store.db'}",
                   "--artifacts-destination", str(self.folder / "artifacts")]  # fmt: skip
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        with (self.folder / "server.txt").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while not self.answers():
            assert time.monotonic() < deadline, (self.folder / "server.txt").read_text()
            time.sleep(0.1)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    made = Server(tmp_path / "server")
    made.start()
    yield made
    made.kill()


def test_a_real_server_killed_in_mid_run(
    tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    monkeypatch.setattr(mlflow_run_module, "FLUSH_SECONDS", 0.1)
    run = tmp_path / "run"
    run.mkdir()
    (run / "file.txt").write_text("content")
    (run / "status.json").write_text('{"status": "FINISHED", "name": "a"}')
    with Tracker(run, name="a", uri=server.uri) as tracker:
        tracker.log_params({"a": 1})
        for step in range(10):
            tracker.log_metrics({"m": step}, step)
        deadline = time.monotonic() + 60
        while not (run / "mlflow_run_id").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        server.kill()
        for step in range(10, 20):
            tracker.log_metrics({"m": step}, step)
        tracker.set_tags({"t": "1"})
        tracker.log_artifact(run / "file.txt")
    assert len([record for record in caplog.records if record.name == "tokensieve.tracking"]) == 1
    assert "tokensieve sync" in caplog.text
    assert len(read_metrics(run)["m"]) == 20
    server.start()
    assert_arrives(run, server.uri)
    assert sync([run], Destination(run, server.uri), print).complete == 1
