"""The torchrun group of a job: what it says when a rank fails, and that no rank outlives it."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from tokensieve.config import LoraConfig, OptimConfig, RunConfig, TrainerConfig
from tokensieve.errors import ConfigError, TrainingError
from tokensieve.ranks import Layout, check_ranks, plan_ranks
from tokensieve.ranks.group import _describe_death, fit_in_group
from tokensieve.ranks.joined import refuse_joined
from tokensieve.ranks.order import EventLog, EventReader, FitOrder, RankError

FAKE = (str(Path(__file__).parent / "fake_rank.py"),)


def order(folder: Path, behaviour: str) -> FitOrder:
    return FitOrder(
        config="",
        cache="",
        folder=str(folder),
        checkpoints="",
        digest=behaviour,
        reports=str(folder / "ranks"),
        owner=os.getpid(),
    )


def assert_gone(folder: Path) -> None:
    """No rank that ever started is left."""
    pids = [int(file.read_text()) for file in folder.glob("pid-*")]
    assert pids
    deadline = time.monotonic() + 60
    while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(is_alive(pid) for pid in pids)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_dead_rank_fails_the_fit_with_its_signal_its_log_and_last_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TrainingError, match=r"rank 1: .*SIGKILL; last line: about to die.*stderr\.log") as caught:
        fit_in_group(order(tmp_path, "die"), 2, None, program=FAKE)
    assert Path(caught.value.remedy.removeprefix("read ")).read_text() == "about to die\n"
    assert "about to die" in caplog.text
    assert_gone(tmp_path)


def test_ranks_out_of_memory_start_again_with_half_and_errors_keep_their_kind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with pytest.raises(TrainingError, match=r"^step 4: loss must be finite; received 4\. Remedy: lower it\.$"):
        fit_in_group(order(tmp_path, "memory"), 2, None, program=FAKE)
    assert [record.getMessage()[:33] for record in caplog.records] == ["8 examples a pass do not fit into"]
    assert_gone(tmp_path)


def test_interrupt_stops_the_ranks(tmp_path: Path) -> None:
    def interrupt(values: Mapping[str, float], step: int) -> None:
        assert (values, step) == ({"train/nll": 1.5}, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_in_group(order(tmp_path, "wait"), 2, interrupt, program=FAKE)
    assert_gone(tmp_path)


def test_killed_job_leaves_no_rank(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); import test_rank_group as t\n"
        "t.fit_in_group(t.order(Path(sys.argv[1]), 'wait'), 2, None, program=t.FAKE)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent)])
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("pid-*"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    torchrun = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert_gone(tmp_path)
    assert len(torchrun) == 1
    psutil.wait_procs(torchrun, timeout=60)
    assert not torchrun[0].is_running()


def test_events_are_read_line_by_line(tmp_path: Path) -> None:
    reader = EventReader(tmp_path)
    assert list(reader.new()) == []
    zero, one = EventLog(tmp_path, 0), EventLog(tmp_path, 1)
    zero.metrics({"train/nll": float("nan")}, 3)
    one.metrics({"train/nll": 2.0}, 3)  # rank 0 speaks for all
    one.emit(logging.LogRecord("x", logging.WARNING, "", 0, "memory %d", (5,), None))
    found = list(reader.new())
    assert [event.get("message") for event in found] == [None, "rank 1: memory 5"]
    with (tmp_path / "events.jsonl").open("a") as stream:
        stream.write(half := json.dumps({"step": 4, "values": {}}))
    assert list(reader.new()) == []
    with (tmp_path / "events.jsonl").open("a") as stream:
        stream.write("\n")
    assert list(reader.new()) == [json.loads(half)]


def config(trainer: dict[str, Any] | None = None, **groups: Any) -> RunConfig:
    options = {"accelerator": "cpu", "micro_batch_size": 2} | (trainer or {})
    return RunConfig(trainer=TrainerConfig(**options), **groups)


def test_default_is_one_process_whatever_its_strategy() -> None:
    assert plan_ranks(config()) == Layout()
    assert plan_ranks(config({"strategy": "ddp", "devices": 1})) == Layout()
    assert plan_ranks(config({"devices": 2})) == Layout("ddp", 2)
    assert plan_ranks(config({"strategy": "fsdp", "devices": 4})) == Layout("fsdp", 4)


@pytest.mark.parametrize(
    ("trainer", "groups", "key"),
    [
        ({"strategy": "ddp", "devices": "auto"}, {}, r"^trainer\.devices: auto counts GPUs"),
        ({"devices": 2, "num_nodes": 2}, {}, r"^trainer\.num_nodes: .*torchrun"),
        ({"strategy": "fsdp", "devices": 2}, {"lora": LoraConfig(quantise="nf4")}, r"^lora\.quantise: .*trainer=ddp"),
        ({"strategy": "fsdp", "devices": 2}, {"optim": OptimConfig(name="adafactor")}, r"^optim\.name: .*adamw"),
        ({"strategy": "fsdp", "devices": 2, "precision": "16-mixed"}, {}, r"^trainer\.precision: .*bf16-mixed"),
        ({"strategy": "fsdp", "devices": 2, "compile": True}, {}, r"^trainer\.compile: .*trainer=ddp"),
    ],
)
def test_what_cannot_work_is_refused(trainer: dict[str, Any], groups: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        plan_ranks(config(trainer, **groups))


@pytest.mark.parametrize(
    ("trainer", "key"),
    [
        ({"devices": 0}, r"trainer\.devices"),
        ({"devices": "all"}, r"trainer\.devices"),
        ({"num_nodes": 0}, r"trainer\.num_nodes"),
        ({"strategy": "fsdp", "devices": 1}, r"trainer\.strategy"),
        ({"strategy": "ddp", "sharded_checkpoints": True}, r"trainer\.sharded_checkpoints"),
        ({"devices": 2, "batch_size": 8, "micro_batch_size": 8}, r"trainer\.micro_batch_size: .*at most 4"),
        ({"devices": 4, "batch_size": 2, "batch_tokens": 100}, r"trainer\.micro_batch_size: .*batch_size to 4"),
        ({"devices": 4, "batch_size": 2, "micro_batch_size": 1}, r"trainer\.micro_batch_size: .*batch_size to 4"),
    ],
)
def test_schema_refuses(trainer: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        config(trainer)


TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
SLURM = {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize("environment", [TORCHRUN, SLURM], ids=["torchrun", "slurm"])
def test_rank_of_a_running_group_joins_it(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for trainer in ({"strategy": "ddp", "devices": "auto"}, {"devices": 2, "num_nodes": 2}):
        layout = plan_ranks(config(trainer))
        assert (layout.strategy, layout.devices, layout.num_nodes) == ("ddp", 2, 2)
        assert layout.joined is not None
        assert (layout.joined.rank, layout.joined.local_rank) == (3, 1)
    with pytest.raises(ConfigError, match=r"trainer\.devices: .*the 4 processes"):
        check_ranks(config())
    with pytest.raises(ConfigError, match=r"--multirun: must be started as one process"):
        refuse_joined("--multirun")


def test_interactive_slurm_shell_is_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SLURM | {"SLURM_JOB_NAME": "bash"}).items():
        monkeypatch.setenv(name, value)
    assert plan_ranks(config()) == Layout()


@pytest.mark.parametrize(("code", "said"), [(-9, "rank 1: .*killed by SIGKILL"), (1, "rank 0: .*Connection reset")])
def test_a_killed_rank_is_the_cause_whatever_the_others_said(tmp_path: Path, code: int, said: str) -> None:
    exits = [
        f"  rank      : {rank} (local_rank: {rank})\n  exitcode  : {number} (pid: 7)\n"
        for rank, number in ((0, 1), (1, code))
    ]
    (tmp_path / "torchrun.txt").write_text("".join(exits), encoding="utf-8")
    found = RankError(0, None, "RuntimeError: Connection reset by peer", None)
    assert re.search(said, str(_describe_death(tmp_path, found)))
