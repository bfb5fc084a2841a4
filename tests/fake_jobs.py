"""Bodies of jobs for the tests of the sweep: `hydra.launcher.job=fake_jobs:<name>`. They run in milliseconds."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from tokensieve.errors import TrainingError
from tokensieve.sweep.job import JobSpec, Outcome


def finish(spec: JobSpec) -> Outcome:
    """Leave a trace of every start; the objective is the learning rate."""
    write_status(spec, "RUNNING")
    with (spec.folder / "starts").open("a") as stream:
        stream.write(f"{os.getpid()} {spec.config.run_name} {spec.threads} {spec.parent_run_id}\n")
    print("to stdout")
    print("to stderr", file=sys.stderr)
    os.write(1, b"to the descriptor\n")
    write_status(spec, "FINISHED")
    return Outcome(spec.config.optim.lr, {"lab_code": 0.5})


def by_threshold(spec: JobSpec) -> Outcome:
    """What happens depends on the threshold, so that one sweep holds every fate."""
    threshold = spec.config.stm.threshold if spec.config.stm.rule != "none" else 0.0
    if threshold == 1:
        raise ValueError("a defect\nover two lines")
    if threshold == 2:
        write_status(spec, "RUNNING")
        os.kill(os.getpid(), signal.SIGKILL)
    if threshold == 3:
        sys.exit(0)
    if threshold == 4:
        os._exit(0)
    if threshold == 5:
        raise TrainingError("loss", "must be finite", received="nan at step 7")
    return finish(spec)


def fail_first_time(spec: JobSpec) -> Outcome:
    """Fails at the first start of each job, but for the unmasked ones."""
    if spec.config.stm.rule != "none" and not (spec.folder / "tried").exists():
        (spec.folder / "tried").touch()
        raise RuntimeError("first time")
    return finish(spec)


def wait_for_stop(spec: JobSpec) -> Outcome:
    """Run until SIGTERM, then record KILLED like the pipeline; the unmasked control finishes."""
    if spec.config.stm.rule == "none" or (spec.folder / "killed").exists():
        return finish(spec)
    write_status(spec, "RUNNING")
    try:
        (spec.folder / "waiting").write_text(str(os.getpid()))
        time.sleep(600)
    except KeyboardInterrupt:
        write_status(spec, "KILLED")
        (spec.folder / "killed").touch()
        raise
    return finish(spec)


def ignore_stop(spec: JobSpec) -> Outcome:
    """Run on whatever comes, with a descendant in a process group of its own."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        time.sleep(600)
        os._exit(0)
    (spec.folder / "descendant").write_text(str(child))
    (spec.folder / "waiting").write_text(str(os.getpid()))
    time.sleep(600)
    return finish(spec)


def write_status(spec: JobSpec, status: str) -> None:
    """status.json as the pipeline writes it."""
    values = {"status": status, "job_id": spec.job_id, "name": spec.name, "error": None, "started": None, "stage": None}
    path = Path(spec.folder) / "status.json"
    path.write_text(json.dumps(values))


def by_name(spec: JobSpec) -> Outcome:
    """Threshold 1 waits for the stop, threshold 2 fails."""
    if spec.config.stm.threshold == 1:
        return wait_for_stop(spec)
    raise RuntimeError("fails")


def echo(spec: JobSpec) -> Outcome:
    """Write down some values as the job sees them."""
    config = spec.config
    values = [config.dataset.prompt, config.dataset.response, config.model.name, config.dataset.reference]
    (spec.folder / "echo.json").write_text(json.dumps(values))
    return finish(spec)


def wait_for_release(spec: JobSpec) -> Outcome:
    """Run until a file `release` lies in the sweep's working directory."""
    write_status(spec, "RUNNING")
    (spec.folder / "waiting").write_text(str(os.getpid()))
    while not Path("release").exists():
        time.sleep(0.02)
    return finish(spec)


def note_rank(spec: JobSpec) -> Outcome:
    """Leave a file for each rank of a job that Slurm started on several nodes."""
    from tokensieve.ranks.layout import plan_ranks

    layout = plan_ranks(spec.config)
    assert layout.joined is not None
    (spec.folder / f"rank-{layout.joined.rank}").write_text(f"{layout.joined.rank} of {layout.num_ranks}")
    return finish(spec) if layout.joined.rank == 0 else Outcome()


def fail_on_rank_1(spec: JobSpec) -> Outcome:
    """Rank 1 fails; rank 0 would wait for it for ever."""
    from tokensieve.ranks.layout import find_joined

    joined = find_joined()
    assert joined is not None
    if joined.rank == 1:
        raise RuntimeError("no use")
    time.sleep(600)
    return finish(spec)


def show_devices(spec: JobSpec) -> Outcome:
    """Hold the devices for a moment, and fail where another job has them."""
    devices = os.environ["CUDA_VISIBLE_DEVICES"]
    held = Path(f"held-{devices}")
    held.mkdir()
    time.sleep(0.3)
    held.rmdir()
    (spec.folder / "devices").write_text(devices)
    return finish(spec)
