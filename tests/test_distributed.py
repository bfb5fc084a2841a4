"""Two ranks on CPU against one process: the same losses, gradients and weights, whatever the layout."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from rank_fits import Stopped, run_case
from safetensors.torch import load_file
from small_run import small_run
from tiny_checkpoint import save_tiny

from tokensieve import pipeline
from tokensieve.config import (
    RunConfig,
    to_yaml,
)
from tokensieve.errors import TrainingError
from tokensieve.records import RunResult
from tokensieve.trainer import make_whole, read_curve

TESTS = Path(__file__).parent
# Relative to the single process's number, or to the largest entry of its tensor. Adam divides by the gradient's size, so
# that the rounding of an entry near zero moves its weight by up to a learning rate, here 1e-2.
METRIC_TOLERANCE = 2e-6
GRADIENT_TOLERANCE = 2e-6
WEIGHT_TOLERANCE = 2e-3

# What two ranks do; a single process repeats it without the keys of EXECUTION.
CASES: dict[str, dict[str, Any]] = {
    "ddp, 1 pass a rank, none in the last step of rank 1": {"strategy": "ddp", "examples": 14},
    "ddp, 4 passes a rank": {"strategy": "ddp", "batch": 8, "micro": 1},
    "ddp, 3 and 2 passes": {"strategy": "ddp", "batch": 5, "micro": 1, "examples": 14},
    "ddp, passes without weight": {"strategy": "ddp", "examples": 14, "lockstep": True},
    "ddp, full": {"strategy": "ddp", "method": "none"},
    "ddp, out of memory": {"strategy": "ddp", "memory_rows": 2, "dropout": 0.0},
    "ddp, goes on after one process": {"strategy": "ddp", "checkpoints": "one"},
    "fsdp, 1 pass a rank, none in the last step of rank 1": {"strategy": "fsdp", "examples": 14},
    "fsdp, 4 passes a rank": {"strategy": "fsdp", "batch": 8, "micro": 1},
    "fsdp, 3 and 2 passes, cut": {
        "strategy": "fsdp", "batch": 15, "micro": 3, "examples": 15, "rows_limit": 2, "dropout": 0.0,
    },
    "fsdp, full, tied embeddings, head in chunks": {
        "strategy": "fsdp", "method": "none", "tied": True, "chunk_elements": 4000,
    },
    "fsdp, full, none in the last step of rank 1": {"strategy": "fsdp", "method": "none", "examples": 14},
    "ddp, 16-mixed, one pass for 2 ranks": {
        "strategy": "ddp", "batch_tokens": 10_000, "padding_free": True, "precision": "16-mixed",
    },
    "fsdp, DoRA, recomputed": {"strategy": "fsdp", "dora": True, "recompute": True},
    "ddp, 4-bit base": {"strategy": "ddp", "quantised": "WIDE"},
    "ddp, without padding": {"strategy": "ddp", "padding_free": True},
    "ddp, without padding, by tokens, 3 passes for 2 ranks or 1": {
        "strategy": "ddp", "padding_free": True, "batch_tokens": 45, "examples": 14,
    },
    "ddp, by tokens": {"strategy": "ddp", "batch_tokens": 60},
    "ddp, one pass for 2 ranks": {"strategy": "ddp", "batch_tokens": 10_000, "padding_free": True},
    "fsdp, without padding, by tokens, cut": {
        "strategy": "fsdp", "padding_free": True, "batch_tokens": 70, "rows_limit": 2, "dropout": 0.0,
    },
    "fsdp, by tokens, recomputed": {"strategy": "fsdp", "batch_tokens": 50, "recompute": True},
    "ddp, talr, frozen weights, none in the last step of rank 1": {
        "strategy": "ddp", "examples": 14, "weighting": {"rule": "talr"}, "frozen_weights": True,
    },
    "ddp, rho, 3 and 2 passes": {
        "strategy": "ddp", "batch": 5, "micro": 1, "examples": 14, "weighting": {"rule": "rho"},
    },
    "ddp, quantile, out of memory": {
        "strategy": "ddp", "memory_rows": 2, "dropout": 0.0, "weighting": {"rule": "quantile_online"},
    },
    "ddp, eaft, kl": {
        "strategy": "ddp", "weighting": {"rule": "eaft"},
        "penalty": {"rule": "kl", "coefficient": 0.5, "divergence": "forward"},
    },
    "ddp, full, kl": {
        "strategy": "ddp", "method": "none", "penalty": {"rule": "kl", "coefficient": 0.5, "divergence": "k3"},
    },
    "ddp, full, l2": {"strategy": "ddp", "method": "none", "penalty": {"rule": "l2_sp", "coefficient": 0.5}},
    "fsdp, full, l2": {"strategy": "fsdp", "method": "none", "penalty": {"rule": "l2_sp", "coefficient": 0.5}},
    "fsdp, l2 of the adapter": {"strategy": "fsdp", "penalty": {"rule": "l2_sp", "coefficient": 0.5}},
    "fsdp, dft, kl, none in the last step of rank 1": {
        "strategy": "fsdp", "examples": 14, "weighting": {"rule": "dft"}, "chunk_elements": 4000,
        "penalty": {"rule": "kl", "coefficient": 0.5, "divergence": "forward"},
    },
    "fsdp, talr": {"strategy": "fsdp", "examples": 14, "weighting": {"rule": "talr"}},
    "ddp, stops early": {"strategy": "ddp", "patience": 1, "validations": 2, "lr": 1e-30},
    "fsdp, bfloat16 base": {"strategy": "fsdp", "dtype": "bfloat16", "precision": "bf16-mixed"},
    "fsdp, stopped, shards": {
        "strategy": "fsdp", "stop_after": 1, "checkpoints": "of-shards", "sharded_checkpoints": True,
    },
    "fsdp, goes on from shards": {"strategy": "fsdp", "checkpoints": "of-shards", "sharded_checkpoints": True},
    "fsdp, stopped again, shards": {
        "strategy": "fsdp", "stop_after": 3, "checkpoints": "of-shards", "sharded_checkpoints": True,
    },
    "fsdp, goes on after one process": {"strategy": "fsdp", "checkpoints": "another"},
    "fsdp, stopped": {"strategy": "fsdp", "stop_after": 2, "checkpoints": "of-fsdp"},
    "ddp, stopped": {"strategy": "ddp", "stop_after": 2, "checkpoints": "of-ddp"},
}  # fmt: skip
EXECUTION = {"strategy", "lockstep", "memory_rows", "rows_limit", "stop_after", "checkpoints", "sharded_checkpoints"}


def as_one_process(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    kept = {key: value for key, value in case.items() if key not in EXECUTION}
    return kept | ({"quantised": str(folder / "wide")} if "quantised" in kept else {})


def write_config(folder: Path, output: Path, **trainer: Any) -> RunConfig:
    return small_run(
        folder / "tiny",
        folder / "sums.jsonl",
        output,
        dataset={"val_fraction": 0.2},
        trainer={"micro_batch_size": 4, **trainer},
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case on two ranks, and the whole pipeline in one process and on the ranks of torchrun."""
    folder = tmp_path_factory.mktemp("runs")
    save_tiny(folder / "tiny")
    save_tiny(folder / "wide", hidden_size=64, intermediate_size=128)
    pipeline.run(write_config(folder, folder / "output"), folder / "alone")
    shutil.copytree(folder / "output", folder / "shared-output")
    shutil.rmtree(folder / "shared-output" / "cache" / "fit")
    config = write_config(folder, folder / "shared-output", strategy="ddp", devices="auto")
    (folder / "config.yaml").write_text(to_yaml(config))
    for checkpoints in ("one", "another"):
        with pytest.raises(Stopped):
            run_case(folder / f"part-{checkpoints}", stop_after=2, checkpoints=checkpoints)
    (folder / "cases.json").write_text(json.dumps(CASES).replace("WIDE", str(folder / "wide")))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    files = [str(folder / "cases.json"), str(folder), str(folder / "config.yaml")]
    with (folder / "log.txt").open("w") as log:
        finished = subprocess.run(
            [*command, str(TESTS / "rank_fits.py"), *files],
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=False,
            timeout=600,
        )
    assert finished.returncode == 0, (folder / "log.txt").read_text()[-4000:]
    return folder


def assert_equal_fits(one: Path, two: Path) -> None:
    expected, got = read_curve(one), read_curve(two)
    assert [entry["step"] for entry in expected] == [entry["step"] for entry in got]
    for before, after in zip(expected, got, strict=True):
        assert before.keys() == after.keys()
        for key in before.keys() - {"time", "train/tokens_per_second"}:
            assert after[key] == pytest.approx(before[key], rel=METRIC_TOLERANCE), (key, before["step"])
    for name in ("last", "best"):
        files = sorted(path.name for path in (one / name).iterdir())
        assert files == sorted(path.name for path in (two / name).iterdir())
        weights = next(file for file in files if file.endswith(".safetensors"))
        assert_close(load_file(one / name / weights), load_file(two / name / weights), WEIGHT_TOLERANCE)


def assert_close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], tolerance: float) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert value.dtype == two[name].dtype
        assert (value - two[name]).abs().max() <= tolerance * value.abs().max(), name


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "stop_after" not in case])
def test_two_ranks_do_what_one_process_does(runs: Path, tmp_path: Path, name: str) -> None:
    run_case(tmp_path / "one", **as_one_process(CASES[name], runs))
    assert_equal_fits(tmp_path / "one", runs / name)
    if "checkpoints" not in CASES[name]:  # else the first step was another fit's
        gradients = [torch.load(folder / "gradients.pt") for folder in (tmp_path / "one", runs / name)]
        assert_close(gradients[0], gradients[1], GRADIENT_TOLERANCE)


def test_early_stop_is_decided_alike(runs: Path) -> None:
    assert max(entry["step"] for entry in read_curve(runs / "ddp, stops early")) < 4


@pytest.mark.parametrize("written_by", ["ddp", "fsdp", "shards"])
def test_one_process_goes_on_after_two_ranks(runs: Path, tmp_path: Path, written_by: str) -> None:
    shutil.copytree(runs / f"of-{written_by}", tmp_path / "checkpoints")
    make_whole(tmp_path / "checkpoints")
    run_case(tmp_path / "resumed", checkpoints="checkpoints")
    assert not (tmp_path / "resumed" / "gradients.pt").exists()  # there was no first step
    run_case(tmp_path / "whole")
    assert_equal_fits(tmp_path / "whole", tmp_path / "resumed")


def test_damaged_shards_are_no_checkpoint(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "of-shards", tmp_path / "checkpoints")
    for file in (tmp_path / "checkpoints" / "last.ckpt").glob("*.distcp"):
        file.write_bytes(b"")
    make_whole(tmp_path / "checkpoints")
    assert not (tmp_path / "checkpoints").exists()


def test_step_that_does_not_fit_says_so_once(runs: Path) -> None:
    said = [line for line in (runs / "log.txt").read_text().splitlines() if "does not fit into memory" in line]
    assert len(said) == 4  # a line for each rank of the two cases
    assert all("step 1 does not fit into memory with 3 examples a pass: repeated with 2" in line for line in said)


def result_of(folder: Path) -> RunResult:
    return RunResult.from_json((folder / "result.json").read_text())


def assert_equal_runs(one: Path, two: Path) -> None:
    alone, shared = result_of(one), result_of(two)
    assert alone.stamps == shared.stamps
    for key in alone.fit.keys() - {"train/tokens_per_second"}:
        assert shared.fit[key] == pytest.approx(alone.fit[key], rel=METRIC_TOLERANCE)
    weights = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, two)]
    assert_close(weights[0], weights[1], WEIGHT_TOLERANCE)
    metrics = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (one, two)
    ]
    steps = [[entry["step"] for entry in entries if "train/nll" in entry] for entries in metrics]
    assert steps[0] == steps[1] == list(range(1, len(steps[0]) + 1)) != []


def test_program_started_by_torchrun_runs_once_and_fits_on_all_ranks(runs: Path) -> None:
    assert_equal_runs(runs / "alone", runs / "joined")


def test_two_nodes_do_what_one_process_does(runs: Path, tmp_path: Path) -> None:
    """Two groups of torchrun with one rank each, as `torchrun --nnodes=2` on two machines that share a folder."""
    shutil.copytree(runs / "output", tmp_path / "output")
    shutil.rmtree(tmp_path / "output" / "cache" / "fit")
    config = write_config(runs, tmp_path / "output", strategy="ddp", devices=1, num_nodes=2)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    (tmp_path / "cases.json").write_text("{}")
    files = [str(tmp_path / "cases.json"), str(tmp_path), str(tmp_path / "config.yaml")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = []
    for node in range(2):
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={node}",
                   "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"]  # fmt: skip
        with (tmp_path / f"log-{node}.txt").open("w") as log:
            nodes.append(
                subprocess.Popen(
                    [*command, str(TESTS / "rank_fits.py"), *files],
                    stdout=log,
                    stderr=log,
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                )
            )
    codes = [node.wait(timeout=200) for node in nodes]
    assert codes == [0, 0], [(tmp_path / f"log-{node}.txt").read_text()[-3000:] for node in range(2)]
    assert_equal_runs(runs / "alone", tmp_path / "joined")


def test_job_starts_its_own_ranks(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "output", tmp_path / "output")
    shutil.rmtree(tmp_path / "output" / "cache" / "fit")
    pipeline.run(write_config(runs, tmp_path / "output", strategy="fsdp", devices=2), tmp_path / "run")
    assert_equal_runs(runs / "alone", tmp_path / "run")
    assert not (tmp_path / "run" / "ranks").exists()


def test_options_of_a_fit_reach_it_through_the_pipeline(runs: Path, tmp_path: Path) -> None:
    """Without dropout, rows without padding and passes of tokens change a run's curve by rounding only."""
    results = []
    for number, options in enumerate(({}, {"padding_free": True, "batch_tokens": 90})):
        config = write_config(runs, tmp_path / f"output-{number}", **options)
        config = replace(config, lora=replace(config.lora, dropout=0.0))
        pipeline.run(config, tmp_path / f"run-{number}")
        results.append(result_of(tmp_path / f"run-{number}"))
    assert results[0].stamps["fit"] != results[1].stamps["fit"]
    for key in results[0].fit.keys() - {"train/tokens_per_second"}:
        assert results[1].fit[key] == pytest.approx(results[0].fit[key], rel=2e-5), key


def test_killed_rank_fails_the_job_within_a_minute_with_its_log(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "output", tmp_path / "output")
    shutil.rmtree(tmp_path / "output" / "cache" / "fit")
    config = write_config(runs, tmp_path / "output", strategy="ddp", devices=2)
    config = replace(config, trainer=replace(config.trainer, epochs=100_000))
    events = tmp_path / "run" / "ranks" / "events.jsonl"
    killed: list[float] = []

    def kill() -> None:
        while not events.is_file() or "train/nll" not in events.read_text():
            time.sleep(0.1)
        for process in psutil.Process().children(recursive=True):
            if "tokensieve.ranks" in process.cmdline() and process.environ().get("RANK") == "1":
                process.kill()
                killed.append(time.monotonic())
                return

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(TrainingError, match=r"rank 1: must stay alive.*SIGKILL.*stderr\.log"):
        pipeline.run(config, tmp_path / "run")
    assert time.monotonic() - killed[0] < 60
    assert not [child for child in psutil.Process().children(recursive=True) if "tokensieve.ranks" in child.cmdline()]
