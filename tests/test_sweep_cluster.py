"""Sweeps on clusters: a scripted one, submitit's local processes, a Slurm of one machine, and a real local Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fake_slurm
import pytest
from sweeping import Background, Sweep, is_gone, manifest, starts, states, sweep_here, wait_until, waiting

from tokensieve.config import LauncherConfig, RunConfig, TrainerConfig
from tokensieve.errors import ConfigError, SweepError
from tokensieve.sweep import on_slurm
from tokensieve.sweep.cluster import ClusterPool, count_gpus, count_ranks
from tokensieve.sweep.events import Ended
from tokensieve.sweep.execution import plan_execution
from tokensieve.sweep.job import JobSpec, Outcome
from tokensieve.sweep.on_slurm import SlurmCluster
from tokensieve.sweep.remote import MARK, RemoteJob

ROOT = Path(__file__).parents[1]
LOCAL = ("launcher=slurm", "launcher.cluster=local")


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sweep:
    return sweep_here(monkeypatch, tmp_path)


# A cluster that does what the test says.


@dataclass
class Scripted:
    """Cluster and handles in one. `outcomes`: job id -> what it came to."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    batches: list[list[str]] = field(default_factory=list)
    cancelled: list[tuple[str, bool]] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    on_look: Callable[[str], None] = lambda job_id: None
    poll_seconds: float = 0.01

    def submit(self, jobs: Sequence[RemoteJob]) -> list[Handle]:
        self.batches.append([job.spec.job_id for job in jobs])
        return [Handle(self, job.spec.job_id) for job in jobs]

    def adopt(self, job: RemoteJob, place: str) -> Handle | None:
        return Handle(self, job.spec.job_id) if place == "known" else None

    def cancel(self, handles: Sequence[Any], *, force: bool) -> None:
        self.cancelled += [(handle.job_id, force) for handle in handles]

    def close(self) -> None:
        pass


class Handle:
    def __init__(self, cluster: Scripted, job_id: str) -> None:
        self.cluster, self.job_id, self.place, self.requeued = cluster, job_id, f"place/{job_id}", False

    def look(self) -> Outcome | None:
        self.cluster.on_look(self.job_id)
        return self.cluster.outcomes.get(self.job_id)

    def is_requeued(self) -> bool:
        return False


@dataclass
class Heard:
    """Events, in their order."""

    events: list[str] = field(default_factory=list)

    def waits(self, reason: str) -> None:
        self.events.append(f"waits {reason}")

    def submitted(self, places: Sequence[tuple[JobSpec, str]]) -> None:
        self.events += [f"submitted {spec.job_id} {place}" for spec, place in places]

    def started(self, spec: JobSpec, host: str | None = None, restarts: int = 0) -> None:
        self.events.append(f"started {spec.job_id} {host} {restarts}")

    def preempted(self, spec: JobSpec) -> None:
        self.events.append(f"preempted {spec.job_id}")

    def ended(self, job: Ended) -> None:
        state = "killed" if job.outcome.killed else "failed" if job.outcome.error else "finished"
        self.events.append(f"{state} {job.spec.job_id}")


def jobs(folder: Path, *ids: str) -> list[RemoteJob]:
    return [RemoteJob(JobSpec(name, name, RunConfig(), folder / name), str(folder)) for name in ids]


def mark(folder: Path, attempt: int, state: str = "RUNNING") -> None:
    (folder / MARK).write_text(json.dumps({"attempt": attempt, "state": state, "host": "n1"}))


def run(
    cluster: Scripted,
    heard: Heard,
    todo: Sequence[RemoteJob],
    *,
    earlier: Mapping[str, str] | None = None,
    parallel: int | None = None,
    may_go_on: Callable[[], bool] = lambda: True,
) -> None:
    ClusterPool(cluster, heard, parallel=parallel, stop_seconds=0.05).run(todo, earlier or {}, may_go_on)


def test_job_that_its_cluster_stops_runs_again(tmp_path: Path) -> None:
    cluster, heard = Scripted(), Heard()
    steps = iter([lambda: mark(tmp_path / "a", 1), lambda: None, lambda: mark(tmp_path / "a", 1, "PREEMPTED"),
                  lambda: None, lambda: mark(tmp_path / "a", 2), lambda: cluster.outcomes.update(a=Outcome(1.0))])  # fmt: skip
    cluster.on_look = lambda job_id: next(steps)()
    run(cluster, heard, jobs(tmp_path, "a"))
    assert heard.events == ["submitted a place/a", "started a n1 0", "preempted a", "started a n1 1", "finished a"]


def test_mark_of_an_earlier_run_is_no_start(tmp_path: Path) -> None:
    cluster, heard = Scripted({"a": Outcome(error="lost")}), Heard()
    (tmp_path / "a").mkdir()
    mark(tmp_path / "a", 3)
    run(cluster, heard, jobs(tmp_path, "a"))
    assert heard.events == ["submitted a place/a", "failed a"]


def test_parallel_bounds_what_is_submitted(tmp_path: Path) -> None:
    cluster = Scripted({name: Outcome(1.0) for name in "abcde"})
    run(cluster, Heard(), jobs(tmp_path, *"abcde"), parallel=2)
    assert cluster.batches == [["a", "b"], ["c", "d"], ["e"]]


def test_jobs_that_still_run_are_found_again(tmp_path: Path) -> None:
    cluster, heard = Scripted({name: Outcome(1.0) for name in "ab"}), Heard()
    run(cluster, heard, jobs(tmp_path, "a", "b"), earlier={"a": "known", "b": "forgotten"})
    assert cluster.batches == [["b"]]
    assert sorted(heard.events) == ["finished a", "finished b", "submitted b place/b"]


def test_too_many_failures_cancel_the_others(tmp_path: Path) -> None:
    cluster, heard = Scripted({"a": Outcome(error="bad")}), Heard()
    run(cluster, heard, jobs(tmp_path, "a", "b", "c"), parallel=2, may_go_on=lambda: "failed a" not in heard.events)
    assert cluster.cancelled == [("b", False), ("b", True)]
    assert heard.events == ["submitted a place/a", "submitted b place/b", "failed a", "killed b"]


def test_a_fault_of_the_sweep_leaves_nothing_in_the_cluster(tmp_path: Path) -> None:
    cluster, heard = Scripted({"a": Outcome(1.0)}), Heard()

    def break_down() -> bool:
        raise SweepError("sweep.json", "must be writable")

    with pytest.raises(SweepError):
        run(cluster, heard, jobs(tmp_path, "a", "b"), may_go_on=break_down)
    assert cluster.cancelled == [("b", True)]


# What a job asks for.


def asking(launcher: dict[str, Any], **trainer: Any) -> RunConfig:
    return RunConfig(
        launcher=LauncherConfig(**launcher),
        trainer=TrainerConfig(**{"micro_batch_size": 1, "batch_size": 64} | trainer),
    )


def test_gpus_and_tasks_of_a_job() -> None:
    assert count_gpus(asking({"name": "slurm"})) == 1
    assert count_gpus(asking({"name": "slurm"}, accelerator="cpu")) == 0
    assert count_gpus(asking({"name": "slurm"}, devices=4)) == 4
    assert count_gpus(asking({"name": "slurm", "gpus": 8}, devices="auto")) == 8
    assert count_ranks(asking({"name": "slurm"}, devices=4)) == 1  # it starts its ranks itself
    assert count_ranks(asking({"name": "slurm"}, devices=4, num_nodes=2)) == 8
    assert count_ranks(asking({"name": "slurm", "gpus": 8}, devices="auto", num_nodes=2)) == 16


@pytest.mark.parametrize(
    ("launcher", "trainer", "key"),
    [
        ({"name": "slurm"}, {"devices": "auto"}, r"trainer\.devices: auto counts"),
        ({"name": "ray"}, {"num_nodes": 2}, r"trainer\.num_nodes: above 1 needs launcher=slurm"),
        ({"name": "slurm", "cluster": "local"}, {"num_nodes": 2}, r"trainer\.num_nodes"),
    ],
)
def test_jobs_that_could_never_start_are_refused(launcher: dict[str, Any], trainer: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        plan_execution([asking(launcher, **trainer)], preload=(), grace_seconds=1)


@pytest.mark.parametrize(
    ("values", "key"),
    [({"timeout_minutes": 0}, "timeout_minutes"), ({"requeues": -1}, "requeues"), ({"gpus": -1}, "gpus"),
     ({"cpus": 0}, "cpus"), ({"parallel": 0}, "parallel"), ({"memory_gb": 0.0}, "memory_gb"),
     ({"name": "slurm", "timeout_minutes": 1, "signal_seconds": 60}, "signal_seconds")],
)  # fmt: skip
def test_schema_refuses(values: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^launcher\.{key}"):
        LauncherConfig(**values)


# submitit's local processes: every fate of a job, as with the local launcher.


def test_submitit_runs_each_job_with_the_same_records(sweep: Sweep, capfd: pytest.CaptureFixture[str]) -> None:
    assert sweep("by_threshold", *LOCAL, "stm.threshold=1,2,6") == 1
    values = manifest()
    assert {job["name"].split("/")[3]: job["error"] for job in values["jobs"]} == {
        "stm=1": "ValueError: a defect over two lines",
        "stm=2": "died by SIGKILL: out of memory, or killed by somebody",
        "stm=6": None,
        "unmasked": None,
    }
    assert all("/" in job["cluster_job"] for job in values["jobs"])
    [folder] = Path("outputs/sweeps").iterdir()
    for job in values["jobs"]:
        status = json.loads((folder / job["dir"] / "status.json").read_text())
        assert status["status"] == job["state"]
        if job["state"] == "FINISHED":
            log = (folder / job["dir"] / "log.txt").read_text()
            assert all(line in log for line in ("to stdout", "to stderr", "to the descriptor"))
    output = capfd.readouterr()
    assert "4 jobs submitted" in output.out
    assert "to stdout" not in output.out
    assert "To resume:" in output.out
    assert (folder / "closed").read_text() == "FAILED True"
    assert sweep("finish", "sweep.resume=latest", "launcher=local") == 0  # another launcher may go on
    assert set(states().values()) == {"FINISHED"}
    assert starts() == 4


def test_ctrl_c_cancels_the_cluster_and_the_sweep_resumes(background: Background, tmp_path: Path, sweep: Sweep) -> None:
    process = background("wait_for_stop", *LOCAL, "stm.threshold=1,2", "launcher.parallel=1")
    wait_until(lambda: len(waiting(tmp_path)) == 1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 130, output
    assert list(states().values()) == ["KILLED", "PENDING", "PENDING"]
    assert "sweep.resume=" in output
    assert sweep("finish", *LOCAL, "sweep.resume=latest") == 0
    assert set(states().values()) == {"FINISHED"}


def test_a_job_behind_setup_commands_hears_ctrl_c(background: Background, tmp_path: Path) -> None:
    process = background("wait_for_stop", *LOCAL, "launcher.setup=['true']", "stm.threshold=1", "sweep.controls=[]")
    wait_until(lambda: len(waiting(tmp_path)) == 1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 130, output
    wait_until(lambda: all(is_gone(pid) for pid in waiting(tmp_path)))


def test_local_jobs_of_a_killed_sweep_end_when_it_goes_on(background: Background, tmp_path: Path, sweep: Sweep) -> None:
    process = background("wait_for_stop", *LOCAL, "stm.threshold=1", "sweep.controls=[]")
    wait_until(lambda: len(waiting(tmp_path)) == 1 and "RUNNING" in states(tmp_path).values())
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()  # not read to its end: the job has it, too
    [left] = waiting(tmp_path)
    assert not is_gone(left)  # submitit's controller outlives its parent
    assert sweep("finish", "launcher=local", "sweep.resume=latest") == 0
    assert is_gone(left)
    assert set(states().values()) == {"FINISHED"}


# A Slurm of one machine: submitit's own executor, with its sbatch script, its signals and its requeues.


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake_slurm.install(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{tmp_path / 'slurm'}:{os.environ['PATH']}")
    return tmp_path / "slurm"


def test_slurm_gets_one_array_with_what_the_launcher_says(slurm: Path, sweep: Sweep) -> None:
    options = ["launcher=slurm", "launcher.partition=gpu", "launcher.timeout_minutes=90", "launcher.cpus=3",
               "launcher.parallel=2", "+launcher.options.mail-type=FAIL", "launcher.setup=['export FROM_SETUP=1']"]  # fmt: skip
    assert sweep("finish", *options, "stm.threshold=1,2,3", "sweep.controls=[]") == 0
    assert set(states().values()) == {"FINISHED"}
    script = (slurm / "sbatch.log").read_text()
    assert script.count("#!/bin/bash") == 2  # a first array of two, and the rest
    for line in ("--array=0-1%2", "--partition=gpu", "--time=90", "--cpus-per-task=3", "--mail-type=FAIL",
                 "--gpus-per-node=1", "--signal=USR2@120", "export FROM_SETUP=1"):  # fmt: skip
        assert line in script
    [folder] = Path("outputs/sweeps").iterdir()
    traces = [path.read_text().split() for path in folder.glob("jobs/*/starts")]
    assert {trace[2] for trace in traces} == {"3"}  # threads


def test_what_was_queued_before_a_refusal_is_cancelled(
    slurm: Path, sweep: Sweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = SlurmCluster._submit_array, []

    def refuse_the_second(self: Any, jobs: Any, *needs: Any) -> Any:
        calls.append(len(jobs))
        if len(calls) > 1:
            raise SweepError("launcher", "the cluster refused the jobs")
        return real(self, jobs, *needs)

    monkeypatch.setattr(SlurmCluster, "_submit_array", refuse_the_second)
    monkeypatch.setattr(on_slurm, "_LARGEST_ARRAY", 1)
    (slurm / "full").touch()
    assert sweep("finish", "launcher=slurm", "stm.threshold=1,2", "sweep.controls=[]") == 1
    assert "the cluster refused the jobs" in capsys.readouterr().err
    assert (slurm / "scancel.log").read_text().startswith("100")


def test_jobs_in_slurm_are_cancelled_when_the_sweep_goes_on_here(
    slurm: Path, background: Background, tmp_path: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    (slurm / "full").touch()
    process = background("finish", "launcher=slurm", "stm.threshold=1", "sweep.controls=[]")
    wait_until(lambda: any(tmp_path.glob("outputs/sweeps/*/sweep.json")) and "SUBMITTED" in states(tmp_path).values())
    process.kill()
    process.communicate()
    assert sweep("finish", "launcher=local", "sweep.resume=latest") == 0
    assert (slurm / "scancel.log").read_text().startswith("100")
    assert starts() == 1


def test_places_are_adopted_by_their_own_kind_alone(slurm: Path, tmp_path: Path) -> None:
    """A process of another machine's local sweep must not be taken for the Slurm job of that number."""
    cluster = SlurmCluster(LauncherConfig(name="slurm"), tmp_path / "cluster")
    [job] = jobs(tmp_path, "a")
    assert cluster.adopt(job, "local/2026-01-01_00-00-00-7/999999999") is None
    assert cluster.adopt(job, "ray/c8ef45cc") is None
    assert not (slurm / "scancel.log").exists()
    assert cluster.adopt(job, "slurm/2026-01-01_00-00-00-7/4567") is None  # unknown there, but it may wait
    assert "4567" in (slurm / "scancel.log").read_text()


def test_job_at_its_time_limit_is_queued_again(
    slurm: Path, background: Background, tmp_path: Path, sweep: Sweep
) -> None:
    process = background("wait_for_stop", "launcher=slurm", "stm.threshold=1", "sweep.controls=[]")
    wait_until(lambda: len(waiting(tmp_path)) == 1)
    [place] = tmp_path.glob("outputs/sweeps/*/jobs/*/place.json")
    (slurm / "full").touch()
    os.kill(json.loads(place.read_text())["process"], signal.SIGUSR2)  # as Slurm does before the limit
    wait_until(lambda: set(states(tmp_path).values()) == {"PREEMPTED"})
    (slurm / "full").unlink()
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert "was stopped by the cluster, and is queued again" in output
    [job] = manifest(tmp_path)["jobs"]
    assert (job["state"], job["restarts"]) == ("FINISHED", 1)


def test_jobs_outlive_a_killed_sweep_and_are_found_again(
    slurm: Path, background: Background, tmp_path: Path, sweep: Sweep, capfd: pytest.CaptureFixture[str]
) -> None:
    process = background("wait_for_release", "launcher=slurm", "stm.threshold=1,2", "sweep.controls=[]")
    wait_until(lambda: len(waiting(tmp_path)) == 2)
    wait_until(lambda: set(states(tmp_path).values()) == {"RUNNING"})
    process.kill()
    process.communicate()
    (tmp_path / "release").touch()
    assert sweep("wait_for_release", "sweep.resume=latest") == 0
    assert set(states().values()) == {"FINISHED"}
    assert starts() == 2
    assert "submitted" not in capfd.readouterr().out


def test_ctrl_c_cancels_what_waits_and_what_runs(slurm: Path, background: Background, tmp_path: Path) -> None:
    process = background("wait_for_stop", "launcher=slurm", "stm.threshold=1", "sweep.controls=[]")
    wait_until(lambda: len(waiting(tmp_path)) == 1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 130, output
    assert set(states(tmp_path).values()) == {"KILLED"}
    [status] = tmp_path.glob("outputs/sweeps/*/jobs/*/status.json")
    assert json.loads(status.read_text())["status"] == "KILLED"
    assert (slurm / "scancel.log").read_text().startswith("100")


def test_jobs_that_wait_are_cancelled_too(slurm: Path, background: Background, tmp_path: Path) -> None:
    (slurm / "full").touch()
    process = background("finish", "launcher=slurm", "stm.threshold=1,2", "sweep.controls=[]")
    wait_until(lambda: any(tmp_path.glob("outputs/sweeps/*/sweep.json")) and "SUBMITTED" in states(tmp_path).values())
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 130, output
    assert set(states(tmp_path).values()) == {"KILLED"}
    assert starts(tmp_path) == 0


def test_refused_submission_is_one_line(slurm: Path, sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("finish", "launcher=slurm", "launcher.partition=closed", "stm.threshold=1") == 1
    assert "launcher: the cluster refused the jobs; received" in (said := capsys.readouterr()).err
    assert "invalid partition" in said.err
    assert "sweep.resume=" in said.out


def test_machine_without_slurm(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("finish", "launcher=slurm", "stm.threshold=1") == 1
    assert "launcher: slurm submits from a machine that has srun" in capsys.readouterr().err
    assert not Path("outputs").exists()


def test_ranks_over_nodes_are_started_by_slurm(slurm: Path, sweep: Sweep) -> None:
    nodes = ["launcher=slurm", "trainer.num_nodes=2", "trainer.strategy=ddp", "trainer.micro_batch_size=4"]
    assert sweep("note_rank", *nodes, "stm.threshold=1,2", "sweep.controls=[]") == 0
    [folder] = Path("outputs/sweeps").iterdir()
    for job in manifest()["jobs"]:
        assert sorted(path.read_text() for path in (folder / job["dir"]).glob("rank-*")) == ["0 of 2", "1 of 2"]
        assert (folder / job["dir"] / "log-rank1.txt").exists()


def test_rank_that_fails_fails_its_job(slurm: Path, sweep: Sweep) -> None:
    nodes = ["launcher=slurm", "trainer.num_nodes=2", "trainer.strategy=ddp", "trainer.micro_batch_size=4"]
    assert sweep("fail_on_rank_1", *nodes, "stm.threshold=1", "sweep.controls=[]") == 1
    [job] = manifest()["jobs"]
    assert job["state"] == "FAILED"
    assert "rank 1: " in job["error"]
    assert "no use" in job["error"]


# Ray.


def test_ray_runs_each_job_with_the_same_records(sweep: Sweep, capfd: pytest.CaptureFixture[str]) -> None:
    assert sweep("by_threshold", "launcher=ray", "trainer=cpu", "stm.threshold=1,2,6", "sweep.controls=[]") == 1
    assert {job["name"].split("/")[3]: job["error"] for job in manifest()["jobs"]} == {
        "stm=1": "ValueError: a defect over two lines",
        "stm=2": "died by SIGKILL: out of memory, or killed by somebody",
        "stm=6": None,
    }
    assert "3 jobs submitted" in capfd.readouterr().out
    assert sweep("finish", "launcher=local", "sweep.resume=latest") == 0
    assert set(states().values()) == {"FINISHED"}


def test_ctrl_c_cancels_tasks_of_ray(background: Background, tmp_path: Path) -> None:
    process = background("wait_for_stop", "launcher=ray", "trainer=cpu", "stm.threshold=1", "sweep.controls=[]")
    wait_until(lambda: len(waiting(tmp_path)) == 1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 130, output
    assert set(states(tmp_path).values()) == {"KILLED"}
    [status] = tmp_path.glob("outputs/sweeps/*/jobs/*/status.json")
    assert json.loads(status.read_text())["status"] == "KILLED"


def test_ray_of_this_machine_refuses_what_it_cannot_hold(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("finish", "launcher=ray", "trainer=cpu", "launcher.memory_gb=99999", "stm.threshold=1") == 1
    assert "launcher.memory_gb: must be at most the " in capsys.readouterr().err
    assert sweep("finish", "launcher=ray", "trainer=cpu", "launcher.cpus=999", "stm.threshold=1") == 1
    assert "launcher.cpus: must be at most" in capsys.readouterr().err


# The whole pipeline on the lab's model: each launcher, the same runs.

TINY = ["stm.threshold=1.5,4", "sweep.controls=[]", "trainer=cpu", "trainer.max_steps=2", "dataset.num_train=24",
        "eval.tasks=[]", "eval.num_items=4", "eval.max_new_tokens=8"]  # fmt: skip


def run_tiny(folder: Path, *launcher: str) -> dict[str, dict[str, Any]]:
    """Arm -> result.json of a sweep of two jobs."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "-m", *TINY, *launcher],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(path.read_text()) for path in folder.glob("outputs/sweeps/*/jobs/*/result.json")]
    return {result["name"].split("/")[3]: result for result in results}


@pytest.fixture(scope="module")
def at_home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return run_tiny(tmp_path_factory.mktemp("home"), "launcher=local")


@pytest.mark.parametrize("launcher", [LOCAL, ("launcher=ray",)], ids=["submitit", "ray"])
def test_a_cluster_computes_what_this_machine_computes(
    at_home: dict[str, dict[str, Any]], tmp_path: Path, launcher: Sequence[str]
) -> None:
    found = run_tiny(tmp_path, *launcher)
    assert found.keys() == at_home.keys() == {"stm=1.5", "stm=4"}
    for arm, result in found.items():
        assert result["stamps"] == at_home[arm]["stamps"]
        assert result["fit"]["val/nll"] == pytest.approx(at_home[arm]["fit"]["val/nll"], rel=1e-5)
        assert [e["item_scores"] for e in result["evals"]] == [e["item_scores"] for e in at_home[arm]["evals"]]
    assert set(states(tmp_path).values()) == {"FINISHED"}
    children, parent = nesting(tmp_path)
    assert set(children.values()) == {parent}
    assert len(children) == 2


def nesting(folder: Path) -> tuple[dict[str, str], str]:
    """MLflow's runs of the jobs -> the parent that they name; and the sweep's parent run."""
    import sqlite3

    with sqlite3.connect(folder / "outputs" / "mlflow.db") as store:
        rows = store.execute("SELECT run_uuid, value FROM tags WHERE key = 'mlflow.parentRunId'").fetchall()
    return dict(rows), str(manifest(folder)["mlflow_parent_run_id"])
