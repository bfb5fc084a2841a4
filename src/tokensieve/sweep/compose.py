"""From override strings to a checked `RunConfig`."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict

from tokensieve.config import EXECUTION_KEYS, RunConfig, to_run_config
from tokensieve.errors import ConfigError

Compose = Callable[[Sequence[str]], DictConfig]
# Groups that choose how jobs are found and started; Hydra wants them settled before the first job is composed.
CONTROLLER_KEYS = ("search", "launcher")


def composer(loader: ConfigLoader, master: DictConfig) -> Compose:
    """A function from one job's overrides to its composed config, without Hydra's own node.

    Hydra takes 70 ms to compose a job, which counts in a sweep of a thousand. Jobs that choose the same groups differ
    by plain values alone: Hydra sets those last, one by one, and so they are set on a copy of one composed config.
    """
    groups = set(loader.list_groups(""))
    parser = OverridesParser.create(config_loader=loader)
    templates: dict[tuple[str, ...], DictConfig] = {}

    def compose_by_hydra(overrides: Sequence[str]) -> DictConfig:
        config = loader.load_sweep_config(master, list(overrides))
        with open_dict(config):
            del config["hydra"]
        return config

    def compose(overrides: Sequence[str]) -> DictConfig:
        try:
            parsed = parser.parse_overrides(list(overrides))
            values = [override for override in parsed if _is_plain_value(override, groups)]
            choices = tuple(override.input_line or "" for override in parsed if override not in values)
            if any(override.type is not OverrideType.CHANGE for override in parsed if override not in values):
                return compose_by_hydra(overrides)  # additions and deletions may depend on the values before them
            if choices not in templates:
                templates[choices] = compose_by_hydra(choices)
            config = copy.deepcopy(templates[choices])
            for override in values:
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        except Exception:  # whatever it is, Hydra says it better
            return compose_by_hydra(overrides)
        return config

    return compose


def _is_plain_value(override: Override, groups: set[str]) -> bool:
    key = override.key_or_group
    is_group = key in groups or "/" in key or override.package is not None or key.partition(".")[0] == "hydra"
    return override.type is OverrideType.CHANGE and not is_group


def read_config(composed: DictConfig) -> RunConfig:
    """The checked run of a composed config.

    Raises:
        ConfigError: a value that is still `???`, a key that `+` added, a range, a conflict.
    """
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise ConfigError(missing[0], "must be set with this choice of options", remedy=f"add {missing[0]}=...")
    for key in _added_keys(composed, RunConfig):
        raise ConfigError(key, "no such key", remedy="python train.py --cfg job lists every key")
    if OmegaConf.get_type(composed) is not RunConfig:  # not composed over the schema: a plain mapping
        return to_run_config(OmegaConf.to_container(composed, resolve=True))
    run = OmegaConf.to_object(composed)
    assert isinstance(run, RunConfig)
    return run


def _added_keys(node: DictConfig, schema: type, prefix: str = "") -> Iterator[str]:
    fields = {field.name: field.type for field in dataclasses.fields(schema)}
    for key in map(str, node):
        kind = OmegaConf.get_type(node, key)
        if key not in fields:
            yield f"{prefix}{key}"
        elif kind is not None and dataclasses.is_dataclass(kind):
            yield from _added_keys(node[key], kind, f"{prefix}{key}.")


def key_of(override: str) -> str:
    """The key or group that an override changes.

    >>> [key_of(text) for text in ("stm.threshold=1", "+a.b=c=d", "~dataset.path", "optim@first=adamw")]
    ['stm.threshold', 'a.b', 'dataset.path', 'optim']
    """
    return override.lstrip("+~").partition("=")[0].partition("@")[0].strip()


def is_execution(override: str) -> bool:
    """Whether it changes only how jobs are run, so that a resumed sweep may differ in it.

    >>> [is_execution(text) for text in ("sweep.workers=2", "sweep.controls=[low]", "tracking=none", "seed=3")]
    [True, False, True, False]
    """
    key = key_of(override)
    return key.partition(".")[0] in EXECUTION_KEYS and key != "sweep.controls"


def swept_keys(master: DictConfig) -> tuple[str, ...]:
    """Keys that the command line or the sweeper's own parameters give several values, in their order."""
    lines = [f"{key}={value}" for key, value in (OmegaConf.select(master, "hydra.sweeper.params") or {}).items()]
    lines += list(master.hydra.overrides.task)
    parsed = OverridesParser.create().parse_overrides(lines)
    last = {override.key_or_group: override.is_sweep_override() for override in parsed}  # a later override wins
    return tuple(key for key, is_swept in last.items() if is_swept)


def without(overrides: Iterable[str], keys: Iterable[str]) -> list[str]:
    """`overrides` without those of `keys`."""
    dropped = set(keys)
    return [override for override in overrides if key_of(override) not in dropped]
