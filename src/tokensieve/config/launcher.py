"""Config group `launcher`: which machines run the jobs of a sweep, and what each job is given there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from tokensieve.config.rule import require


@dataclass(kw_only=True, slots=True)
class LauncherConfig:
    """Where `-m` runs its jobs. A sweep that began on one launcher may be resumed on another.

    Slurm and Ray need this project's environment on every node, and `output_dir` on a file system that all of them
    share. MLflow's store must be a server (`tracking=server`), or lie there too.
    """

    name: Literal["local", "slurm", "ray"] = "local"
    """local: processes of this machine, `sweep.workers` at a time. The other keys of this group are not read then."""
    cluster: Literal["slurm", "local"] = "slurm"
    """slurm: submit with sbatch; local: the same jobs as processes of this machine, to try a command out."""
    address: Optional[str] = None
    """ray: of a running cluster, `auto` for one of this machine; null: start one here for the length of the sweep."""
    parallel: Optional[int] = None
    """Jobs at a time at most; null: as many as the cluster starts."""
    partition: Optional[str] = None
    account: Optional[str] = None
    qos: Optional[str] = None
    constraint: Optional[str] = None
    timeout_minutes: int = 24 * 60
    """slurm: a job's time limit. A job that reaches it saves its state, is queued again and continues."""
    signal_seconds: int = 120
    """slurm: how long before its limit a job is told, so that it can save its state."""
    requeues: int = 10
    """How often a job may start again after its time limit (slurm) or after its node was lost (ray)."""
    gpus: Optional[int] = None
    """GPUs of a job on each of its nodes; null: trainer.devices, and none with trainer.accelerator=cpu."""
    cpus: Optional[int] = None
    """CPU cores, and threads, of a job (of each rank where Slurm starts a job's ranks); null: what the cluster gives,
    which on Ray is one."""
    memory_gb: Optional[float] = None
    """Main memory of a job on each of its nodes, in GB; null: what the cluster gives."""
    setup: list[str] = field(default_factory=list)
    """slurm: shell commands before a job, such as `module load cuda`."""
    options: dict[str, str] = field(default_factory=dict)
    """slurm: further options of sbatch by their long names, such as {mail-type: FAIL}."""

    def __post_init__(self) -> None:
        for key, least in (("timeout_minutes", 1), ("signal_seconds", 1), ("requeues", 0), ("gpus", 0), ("cpus", 1)):
            value = getattr(self, key)
            require(value is None or value >= least, f"launcher.{key}", f"must be at least {least}", value, "raise it")
        require(
            self.parallel is None or self.parallel >= 1,
            "launcher.parallel",
            "must be at least 1",
            self.parallel,
            "leave it null for no limit",
        )
        require(
            self.memory_gb is None or self.memory_gb > 0,
            "launcher.memory_gb",
            "must be above 0",
            self.memory_gb,
            "leave it null for the cluster's own limit",
        )
        require(
            self.name != "slurm" or self.signal_seconds < 60 * self.timeout_minutes,
            "launcher.signal_seconds",
            "must be shorter than launcher.timeout_minutes",
            self.signal_seconds,
            "use 120",
        )
