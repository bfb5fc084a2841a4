"""Whole sweeps of jobs that take milliseconds: every fate of a job, resuming, stopping, searching."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
from pathlib import Path

import fake_sweep
import pytest
from sweeping import (
    Background,
    Sweep,
    is_gone,
    manifest,
    starts,
    states,
    sweep_here,
    wait_until,
    waiting,
)
from test_sweep_slots import fake_driver

from tokensieve.errors import CacheError
from tokensieve.run_metrics import evaluation_metrics
from tokensieve.sweep.job import key_scores
from tokensieve.sweep.parent_run import ParentRun
from tokensieve.sweep.slots import Slots


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sweep:
    return sweep_here(monkeypatch, tmp_path)


def test_a_sweep_runs_each_job_in_its_own_process_and_folder(sweep: Sweep, capfd: pytest.CaptureFixture[str]) -> None:
    assert sweep("finish", "stm.threshold=1.5,4,4.0", "sweep.workers=2") == 0
    jobs = manifest()["jobs"]
    assert [(job["state"], job["control"]) for job in jobs] == [
        ("FINISHED", None), ("FINISHED", None), ("SKIPPED", None), ("FINISHED", "unmasked"),
    ]  # fmt: skip
    assert jobs[2]["same_as"] == jobs[1]["id"]
    assert jobs[2]["dir"] == jobs[1]["dir"]
    assert {job["objective"] for job in jobs if job["state"] == "FINISHED"} == {4e-3}
    [folder] = Path("outputs/sweeps").iterdir()
    traces = [path.read_text().split() for path in folder.glob("jobs/*/starts")]
    assert len({pid for pid, *_ in traces} - {str(os.getpid())}) == 3
    log = (folder / jobs[0]["dir"] / "log.txt").read_text()
    assert all(line in log for line in ("to stdout", "to stderr", "to the descriptor"))
    output = capfd.readouterr()
    assert "to stdout" not in output.out
    assert "FINISHED after" in output.out
    assert output.err == ""
    assert (folder / "closed").read_text() == "FINISHED True"
    assert sorted(path.name for path in Path("outputs").iterdir()) == ["sweeps"]


def test_failures_are_recorded_and_survived(sweep: Sweep, capfd: pytest.CaptureFixture[str]) -> None:
    assert sweep("by_threshold", "stm.threshold=1,2,3,4,5,6", "sweep.workers=2") == 1
    errors = {job["name"].split("/")[3]: job["error"] for job in manifest()["jobs"]}
    assert errors == {
        "stm=1": "ValueError: a defect over two lines",
        "stm=2": "died by SIGKILL: out of memory, or killed by somebody",
        "stm=3": "SystemExit: 0",
        "stm=4": "ended with exit code 0 and without a result",
        "stm=5": "loss: must be finite; received 'nan at step 7'.",
        "stm=6": None,
        "unmasked": None,
    }
    [folder] = Path("outputs/sweeps").iterdir()
    for job in manifest()["jobs"]:
        status = json.loads((folder / job["dir"] / "status.json").read_text())
        assert status["status"] == job["state"]
        assert (status["error"] or {}).get("message") == job["error"]
    output = capfd.readouterr().out
    assert "5 of 7 jobs are not finished. To resume:" in output
    assert f"sweep.resume={folder}" in output
    assert sweep("finish", "sweep.resume=latest") == 0
    assert set(states().values()) == {"FINISHED"}
    assert starts() == 7


def test_resuming_runs_what_is_not_finished(sweep: Sweep) -> None:
    assert sweep("fail_first_time", "stm.threshold=1,2", "seed=1,2") == 1
    assert sorted(states().values()) == ["FAILED", "FAILED", "FINISHED"]  # by arm; two seeds each
    assert sweep("fail_first_time", "sweep.resume=latest", "sweep.workers=2") == 0
    assert starts() == 6
    assert sweep("fail_first_time", "sweep.resume=latest") == 0
    assert starts() == 6


def test_a_resumed_sweep_must_mean_the_same(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("finish", "stm.threshold=1,2", "optim.lr=0.1") == 0
    assert sweep("finish", "stm.threshold=1,3", "optim.lr=0.1", "sweep.resume=latest") == 1
    assert "not in the sweep: stm.threshold=3 optim.lr=0.1" in capsys.readouterr().err
    [path] = Path("outputs/sweeps").glob("*/sweep.json")
    values = json.loads(path.read_text())
    values["base"]["lora"]["rank"] = 4
    path.write_text(json.dumps(values))
    assert sweep("finish", "sweep.resume=latest") == 1
    assert "lora.rank: 4 -> 16" in capsys.readouterr().err
    values["base"]["lora"]["rank"] = 16
    values["jobs"][0]["id"] = "0" * 64
    path.write_text(json.dumps(values))
    assert sweep("finish", "sweep.resume=latest") == 1
    assert "no longer planned" in capsys.readouterr().err
    path.write_text("{")
    assert sweep("finish", "sweep.resume=latest") == 1
    assert "is damaged" in capsys.readouterr().err


def test_a_state_left_by_a_killed_sweep_is_run_again(sweep: Sweep) -> None:
    assert sweep("finish", "stm.threshold=1,2") == 0
    [path] = Path("outputs/sweeps").glob("*/sweep.json")
    values = json.loads(path.read_text())
    values["jobs"][0]["state"] = "RUNNING"
    path.write_text(json.dumps(values))
    assert sweep("finish", "sweep.resume=latest") == 0
    assert starts() == 4


def test_fail_fast_and_max_failures(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("by_threshold", "stm.threshold=1,6,3", "sweep.fail_fast=true") == 1
    assert list(states().values()) == ["FAILED", "PENDING", "PENDING", "PENDING"]
    assert "sweep.fail_fast: the sweep stopped after 1 failed" in capsys.readouterr().err
    assert sweep("by_threshold", "sweep.resume=latest", "sweep.fail_fast=false", "sweep.max_failures=1") == 1
    assert list(states().values()) == ["FAILED", "FINISHED", "FAILED", "PENDING"]


def test_fail_fast_stops_the_others(sweep: Sweep) -> None:
    assert sweep("by_name", "stm.threshold=1,2", "sweep.workers=2", "sweep.fail_fast=true", "sweep.controls=[]") == 1
    assert list(states().values()) == ["KILLED", "FAILED"]


def test_dry_run_starts_and_writes_nothing(
    sweep: Sweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokensieve import pipeline

    monkeypatch.setattr(pipeline, "plan", lambda config: [pipeline.StagePlan("score", "d" * 64, True)])
    assert sweep("finish", "stm.threshold=1,1.0", "dry_run=true") == 0
    output = capsys.readouterr().out
    assert "2 jobs would run" in output
    assert "control: unmasked" in output
    assert "same as" in output
    assert not Path("outputs").exists()


def test_dry_run_of_a_resume_counts_what_is_left(
    sweep: Sweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokensieve import pipeline

    monkeypatch.setattr(pipeline, "plan", lambda config: [])
    assert sweep("by_threshold", "stm.threshold=1,6,7", "sweep.controls=[]") == 1
    assert sorted(states().values()) == ["FAILED", "FINISHED", "FINISHED"]
    capsys.readouterr()
    assert sweep("by_threshold", "sweep.resume=latest", "dry_run=true") == 0
    assert "1 jobs would run" in capsys.readouterr().out


def test_a_fault_after_a_fault_is_a_line_too(
    sweep: Sweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise CacheError("report", "must be writable", received="no space", remedy="free some")

    monkeypatch.setattr(ParentRun, "close", refuse)
    assert sweep("by_threshold", "stm.threshold=1,6", "sweep.fail_fast=true", "sweep.controls=[]") == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert [line.split(":")[1].strip() for line in said.splitlines() if line.startswith("error: ")][-1] == "report"


def test_odd_values_reach_the_job(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD", "from the environment")
    odd = ["dataset.prompt='a, b','c=\"d\"'", "dataset.response=${oc.env:ODD}", "model.name='ä'"]
    assert sweep("echo", *odd, "+dataset.reference.tests=x,y") == 0
    [folder] = Path("outputs/sweeps").iterdir()
    seen = [json.loads(path.read_text()) for path in folder.glob("jobs/*/echo.json")]
    expected = [[p, "from the environment", "ä", {"tests": r}] for p in ("a, b", 'c="d"') for r in ("x", "y")]
    assert sorted(seen, key=str) == expected
    assert sweep("echo", "sweep.resume=latest") == 0


def test_optuna_drives_the_launcher(sweep: Sweep) -> None:
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=5", "hydra.sweeper.n_jobs=2"]
    space = ["optim.lr=choice(0.1,0.2)", "+hydra.sweeper.sampler.seed=1"]
    assert sweep("finish", *search, *space) == 0
    values = manifest()
    assert len(values["jobs"]) == 5
    assert {job["control"] for job in values["jobs"]} == {None}
    assert starts() == 2  # five trials of two different jobs
    [folder] = Path("outputs/sweeps").iterdir()
    assert "best_value: 0.1" in (folder / "optimization_results.yaml").read_text()


# What follows needs a sweep in a process of its own, to stop or to kill it.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_stops_its_jobs_and_resumes(
    background: Background, tmp_path: Path, sweep: Sweep, number: signal.Signals
) -> None:
    process = background("wait_for_stop", "stm.threshold=1,2,3", "sweep.workers=2")
    wait_until(lambda: len(waiting(tmp_path)) == 2)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert list(states().values()) == ["KILLED", "KILLED", "PENDING", "PENDING"]
    assert all(is_gone(pid) for pid in waiting(tmp_path))
    assert "sweep.resume=" in output
    assert "Traceback" not in output
    assert sweep("finish", "sweep.resume=latest") == 0
    assert set(states().values()) == {"FINISHED"}


def test_jobs_that_ignore_the_stop_are_killed_with_their_descendants(
    background: Background, tmp_path: Path, sweep: Sweep
) -> None:
    process = background("ignore_stop", "stm.threshold=1")
    wait_until(lambda: len(waiting(tmp_path)) == 1)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)  # another signal: of two equal ones at once the kernel keeps one
    process.communicate(timeout=60)
    assert process.returncode == 130
    descendants = [int(path.read_text()) for path in tmp_path.glob("outputs/sweeps/*/jobs/*/descendant")]
    wait_until(lambda: all(is_gone(pid) for pid in [*waiting(tmp_path), *descendants]))
    [status] = tmp_path.glob("outputs/sweeps/*/jobs/*/status.json")
    assert json.loads(status.read_text())["status"] == "KILLED"


def test_a_killed_sweep_takes_its_jobs_along_and_resumes(background: Background, tmp_path: Path, sweep: Sweep) -> None:
    process = background("wait_for_stop", "stm.threshold=1,2")
    wait_until(lambda: len(waiting(tmp_path)) == 1)
    process.kill()
    process.communicate()
    assert list(states().values()) == ["RUNNING", "PENDING", "PENDING"]
    # The orphan stops by itself; the resumed job waits for its folder meanwhile.
    assert sweep("finish", "sweep.resume=latest", "stm.threshold=1,2") == 0
    assert all(is_gone(pid) for pid in waiting(tmp_path))
    assert set(states().values()) == {"FINISHED"}


def test_a_running_sweep_cannot_be_resumed_beside_itself(
    background: Background, tmp_path: Path, sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    process = background("wait_for_stop", "stm.threshold=1")
    wait_until(lambda: len(waiting(tmp_path)) == 1)
    assert sweep("finish", "sweep.resume=latest") == 1
    assert "run by another process" in capsys.readouterr().err
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_each_job_sees_its_own_gpu(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_driver(tmp_path / "bin", "GPU-a", "GPU-b")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("TOKENSIEVE_SLOTS", str(tmp_path / "locks"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert sweep("show_devices", "stm.threshold=1,2,3,4", "sweep.workers=auto") == 0
    seen = [path.read_text() for path in tmp_path.glob("outputs/sweeps/*/jobs/*/devices")]
    assert set(seen) == {"GPU-a", "GPU-b"}
    assert len(seen) == 5
    assert not (tmp_path / "held-GPU-a").exists()


def test_a_sweep_waits_for_a_gpu_that_another_uses(
    background: Background, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_driver(tmp_path / "bin", "GPU-a")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("TOKENSIEVE_SLOTS", str(tmp_path / "locks"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    from tokensieve.config import RunConfig

    other = Slots(["GPU-a"], folder=tmp_path / "locks")
    lease = other.take(RunConfig())
    assert lease is not None
    process = background("show_devices", "stm.threshold=1,2", "sweep.controls=[]")
    assert process.stdout is not None
    lines = []
    while not lines or "waiting for 1 of the visible GPUs" not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], lines
    assert starts(tmp_path) == 0
    other.give_back(lease)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "waiting" not in rest
    assert starts(tmp_path) == 2


HEADLINE = ("variant=ground_truth,self_output,rephrase", "noise.ratio=0,0.3,0.5,0.7", "seed=1,2,3")


def test_combinations_that_a_rule_refuses_are_left_out(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("finish", *HEADLINE) == 0
    said = capsys.readouterr().out
    [line] = [line for line in said.splitlines() if line.startswith("left out")]
    assert line.startswith(
        "left out 9 of 36 combinations (variant=self_output noise.ratio=0.3,0.5,0.7 seed=1,2,3): noise"
    )
    assert "Remedy: set noise.ratio=0, or choose a variant that reads the responses" in line
    values = manifest()
    assert [job["state"] for job in values["jobs"]] == ["FINISHED"] * 27
    assert len(values["left_out"]) == 9
    assert values["left_out"][0]["overrides"] == ["variant=self_output", "noise.ratio=0.3", "seed=1", "tracking=none"]
    assert "would be lost" in values["left_out"][0]["reason"]
    assert sweep("finish", "sweep.resume=latest") == 0
    assert len(manifest()["left_out"]) == 9


def test_a_sweep_of_nothing_but_refused_combinations_is_refused(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("finish", "variant=self_output", "noise.ratio=0.3,0.5") == 1
    assert "job 1 of 2 (variant=self_output noise.ratio=0.3 tracking=none)" in capsys.readouterr().err
    assert not Path("outputs").exists()


def test_any_other_fault_still_refuses_the_sweep(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("finish", "variant=self_output,ground_truth", "noise.ratio=0.3,2") == 1
    assert "noise.ratio" in capsys.readouterr().err
    assert not Path("outputs").exists()


def test_a_search_goes_on_where_a_rule_refuses_a_trial(sweep: Sweep) -> None:
    search = [
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=8",
        "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.max_failure_rate=1",
    ]
    space = ["variant=choice(ground_truth,self_output)", "noise.ratio=0.3", "+hydra.sweeper.sampler.seed=1"]
    assert sweep("finish", *search, *space) == 0
    values = manifest()
    assert {job["name"].split("/")[2] for job in values["jobs"]} == {"ground_truth"}
    assert 0 < len(values["jobs"]) < 8
    assert [item["overrides"][0] for item in values["left_out"]] == ["variant=self_output"]  # told once


def test_a_perplexity_of_the_harness_is_in_no_mean_of_points() -> None:
    result = fake_sweep.result_of(fake_sweep.job(["stm.threshold=2.5"]))
    worse = [
        dataclasses.replace(result.evals[0], task="lm_eval.wikitext", item_ids=[], item_scores=[], value=value)
        for value in (30.0, 33.0)
    ]
    both = dataclasses.replace(result, base_evals=[*result.base_evals, worse[0]], evals=[*result.evals, worse[1]])
    assert key_scores(both) == key_scores(result)
    metrics = evaluation_metrics(both.base_evals, both.evals, both.target_task)
    assert metrics["eval/lm_eval.wikitext/accuracy"] == 33.0
    assert "eval/lm_eval.wikitext/delta_points" not in metrics


@pytest.mark.parametrize(
    ("fit", "shown"),
    [
        ({"train/nll": 0.4, "val/nll": 1.0, "val/nll_kept": 0.7}, {"val/nll_kept": 0.7}),
        ({"train/nll": 0.4, "val/nll": 1.0, "val/nll_kept": math.nan}, {"val/nll": 1.0}),  # the rule keeps none of it
        ({"train/nll": 0.4}, {"train/nll": 0.4}),  # no validation split
        ({}, {}),
    ],
)
def test_the_end_of_a_job_tells_the_nll_that_there_is(fit: dict[str, float], shown: dict[str, float]) -> None:
    result = dataclasses.replace(fake_sweep.result_of(fake_sweep.job(["stm.threshold=2.5"])), fit=fit)
    assert {key: value for key, value in key_scores(result).items() if key.endswith(("nll", "nll_kept"))} == shown
