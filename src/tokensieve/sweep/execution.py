"""How the jobs of a sweep are run: by processes of this machine, or by a cluster. All else is the same for both."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from tokensieve.config import RunConfig
from tokensieve.errors import ConfigError
from tokensieve.sweep.cluster import Cluster, ClusterPool, count_gpus, count_ranks
from tokensieve.sweep.devices import find_gpus
from tokensieve.sweep.events import Ended
from tokensieve.sweep.fork_server import ForkServer
from tokensieve.sweep.job import JobSpec
from tokensieve.sweep.ledger import Ledger
from tokensieve.sweep.manifest import FINISHED
from tokensieve.sweep.on_ray import RayCluster, require_ray
from tokensieve.sweep.on_slurm import SlurmCluster, end_earlier, require_slurm
from tokensieve.sweep.parent_run import ParentRun
from tokensieve.sweep.pool import Pool
from tokensieve.sweep.remote import RemoteJob
from tokensieve.sweep.slots import Slots, share_threads
from tokensieve.sweep.terminal import Progress, say

# Beyond the grace of a job: what a cluster takes to pass a signal on, and to say that a job is over.
_CANCEL_SECONDS = 30.0
MayGoOn = Callable[[], bool]


class Execution(Protocol):
    """One of the two ways."""

    def check(self, configs: Sequence[RunConfig]) -> None:
        """Raise a ConfigError for a job that could never start."""

    def describe(self, configs: Sequence[RunConfig]) -> str:
        """Where, and how many at a time, in a few words."""

    def start(self, folder: Path) -> None:
        """Begin what takes time, for the sweep in `folder`."""

    def run(self, specs: Sequence[JobSpec], recorder: JobRecorder, may_go_on: MayGoOn) -> None:
        """Run jobs until all are over; `may_go_on` false stops them. Raises Interrupted after Ctrl-C."""

    def close(self) -> None:
        """The sweep is over."""


def plan_execution(configs: Sequence[RunConfig], preload: tuple[str, ...], grace_seconds: float) -> Execution:
    """The execution that `launcher` asks for; the first of `configs` decides. Starts nothing.

    Raises:
        ConfigError: a job could never start.
    """
    is_local = configs[0].launcher.name == "local"
    execution = _Here(configs, preload, grace_seconds) if is_local else _Elsewhere(configs[0], grace_seconds)
    execution.check(configs)
    return execution


class JobRecorder:
    """Writes down and shows what happens to `total` jobs."""

    def __init__(self, ledger: Ledger, parent: ParentRun, total: int) -> None:
        self.ledger = ledger
        self._parent = parent
        self._progress = Progress(total)

    def waits(self, reason: str) -> None:
        say(reason)

    def submitted(self, places: Sequence[tuple[JobSpec, str]]) -> None:
        self.ledger.submit({spec.job_id: place for spec, place in places})
        say(f"{len(places)} jobs submitted: {places[0][1]}" + (f" to {places[-1][1]}" if len(places) > 1 else ""))

    def started(self, spec: JobSpec, host: str | None = None, restarts: int = 0) -> None:
        self.ledger.start(spec, on_cluster=host is not None, restarts=restarts)
        self._progress.started(spec, host)

    def preempted(self, spec: JobSpec) -> None:
        self.ledger.preempt(spec)
        self._progress.preempted(spec)

    def ended(self, job: Ended) -> None:
        state = self.ledger.end(job.spec, job.outcome)
        if state != FINISHED:
            self._parent.end_child(job.spec.folder, state)
        self._progress.ended(job, state)

    def close(self) -> None:
        self._progress.close()


class _Here:
    """Processes of this machine, forked from a server that has the imports done."""

    def __init__(self, configs: Sequence[RunConfig], preload: tuple[str, ...], grace_seconds: float) -> None:
        gpus = [] if all(config.trainer.accelerator == "cpu" for config in configs) else find_gpus()
        rules = configs[0].sweep
        self._slots = Slots(gpus, workers=rules.workers, jobs_per_device=rules.jobs_per_device)
        self._gpus = gpus
        self._preload = preload
        self._grace_seconds = grace_seconds
        self._server: ForkServer | None = None

    def check(self, configs: Sequence[RunConfig]) -> None:
        self._slots.check(configs)

    def describe(self, configs: Sequence[RunConfig]) -> str:
        on = f" on {len(self._gpus)} GPU{'s'[: len(self._gpus) != 1]}" if self._gpus else ""
        return f"{self._slots.count_at_once(configs)} at a time{on}"

    def start(self, folder: Path) -> None:
        self._server = ForkServer(self._preload)

    def run(self, specs: Sequence[JobSpec], recorder: JobRecorder, may_go_on: MayGoOn) -> None:
        assert self._server is not None
        end_earlier(list(recorder.ledger.find_submitted([spec.job_id for spec in specs]).values()))
        threads = share_threads(self._slots.count_at_once([spec.config for spec in specs]))
        pool = Pool(self._server, self._slots, recorder, grace_seconds=self._grace_seconds)
        pool.run([replace(spec, threads=threads) for spec in specs], may_go_on)

    def close(self) -> None:
        """The fork server ends with this process."""


class _Elsewhere:
    """Jobs of a cluster, which this process only watches."""

    def __init__(self, config: RunConfig, grace_seconds: float) -> None:
        self._config = config.launcher
        self._grace_seconds = grace_seconds
        self._cluster: Cluster | None = None

    def check(self, configs: Sequence[RunConfig]) -> None:
        for config in configs:  # what no machine could run, before what this one lacks
            count_gpus(config)
            nodes = config.trainer.num_nodes
            if nodes > 1 and (self._config.name != "slurm" or self._config.cluster != "slurm"):
                raise ConfigError(
                    "trainer.num_nodes",
                    "above 1 needs launcher=slurm on a Slurm cluster, which starts a job's ranks on each node",
                    received=nodes,
                    remedy="set trainer.num_nodes=1, or use launcher=slurm",
                )
        if self._config.name == "slurm":
            require_slurm(self._config)
        else:
            require_ray()

    def describe(self, configs: Sequence[RunConfig]) -> str:
        bound = f", {self._config.parallel} at a time" if self._config.parallel is not None else ""
        slurm = "on Slurm" if self._config.cluster == "slurm" else "as submitit's local processes"
        return f"{slurm if self._config.name == 'slurm' else 'on Ray'}{bound}"

    def start(self, folder: Path) -> None:
        if self._config.name == "slurm":
            self._cluster = SlurmCluster(self._config, folder / "cluster")
        else:
            self._cluster = RayCluster(self._config)

    def run(self, specs: Sequence[JobSpec], recorder: JobRecorder, may_go_on: MayGoOn) -> None:
        assert self._cluster is not None
        self._cluster.check([spec.config for spec in specs])
        jobs = [
            RemoteJob(
                replace(spec, threads=self._config.cpus),
                os.getcwd(),
                self._cluster.environment(),
                num_ranks=count_ranks(spec.config),
                grace_seconds=self._grace_seconds,
                has_devices=self._cluster.gives_devices,
                answers_when_stopped=self._cluster.answers_when_stopped,
            )
            for spec in specs
        ]
        pool = ClusterPool(
            self._cluster,
            recorder,
            parallel=self._config.parallel,
            stop_seconds=self._grace_seconds + _CANCEL_SECONDS,
        )
        pool.run(jobs, recorder.ledger.find_submitted([spec.job_id for spec in specs]), may_go_on)

    def close(self) -> None:
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None
