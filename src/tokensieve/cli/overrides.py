"""Hydra overrides on the command line of a verb."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokensieve.config import RunConfig
from tokensieve.errors import ConfigError


def compose(overrides: Sequence[str]) -> RunConfig:
    """The run that `python train.py` with these overrides would do, from the conf folder here or of the checkout.

    Raises:
        ConfigError: a fault in an override, or no conf folder.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from tokensieve.config import register_schema
    from tokensieve.sweep.compose import read_config
    from tokensieve.sweep.explain import explain

    candidates = [Path.cwd() / "conf", Path(__file__).resolve().parents[3] / "conf"]
    folder = next((path for path in candidates if (path / "config.yaml").is_file()), None)
    if folder is None:
        raise ConfigError(
            "conf",
            "the folder of config options must be here",
            received=str(candidates[0]),
            remedy="run from the root of the checkout",
        )
    register_schema()
    try:
        with initialize_config_dir(str(folder)):
            return read_config(hydra_compose("config", list(overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error
