"""Jobs as tasks of Ray: of a running cluster, or of one that is started here for the length of the sweep."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

from tokensieve.config import LauncherConfig, RunConfig
from tokensieve.errors import ConfigError, SweepError
from tokensieve.sweep.cluster import Handle, count_gpus, describe_failure
from tokensieve.sweep.job import Outcome
from tokensieve.sweep.on_slurm import end_earlier
from tokensieve.sweep.remote import RemoteJob
from tokensieve.sweep.slots import count_cores

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
# Ray starts processes with the environment of its nodes; these say how to reach models and stores.
_HANDED_ON = ("HF_", "MLFLOW_", "OPENAI_", "TOKENIZERS_", "TOKENSIEVE_", "TRANSFORMERS_")
_BYTES_A_GB = 1 << 30
# What Ray is asked for, its name for what it has, our option, and its unit.
_KINDS = (
    ("num_cpus", "CPU", "cpus", 1),
    ("num_gpus", "GPU", "gpus", 1),
    ("memory", "memory", "memory_gb", _BYTES_A_GB),
)


def require_ray() -> None:
    """Raise a ConfigError where Ray is not installed: before a sweep makes its folder."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("launcher", "ray needs Ray", remedy="pip install 'tokensieve[cluster]'")


class RayCluster:
    """A connection to Ray, opened at once.

    Raises:
        SweepError: it cannot be reached.
    """

    poll_seconds = 0.2
    answers_when_stopped = True
    gives_devices = True

    def __init__(self, config: LauncherConfig) -> None:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        import ray

        self._ray: Any = ray
        self._config = config
        options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if config.address is None:
            options |= {"address": "local", "include_dashboard": False, "num_cpus": count_cores()}
        else:
            options["address"] = config.address
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            remedy = "set launcher.address to a running cluster, or to null to start one here"
            raise SweepError("launcher.address", "Ray cannot be reached", received=first, remedy=remedy) from error
        self._task = ray.remote(max_calls=1)(_run)  # a fresh process for each job

    def check(self, configs: Sequence[RunConfig]) -> None:
        if self._config.address is not None:
            return  # it may grow
        has = self._ray.cluster_resources()
        for key, name, option, unit in _KINDS:
            wanted = max((self._resources(config).get(key, 0) for config in configs), default=0)
            if wanted > has.get(name, 0):
                raise ConfigError(
                    f"launcher.{option}",
                    f"must be at most the {has.get(name, 0) / unit:g} of this machine",
                    received=f"{wanted / unit:g}",
                    remedy="lower it, or set launcher.address to a larger cluster",
                )

    def environment(self) -> dict[str, str | None]:
        return {name: value for name, value in os.environ.items() if name.startswith(_HANDED_ON)}

    def _resources(self, config: RunConfig) -> dict[str, float]:
        gpus = count_gpus(config)
        share = gpus / config.sweep.jobs_per_device if gpus == 1 else float(gpus)
        memory = {"memory": self._config.memory_gb * _BYTES_A_GB} if self._config.memory_gb is not None else {}
        return {"num_cpus": self._config.cpus or 1, "num_gpus": share, **memory}

    def submit(self, jobs: Sequence[RemoteJob]) -> list[Handle]:
        return [
            _RayHandle(
                self._ray,
                self._task.options(
                    name=job.spec.name, max_retries=self._config.requeues, **self._resources(job.spec.config)
                ).remote(job),
                job,
            )
            for job in jobs
        ]

    def adopt(self, job: RemoteJob, place: str) -> Handle | None:
        """None: Ray ends the tasks of a process that is gone."""
        end_earlier([place])  # of Slurm, where the sweep was begun there
        return None

    def cancel(self, handles: Sequence[Handle], *, force: bool) -> None:
        for handle in handles:
            assert isinstance(handle, _RayHandle)
            self._ray.cancel(handle.reference, force=force)

    def close(self) -> None:
        self._ray.shutdown()


def _run(job: RemoteJob) -> Outcome:
    return job()


class _RayHandle:
    def __init__(self, ray: Any, reference: Any, job: RemoteJob) -> None:
        self.place = f"ray/{reference.hex()}"
        self.reference = reference
        self._ray = ray
        self._job = job

    def look(self) -> Outcome | None:
        done, _ = self._ray.wait([self.reference], timeout=0)
        if not done:
            return None
        errors = self._ray.exceptions
        try:
            outcome = self._ray.get(self.reference)
        except errors.TaskCancelledError:
            return Outcome(killed=True, error="cancelled")
        except errors.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            how = lines[-1] if isinstance(error, errors.RayTaskError) else lines[0]
            return describe_failure(f"{type(error).__name__}: {how[:500]}", self._job.spec.folder / "log.txt")
        assert isinstance(outcome, Outcome)
        return outcome

    def is_requeued(self) -> bool:
        """A retried task shows by its new mark alone."""
        return False
