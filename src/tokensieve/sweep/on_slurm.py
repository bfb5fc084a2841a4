"""Jobs as an array of Slurm, through submitit; or, to try a command out, as submitit's local processes."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import pickle
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from tokensieve.config import LauncherConfig, RunConfig
from tokensieve.errors import ConfigError, SweepError
from tokensieve.sweep.cluster import Handle, count_gpus, describe_failure
from tokensieve.sweep.devices import VISIBLE
from tokensieve.sweep.job import Outcome
from tokensieve.sweep.remote import RemoteJob

# What sacct is asked for again; a job's start is known earlier, by its own mark.
_STATE_SECONDS = 30
# How long a result may take to appear on a shared file system after its job has ended.
_LAG_SECONDS = {"slurm": 20.0, "local": 1.0}
# A job that Slurm took its node from is queued again at once, or not at all.
_REQUEUE_SECONDS = 600.0
_LARGEST_ARRAY = 1000
_IDS_A_COMMAND = 200


def require_slurm(config: LauncherConfig) -> None:
    """Raise a ConfigError where jobs cannot be submitted: before a sweep makes its folder."""
    if importlib.util.find_spec("submitit") is None:
        raise ConfigError("launcher", "slurm needs submitit", remedy="pip install 'tokensieve[cluster]'")
    if config.cluster == "slurm" and shutil.which("srun") is None:
        raise ConfigError(
            "launcher",
            "slurm submits from a machine that has srun and sbatch",
            received="no srun on the PATH",
            remedy="start the sweep on a login node, or try it out here with launcher.cluster=local",
        )


class SlurmCluster:
    """`folder`: what submitit keeps of a sweep; each process that submits has a folder of its own in it."""

    answers_when_stopped = False

    def __init__(self, config: LauncherConfig, folder: Path) -> None:
        import submitit

        self.poll_seconds = 5.0 if config.cluster == "slurm" else 0.2
        self.gives_devices = config.cluster == "slurm"
        self._config = config
        self._parent = folder.absolute()
        self._folder = self._parent / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{os.getpid()}"
        submitit.SlurmJob.watcher = type(submitit.SlurmJob.watcher)(delay_s=_STATE_SECONDS)

    def check(self, configs: Sequence[RunConfig]) -> None:
        """Slurm itself refuses what it could never run, when it is submitted."""

    def environment(self) -> dict[str, str | None]:
        """Slurm hands all of it on; submitit's local executor gives each job the first GPUs, whoever has them."""
        return {} if self._config.cluster == "slurm" else {VISIBLE: os.environ.get(VISIBLE)}

    def submit(self, jobs: Sequence[RemoteJob]) -> list[Handle]:
        handles: dict[str, Handle] = {}
        try:
            for needs, group in itertools.groupby(sorted(jobs, key=_needs), key=_needs):
                alike = list(group)
                for start in range(0, len(alike), _LARGEST_ARRAY):
                    part = alike[start : start + _LARGEST_ARRAY]
                    for job, submitted in zip(part, self._submit_array(part, *needs), strict=True):
                        handles[job.spec.job_id] = _SlurmHandle(submitted, self._folder.name, self._config.cluster)
        except BaseException:
            self.cancel(list(handles.values()), force=False)  # nobody would know of those that are queued already
            raise
        return [handles[job.spec.job_id] for job in jobs]

    def _submit_array(self, jobs: Sequence[RemoteJob], nodes: int, tasks_per_node: int, gpus: int) -> Sequence[Any]:
        import submitit

        config = self._config
        executor = submitit.AutoExecutor(
            folder=self._folder,
            cluster=config.cluster,
            slurm_max_num_timeout=config.requeues,
            local_max_num_timeout=config.requeues,
        )
        executor.update_parameters(
            name="tokensieve",
            timeout_min=config.timeout_minutes,
            nodes=nodes,
            tasks_per_node=tasks_per_node,
            gpus_per_node=gpus or None,
            cpus_per_task=config.cpus,
            mem_gb=config.memory_gb,
            local_setup=list(config.setup) or None,
            slurm_setup=list(config.setup) or None,
            slurm_partition=config.partition,
            slurm_account=config.account,
            slurm_qos=config.qos,
            slurm_constraint=config.constraint,
            slurm_signal_delay_s=config.signal_seconds,
            slurm_array_parallelism=config.parallel or len(jobs),
            slurm_additional_parameters=_flags(config.options) or None,
            slurm_srun_args=["--kill-on-bad-exit=1"],  # a rank that fails must not leave the others waiting
        )
        try:
            return executor.submit_array(list(jobs))
        except (OSError, subprocess.SubprocessError, RuntimeError) as error:
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            remedy = "correct the options of launcher, and resume"
            raise SweepError("launcher", "the cluster refused the jobs", received=lines[-1], remedy=remedy) from error

    def adopt(self, job: RemoteJob, place: str) -> Handle | None:
        import submitit

        kind, _, within = place.partition("/")
        name, _, job_id = within.partition("/")
        if kind != "slurm" or self._config.cluster != "slurm":
            end_earlier([place])
            return None
        found: Any = submitit.SlurmJob(self._parent / name, job_id, tasks=list(range(job.num_ranks)))
        handle = _SlurmHandle(found, name, "slurm")
        if handle.has_result() or (found.state != "UNKNOWN" and not found.watcher.is_done(job_id, mode="cache")):
            return handle
        end_earlier([place])  # what Slurm cannot tell of may wait all the same
        return None

    def cancel(self, handles: Sequence[Handle], *, force: bool) -> None:
        ids = [handle.place.rpartition("/")[2] for handle in handles]
        if self._config.cluster == "slurm":
            _cancel(ids, force=force)
            return
        for number in map(int, ids):
            with contextlib.suppress(psutil.Error):
                if force:
                    _kill_tree(psutil.Process(number))
                else:
                    _terminate(psutil.Process(number))

    def close(self) -> None:
        """Nothing is open between two commands."""


def end_earlier(places: Sequence[str]) -> None:
    """Cancel jobs that an earlier command submitted and that this one will run in another way.

    Raises:
        SweepError: they are Slurm's, and this machine cannot cancel them.
    """
    parts = [place.split("/") for place in places]
    if queued := [job_id for kind, *_, job_id in parts if kind == "slurm"]:
        if shutil.which("scancel") is None:
            raise SweepError(
                "launcher",
                "jobs of this sweep may still wait in Slurm",
                received=", ".join(queued[:6]),
                remedy="resume on a machine that has scancel, or with launcher=slurm on a login node",
            )
        _cancel(queued, force=False)
    for _, folder, job_id in (found for found in parts if found[0] == "local"):
        with contextlib.suppress(psutil.Error):
            controller = psutil.Process(int(job_id))
            if any(folder in word for word in (*controller.cmdline(), *controller.environ().values())):
                _kill_tree(controller)


def _cancel(ids: Sequence[str], *, force: bool) -> None:
    command = ["scancel", *(["--full", "--signal=KILL"] if force else [])]
    for start in range(0, len(ids), _IDS_A_COMMAND):
        subprocess.run([*command, *ids[start : start + _IDS_A_COMMAND]], capture_output=True, check=False)


def _terminate(controller: psutil.Process) -> None:
    """Ask submitit's controller of a local job to stop; after `launcher.setup` it is the child of a shell."""
    inner = controller.children() if controller.name() in ("sh", "bash", "dash") else []
    for process in (*inner, controller):
        process.terminate()


def _kill_tree(process: psutil.Process) -> None:
    doomed = process.children(recursive=True)
    for one in (process, *doomed):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def _flags(options: Mapping[str, str]) -> dict[str, str | bool]:
    """Options of sbatch; one that is `true` is written without a value."""
    return {key: True if value == "true" else value for key, value in options.items()}


def _needs(job: RemoteJob) -> tuple[int, int, int]:
    nodes = job.spec.config.trainer.num_nodes
    return nodes, job.num_ranks // nodes if job.num_ranks > 1 else 1, count_gpus(job.spec.config)


class _SlurmHandle:
    def __init__(self, job: Any, folder: str, cluster: str) -> None:
        self.place = f"{cluster}/{folder}/{job.job_id}"
        self._job = job
        self._is_slurm = cluster == "slurm"
        self._lag_seconds = _LAG_SECONDS[cluster]
        self._over_since: float | None = None
        self._preempted_since: float | None = None

    def has_result(self) -> bool:
        return bool(self._job.task(0).paths.result_pickle.exists())

    def look(self) -> Outcome | None:
        if self.has_result() and (self._is_slurm or self._job.done()):  # a local process must be waited for
            return self._read(0)
        now = time.monotonic()
        if str(self._job.state).upper() == "PREEMPTED":  # which submitit never takes for an end
            self._preempted_since = self._preempted_since or now
        else:
            self._preempted_since = None
        is_lost = self._preempted_since is not None and now - self._preempted_since > _REQUEUE_SECONDS
        if not is_lost and not self._job.done():
            self._over_since = None
            return None
        self._over_since = self._over_since or now
        outcome = self._read_failed_rank() or self._read_cancelled()
        if outcome is None and (is_lost or now - self._over_since >= self._lag_seconds):
            how = f"ended without a result, as {self._job.state}"
            outcome = describe_failure(how, self._job.task(0).paths.stderr)
        return outcome

    def is_requeued(self) -> bool:
        return str(self._job.state).upper() in ("REQUEUED", "PREEMPTED")

    def _read_failed_rank(self) -> Outcome | None:
        """The error of another rank of the job, which ended the first."""
        for rank in range(1, self._job.num_tasks):
            if self._job.task(rank).paths.result_pickle.exists():
                outcome = self._read(rank)
                if outcome.error is not None:
                    return Outcome(error=f"rank {rank}: {outcome.error}", error_type=outcome.error_type)
        return None

    def _read_cancelled(self) -> Outcome | None:
        is_cancelled = self._is_slurm and str(self._job.state).upper().startswith("CANCELLED")
        return Outcome(killed=True, error="cancelled") if is_cancelled else None

    def _read(self, rank: int) -> Outcome:
        path = self._job.task(rank).paths.result_pickle
        try:
            kind, value = pickle.loads(path.read_bytes())
        except Exception as error:  # a damaged file, or an environment that differs from this one
            return describe_failure(f"its result cannot be read: {type(error).__name__}: {error}", path)
        if kind == "success":
            assert isinstance(value, Outcome)
            return value
        last = [line for line in str(value).splitlines() if line.strip()][-1:]
        return Outcome(error=" ".join(last) or "failed before it began", error_type="JobDied", trace=str(value))
