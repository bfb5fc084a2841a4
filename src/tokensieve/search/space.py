"""Swept overrides as Optuna's distributions, read by Hydra's own Optuna sweeper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType

from tokensieve.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True, slots=True)
class Space:
    """`swept`: key, as an override has it (with `+`, with its package) -> distribution. `fixed`: all other overrides,
    as written."""

    swept: Mapping[str, BaseDistribution]
    fixed: Sequence[str]

    def to_json(self) -> dict[str, str]:
        """Text of each distribution, to compare and to keep."""
        from optuna.distributions import distribution_to_json

        return {key: distribution_to_json(found) for key, found in self.swept.items()}


def read_space(lines: Sequence[str]) -> Space:
    """The search space of `lines`; a later override of a key replaces an earlier one.

    Raises:
        ConfigError: a sweep that has no distribution, or none at all.
    """
    last: dict[str, Override] = {}
    for override in OverridesParser.create().parse_overrides(list(lines)):
        extends = override.type is OverrideType.EXTEND_LIST  # such overrides add up
        last[override.input_line or "" if extends else override.get_key_element()] = override
    swept = {key: _distribution(override) for key, override in last.items() if override.is_sweep_override()}
    if not swept:
        raise ConfigError(
            "search",
            "needs at least one key with several values",
            received="none",
            remedy="add for example 'optim.lr=tag(log, interval(1e-3, 6e-3))' or lora=r16,r64",
        )
    return Space(swept, [found.input_line or "" for found in last.values() if not found.is_sweep_override()])


def _distribution(override: Override) -> BaseDistribution:
    from hydra_plugins.hydra_optuna_sweeper._impl import create_optuna_distribution_from_override

    try:
        found: BaseDistribution = create_optuna_distribution_from_override(override)
    except (NotImplementedError, AssertionError, ValueError) as error:
        raise ConfigError(
            override.key_or_group,
            "cannot be searched like this",
            received=override.input_line,
            remedy=f"give choices a,b,c, a range(...), or an interval(...) ({error})",
        ) from error
    return found


def grid_of(space: Space) -> dict[str, list[Any]]:
    """Every value of every key.

    Raises:
        ConfigError: an interval, which has too many.
    """
    from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl

    grid = {}
    for key, distribution in space.swept.items():
        try:
            grid[key] = list(OptunaSweeperImpl._to_grid_sampler_choices(distribution))
        except ValueError as error:
            raise ConfigError(
                key, "a grid needs single values", received="an interval", remedy="list them as a,b,c, or search=tpe"
            ) from error
    return grid
