"""What happens to a machine: kills at any moment, a disk that is full, two sweeps on one cache, a clock that jumps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_run import small_run

from tokensieve import pipeline
from tokensieve.config import (
    RunConfig,
    to_yaml,
)
from tokensieve.errors import CacheError, TokensieveError
from tokensieve.records import RunResult
from tokensieve.sweep.manifest import Manifest, latest_sweep, next_number

ROOT = Path(__file__).parents[1]


@pytest.fixture
def config(tiny_folder: Path, tmp_path: Path) -> RunConfig:
    trainer = {"checkpoint_seconds": 0.000001}
    return small_run(tiny_folder, tmp_path / "sums.jsonl", tmp_path / "outputs", num=20, trainer=trainer)


def comparable(result: RunResult) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(result.to_json())
    for key in ("seconds", "peak_memory_bytes", "config"):
        values.pop(key)
    values["fit"].pop("train/tokens_per_second")
    return values


@pytest.mark.timeout(600)
def test_kills_of_jobs_and_of_the_sweep_change_no_result(tmp_path: Path) -> None:
    """The short form of experiments/faults/kill.py."""
    command = [sys.executable, str(ROOT / "experiments" / "faults" / "kill.py"), "--quick"]
    done = subprocess.run([*command, "--output", str(tmp_path / "found.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["num_kills"] == 3
    assert found["jobs"]["kills_by_target"] == {"job": 2, "sweep": 1}


def _no_space(*arguments: Any, **options: Any) -> Any:
    raise OSError(28, "No space left on device")


def _dump_no_metrics(value: Any, **options: Any) -> str:
    return _no_space() if isinstance(value, dict) and "step" in value else json.dumps(value, **options)


def _torch_without_space(*arguments: Any, **options: Any) -> None:
    raise RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file data/0")


def _full_for(name: str) -> Any:
    replace = os.replace

    def refuse(source: Any, target: Any, **options: Any) -> None:
        if Path(target).name == name:
            raise OSError(28, "No space left on device")
        replace(source, target, **options)

    return refuse


@pytest.mark.parametrize("where", ["checkpoint", "result.json", "config.yaml", "copy of the weights", "metrics"])
def test_a_full_disk_is_one_clear_line_and_the_run_goes_on_later(
    config: RunConfig, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        if where == "checkpoint":
            patch.setattr("lightning.fabric.plugins.io.torch_io._atomic_save", _torch_without_space)
        elif where == "copy of the weights":
            patch.setattr("tokensieve.run_folder.os.link", _no_space)
            patch.setattr("tokensieve.run_folder.shutil.copy2", _no_space)
        elif where == "metrics":
            patch.setattr("tokensieve.tracking.run.json", SimpleNamespace(dumps=_dump_no_metrics))
        else:
            patch.setattr(os, "replace", _full_for(where))
        with pytest.raises(CacheError, match="must be writable") as caught:
            pipeline.run(config, run)
    assert "\n" not in str(caught.value)
    assert "free" in str(caught.value)
    assert not (run / "result.json").exists()
    assert not list(run.rglob("*.partial"))
    if where != "config.yaml":
        status = json.loads((run / "status.json").read_text())
        assert status["status"] == "FAILED"
    resumed = pipeline.run(config, run)
    config.output_dir = str(tmp_path / "elsewhere")
    assert comparable(resumed) == comparable(pipeline.run(config, tmp_path / "whole"))


@pytest.mark.parametrize("limit_bytes", [3_000, 20_000])
def test_files_that_may_not_grow_fail_a_run_in_one_line(config: RunConfig, tmp_path: Path, limit_bytes: int) -> None:
    """The kernel's own refusal, wherever in the run it comes; what was written is read by nobody."""
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    script = (
        "import resource, sys; from pathlib import Path; from tokensieve import pipeline\n"
        "from tokensieve.config import from_yaml; from tokensieve.errors import TokensieveError\n"
        "import torch, transformers, peft, lightning, datasets\n"
        "folder = Path(sys.argv[1]); config = from_yaml((folder / 'config.yaml').read_text())\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)\n"
        "try:\n    pipeline.run(config, folder / 'run')\n"
        "except TokensieveError as error:\n    print(error); sys.exit(3)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path), str(limit_bytes)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "writable" in done.stdout
    assert "File too large" in done.stdout
    resumed = pipeline.run(config, tmp_path / "run")
    config.output_dir = str(tmp_path / "elsewhere")
    assert comparable(resumed) == comparable(pipeline.run(config, tmp_path / "whole"))


def test_a_status_that_cannot_be_written_hides_no_error(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config.stm.threshold = 1.0000001  # keeps nothing
    replace, calls = os.replace, []

    def refuse_failed(source: Any, target: Any, **options: Any) -> None:
        if Path(target).name == "status.json" and "FAILED" in Path(source).read_text():
            calls.append(1)
            raise OSError(28, "No space left on device")
        replace(source, target, **options)

    monkeypatch.setattr(os, "replace", refuse_failed)
    with pytest.raises(TokensieveError, match=r"raise stm\.threshold"):
        pipeline.run(config, tmp_path / "run")
    assert calls == [1]
    assert "No space left" in caplog.text


def test_two_runs_at_once_share_one_cache(config: RunConfig, tmp_path: Path) -> None:
    """Both meet an empty cache; every artefact is built by one of them, and both find the same."""
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    script = (
        "import logging, sys, time; from pathlib import Path; from tokensieve import pipeline\n"
        "from tokensieve.config import from_yaml\n"
        "import torch, transformers, peft, lightning, datasets\n"
        "logging.basicConfig(level=logging.WARNING); logging.getLogger('tokensieve').setLevel(logging.INFO)\n"
        "folder = Path(sys.argv[1]); config = from_yaml((folder / 'config.yaml').read_text())\n"
        "(folder / f'ready-{sys.argv[2]}').touch()\n"
        "while len(list(folder.glob('ready-*'))) < 2: time.sleep(0.001)\n"
        "pipeline.run(config, folder / sys.argv[2])\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), name], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
            text=True,
        )
        for name in ("a", "b")
    ]  # fmt: skip
    logs = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], logs
    told = "".join(logs)
    stages = list(json.loads((tmp_path / "a" / "status.json").read_text())["artefacts"])
    assert {"dataset", "tokenise", "score", "mask", "fit"} <= set(stages)
    for stage in stages:
        assert told.count(f"{stage} built (") == 1
        assert told.count(f"{stage} cached (") == 1
    assert "damaged" not in told
    results = [RunResult.from_json((tmp_path / name / "result.json").read_text()) for name in ("a", "b")]
    assert comparable(results[0]) == comparable(results[1])


def test_durations_do_not_follow_the_clock(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's clock jumps by a day at every look, forwards and back."""
    now, clock = [1_700_000_000.0], time.time

    def jump() -> float:
        now[0] += 86_400.0 if len(jumps) % 2 else -90_000.0
        jumps.append(now[0])
        return now[0]

    jumps: list[float] = []
    monkeypatch.setattr(time, "time", jump)
    before = time.monotonic()
    result = pipeline.run(config, tmp_path / "run")
    elapsed = time.monotonic() - before
    monkeypatch.setattr(time, "time", clock)
    assert jumps
    assert all(0 <= seconds <= elapsed for seconds in result.seconds.values())
    config.output_dir = str(tmp_path / "elsewhere")
    assert comparable(result) == comparable(pipeline.run(config, tmp_path / "whole"))


def test_the_latest_sweep_is_the_last_that_began_whatever_the_clock_said(tmp_path: Path) -> None:
    times = ["2026-01-02T00:00:00+00:00", "2031-01-01T00:00:00+00:00", "2025-05-05T00:00:00+00:00"]
    for place, created in enumerate(times):
        manifest = Manifest(created, "s", [], {}, {}, "", number=next_number(tmp_path))
        folder = tmp_path / f"{created[:10]}"
        folder.mkdir()
        manifest.save(folder)
        assert manifest.number == place + 1
        assert latest_sweep(tmp_path) == folder


def test_a_saved_adapter_does_not_depend_on_the_process(tiny_folder: Path, tmp_path: Path) -> None:
    """PEFT keeps names in sets, whose order follows from the process's hash seed."""
    from trained_run import make_adapter

    folder = make_adapter(tiny_folder, tmp_path / "adapter")
    names = json.loads((folder / "adapter_config.json").read_text())["target_modules"]
    assert len(names) > 3
    assert names == sorted(names)
