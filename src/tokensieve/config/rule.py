"""How a config value is refused."""

from __future__ import annotations

from tokensieve.errors import CombinationError, ConfigError


def require(holds: bool, key: str, rule: str, received: object, remedy: str) -> None:
    """Raise a ConfigError about `key` unless `holds`."""
    if not holds:
        raise ConfigError(key, rule, received=received, remedy=remedy)


def require_compatible(holds: bool, key: str, rule: str, received: object, remedy: str) -> None:
    """Raise a CombinationError about `key` unless `holds`: for choices that are each fine by themselves, and whose
    combination a sweep should leave out, not stumble over."""
    if not holds:
        raise CombinationError(key, rule, received=received, remedy=remedy)
