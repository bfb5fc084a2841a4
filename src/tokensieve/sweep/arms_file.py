"""Arms that no product of values gives: a YAML file of named lists of overrides, for `hydra.sweeper.arms`."""

from __future__ import annotations

from pathlib import Path

from tokensieve.errors import ConfigError

KEY = "hydra.sweeper.arms"


def read_arms(path: Path) -> dict[str, list[str]]:
    """Arm -> its overrides, in the file's order: those under `overrides`, which all arms share, and its own.

    Raises:
        ConfigError: no such file, no mapping of arms in it, or two arms that are the same.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        shared, arms = values.get("overrides") or [], values["arms"]
        if any(not isinstance(overrides, list) for overrides in (shared, *arms.values())):
            raise TypeError("overrides must be lists")
        found = {str(name): [str(text) for text in (*shared, *overrides)] for name, overrides in arms.items()}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        received = "no key arms" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise ConfigError(
            KEY,
            "must be a YAML file with `arms: {name: [key=value, ...]}`",
            received=f"{path}: {received}",
            remedy="see experiments/science/design.yaml",
        ) from None
    names: dict[frozenset[str], str] = {}
    for name, overrides in found.items():
        if (other := names.setdefault(frozenset(overrides), name)) != name:
            raise ConfigError(KEY, f"arms {other} and {name} are the same", received=str(path), remedy="drop one")
    return found
