"""How a config value is refused."""

from __future__ import annotations

from tokensieve.errors import ConfigError


def require(holds: bool, key: str, rule: str, received: object, remedy: str) -> None:
    """Raise a ConfigError about `key` unless `holds`."""
    if not holds:
        raise ConfigError(key, rule, received=received, remedy=remedy)
