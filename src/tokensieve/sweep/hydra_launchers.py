"""Hydra's own launchers by their names and keys: `hydra/launcher=submitit_slurm hydra.launcher.partition=gpu`.

Left to themselves they run each job as a run of its own: no check before the first, no duplicates found, no controls,
no resuming, no parent run, no table. So what they were told is told to the config group `launcher`, and the sweep runs
as with `launcher=slurm` or `launcher=ray`. What was left at a plugin's default has this project's default.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from tokensieve.config.outcome import GPU_PARTS
from tokensieve.errors import ConfigError
from tokensieve.sweep.invocation import in_quotes

OURS: Final = "tokensieve"
_PREFIX: Final = "hydra.launcher."
_BYTES_A_GB: Final = 1 << 30
_SHARED: Final = {
    "timeout_min": "launcher.timeout_minutes",
    "cpus_per_task": "launcher.cpus",
    "gpus_per_node": "launcher.gpus",
    "mem_gb": "launcher.memory_gb",
    "nodes": "trainer.num_nodes",
}
_OF_SLURM: Final = _SHARED | {
    "partition": "launcher.partition",
    "account": "launcher.account",
    "qos": "launcher.qos",
    "constraint": "launcher.constraint",
    "signal_delay_s": "launcher.signal_seconds",
    "max_num_timeout": "launcher.requeues",
    "array_parallelism": "launcher.parallel",
    "setup": "launcher.setup",
}
_MORE_OPTIONS: Final = "additional_parameters"
_OPTIONS_OF_SBATCH: Final = (
    "comment",
    "exclude",
    "gres",
    "cpus_per_gpu",
    "gpus_per_task",
    "mem_per_gpu",
    "mem_per_cpu",
)


def translate_launcher(config: DictConfig, name: str) -> list[str]:
    """What `hydra.launcher` of `config`, which is Hydra's launcher `name`, means for the group `launcher`.

    Raises:
        ConfigError: a launcher, or a key of one, that has no counterpart here.
    """
    if name not in _TRANSLATIONS:
        raise ConfigError(
            "hydra/launcher",
            f"must be one of {', '.join([OURS, *_TRANSLATIONS])}, whose sweeps can be resumed",
            received=name,
            remedy="leave it out: sweep.workers=2 runs two jobs at a time, launcher=slurm or launcher=ray elsewhere",
        )
    launcher = config.hydra.launcher
    before: Any = OmegaConf.to_container(_node(name))
    written: Any = OmegaConf.to_container(launcher)
    named = {text.lstrip("+").removeprefix(_PREFIX).partition("=")[0] for text in config.hydra.overrides.hydra}
    given = {key: _resolve(launcher[key]) for key, value in written.items() if value != before.get(key) or key in named}
    return [f"{key}={_write(value)}" for key, value in _TRANSLATIONS[name](given).items()]


def _node(name: str) -> DictConfig:
    """The config that a launcher has before anything is set."""
    return OmegaConf.create(ConfigStore.instance().load(f"hydra/launcher/{name}.yaml").node)


def _resolve(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _to_slurm(given: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"launcher": "slurm"}
    options = {key.replace("_", "-"): given[key] for key in _OPTIONS_OF_SBATCH if key in given}
    for key, value in (options | given.get(_MORE_OPTIONS, {})).items():
        found[f"+launcher.options.{key}"] = str(value).lower() if isinstance(value, bool) else str(value)
    for key, value in given.items():
        if key not in (*_OPTIONS_OF_SBATCH, _MORE_OPTIONS):
            found[_counterpart(key, _OF_SLURM)] = value
    return found


def _to_local(given: Mapping[str, Any]) -> dict[str, Any]:
    translated = {_counterpart(key, _SHARED): value for key, value in given.items()}
    return {"launcher": "slurm", "launcher.cluster": "local", **translated}


def _to_ray(given: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"launcher": "ray"}
    parts = given.get("ray", {})
    for key, value in parts.get("init", {}).items():
        if value is not None:
            found[_counterpart(f"ray.init.{key}", {"ray.init.address": "launcher.address"})] = value
    wanted = {
        "ray.remote.num_cpus": "launcher.cpus",
        "ray.remote.num_gpus": "launcher.gpus",
        "ray.remote.memory": "launcher.memory_gb",
        "ray.remote.max_retries": "launcher.requeues",
    }
    for key, value in parts.get("remote", {}).items():
        if value is not None:
            found[_counterpart(f"ray.remote.{key}", wanted)] = value
    if "launcher.memory_gb" in found:
        found["launcher.memory_gb"] /= _BYTES_A_GB
    if 0 < found.get("launcher.gpus", 0) < 1:
        found |= {"launcher.gpus": 1, "sweep.jobs_per_device": _parts(found["launcher.gpus"])}
    return found


def _parts(share: float) -> int:
    """Jobs on a GPU that each get at least this share of it."""
    return max(parts for parts in GPU_PARTS if parts * share <= 1)


def _counterpart(key: str, known: Mapping[str, str]) -> str:
    if key not in known:
        raise ConfigError(
            f"hydra.launcher.{key}",
            "has no counterpart here",
            remedy=f"leave it out (the ranks of a job are its trainer.devices); read are {', '.join(known)}",
        )
    return known[key]


def _write(value: object) -> str:
    """A value, or a list of them, in the grammar of overrides."""
    if isinstance(value, list):
        return "[" + ",".join(map(_write, value)) + "]"
    return in_quotes(value) if isinstance(value, str) else json.dumps(value)


_TRANSLATIONS: Final[Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "submitit_slurm": _to_slurm,
    "submitit_local": _to_local,
    "ray": _to_ray,
}
