"""From override strings to a checked `RunConfig`."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, ValueNode, open_dict

from tokensieve.config import EXECUTION_KEYS, RunConfig, to_run_config
from tokensieve.errors import ConfigError, TokensieveError
from tokensieve.sweep.arms_file import read_arms

# Groups that choose how jobs are found; Hydra wants them settled before the first job is composed.
CONTROLLER_KEYS = ("search",)


class Compose:
    """From one job's overrides to its composed config, without Hydra's own node, or to its checked run.

    Hydra takes 70 ms to compose a job, which counts in a sweep of a thousand. Jobs that choose the same groups differ
    by plain values alone: Hydra sets those last, one by one, and so they are set on a copy of one composed config.
    Jobs that moreover set the same keys differ in those keys' groups alone, and only these are checked again.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader = loader
        self._master = master
        self._groups = set(loader.list_groups(""))
        self._parser = OverridesParser.create(config_loader=loader)
        self._templates: dict[tuple[str, ...], DictConfig] = {}
        self._is_plain: dict[tuple[str, ...], bool] = {}  # of a template: whether no value follows from another
        self._runs: dict[tuple[tuple[str, ...], frozenset[str]], RunConfig] = {}  # of the first job with these keys

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        try:
            found = self._split(overrides)
            if found is None:
                return self._compose_by_hydra(overrides)
            choices, values = found
            config = copy.deepcopy(self._template(choices))
            for override in values:
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        except Exception:  # whatever it is, Hydra says it better
            return self._compose_by_hydra(overrides)
        return config

    def read(self, overrides: Sequence[str]) -> RunConfig:
        """`read_config` of the composed config. Runs share no mutable part.

        Raises:
            ConfigError: as `read_config`; errors of Hydra and OmegaConf.
        """
        try:
            found = self._split(overrides)
            if found is None or any("${" in text for text in overrides):
                return read_config(self(overrides))
            choices, values = found
            if choices not in self._is_plain:
                self._is_plain[choices] = not _has_references(self._template(choices))
            if not self._is_plain[choices]:
                return read_config(self(overrides))
            keys = frozenset(override.key_or_group for override in values)
            if (choices, keys) not in self._runs:
                self._runs[choices, keys] = read_config(self(overrides))
            fields = _read_fields(self._template(choices), values)
        except TokensieveError:
            raise
        except Exception:
            return read_config(self(overrides))
        return dataclasses.replace(copy.deepcopy(self._runs[choices, keys]), **fields)

    def _split(self, overrides: Sequence[str]) -> tuple[tuple[str, ...], list[Override]] | None:
        """What chooses groups, and the plain values; None where Hydra must see all of it in order."""
        parsed = self._parser.parse_overrides(list(overrides))
        values = [override for override in parsed if _is_plain_value(override, self._groups)]
        others = [override for override in parsed if not _is_plain_value(override, self._groups)]
        if any(override.type is not OverrideType.CHANGE for override in others):
            return None  # additions and deletions may depend on the values before them
        return tuple(override.input_line or "" for override in others), values

    def _template(self, choices: tuple[str, ...]) -> DictConfig:
        if choices not in self._templates:
            self._templates[choices] = self._compose_by_hydra(choices)
        return self._templates[choices]

    def _compose_by_hydra(self, overrides: Sequence[str]) -> DictConfig:
        config = self._loader.load_sweep_config(self._master, list(overrides))
        with open_dict(config):
            del config["hydra"]
        return config


def composer(loader: ConfigLoader, master: DictConfig) -> Compose:
    """Composes the jobs of the sweep that `master` describes."""
    return Compose(loader, master)


def _has_references(template: DictConfig) -> bool:
    """Whether a value follows from another one, so that no group can be read by itself."""
    return "${" in OmegaConf.to_yaml(template, resolve=False).replace("${oc.env:", "")


def _read_fields(template: DictConfig, values: Sequence[Override]) -> dict[str, Any]:
    """The checked top-level fields that `values` change, each with all its values."""
    parts: dict[str, Any] = {}
    for override in values:
        top, _, rest = override.key_or_group.partition(".")
        if top not in parts:
            parts[top] = copy.deepcopy(template._get_node(top))  # keeps its place in the template, and its type
        part = parts[top]
        if rest:
            OmegaConf.update(part, rest, override.value(), merge=True)
        elif isinstance(part, ValueNode):
            part._set_value(override.value())
        else:
            raise TypeError(f"{top} is a group")
    for top, part in parts.items():
        if isinstance(part, DictConfig) and OmegaConf.missing_keys(part):
            raise ValueError(f"{top} lacks values")
    return {
        top: OmegaConf.to_object(part) if isinstance(part, DictConfig) else part._value() for top, part in parts.items()
    }


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
    return key.partition(".")[0] in EXECUTION_KEYS and key not in ("sweep.controls", *CONTROLLER_KEYS)


def swept_keys(master: DictConfig) -> tuple[str, ...]:
    """Keys that a file of arms, the command line, or the sweeper's own parameters set by job, in their order."""
    lines = [f"{key}={value}" for key, value in (OmegaConf.select(master, "hydra.sweeper.params") or {}).items()]
    lines += list(master.hydra.overrides.task)
    parsed = OverridesParser.create().parse_overrides(lines)
    last = {override.key_or_group: override.is_sweep_override() for override in parsed}  # a later override wins
    path = OmegaConf.select(master, "hydra.sweeper.arms")
    arms: list[set[str]] = [set(arm) for arm in read_arms(Path(path)).values()] if path is not None else [set()]
    of_arms = sorted({key_of(text) for arm in arms for text in arm - set[str].intersection(*arms)})
    return tuple(dict.fromkeys([*of_arms, *(key for key, is_swept in last.items() if is_swept)]))


def without(overrides: Iterable[str], keys: Iterable[str]) -> list[str]:
    """`overrides` without those of `keys`."""
    dropped = set(keys)
    return [override for override in overrides if key_of(override) not in dropped]
