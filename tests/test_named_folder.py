"""A single run in a folder of the user's choice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filelock import FileLock

from tokensieve.errors import ConfigError, SweepError
from tokensieve.records import RunResult
from tokensieve.sweep.named_folder import claim_named, named_folder, read_finished


def _result(job_id: str, status: str = "FINISHED") -> RunResult:
    return RunResult(
        job_id=job_id, name="", status=status, config={}, target_task="", stamps={}, mask=None, base_evals=(), evals=(),
        fit={"val/nll_kept": 0.5}, seconds={}, peak_memory_bytes={}, versions={}, git_commit=None,
    )  # fmt: skip


def test_a_new_folder_is_made_and_locked(tmp_path: Path) -> None:
    folder, lock = claim_named(tmp_path / "a" / "b", "x")
    assert folder.is_dir()
    assert lock.is_locked
    lock.release()


def test_the_same_job_goes_on_there(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps({"job_id": "x", "status": "KILLED"}), encoding="utf-8")
    folder, lock = claim_named(tmp_path, "x")
    assert folder == tmp_path
    lock.release()


@pytest.mark.parametrize("text", ['{"job_id": "y", "status": "FINISHED"}', '{"job_id"', "[]"])
def test_another_run_is_not_written_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "status.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"hydra\.run\.dir: must be a new folder, or this run's.*Remedy"):
        claim_named(tmp_path, "x")


def test_a_sweep_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds a sweep"):
        claim_named(tmp_path, "x")


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(SweepError, match="run by another process"):
        claim_named(tmp_path, "x")


def test_only_the_finished_result_of_the_job_counts(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    assert read_finished(tmp_path, "x") is None
    path.write_text(_result("x").to_json(), encoding="utf-8")
    found = read_finished(tmp_path, "x")
    assert found is not None
    assert found.fit == {"val/nll_kept": 0.5}
    assert read_finished(tmp_path, "y") is None
    path.write_text(_result("x", "FAILED").to_json(), encoding="utf-8")
    assert read_finished(tmp_path, "x") is None
    path.write_text(path.read_text(encoding="utf-8")[:40], encoding="utf-8")
    assert read_finished(tmp_path, "x") is None


def test_without_the_key_there_is_none() -> None:
    assert named_folder() is None
