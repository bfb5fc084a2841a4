"""The schema: one dataclass a config group; the only home of defaults. Imports neither torch nor transformers.

Unknown keys and wrong types fail when Hydra composes; ranges and conflicts fail in `__post_init__`, with the key,
the rule, the value and a remedy, before any model loads.
"""

from tokensieve.config.data import DatasetConfig
from tokensieve.config.launcher import LauncherConfig
from tokensieve.config.model import LoraConfig, ModelConfig
from tokensieve.config.noise import NoiseConfig
from tokensieve.config.outcome import EvalConfig, SweepConfig, TrackingConfig
from tokensieve.config.run import (
    EXECUTION_KEYS,
    RunConfig,
    from_yaml,
    identity,
    register_schema,
    to_plain,
    to_run_config,
    to_yaml,
)
from tokensieve.config.search import SearchConfig
from tokensieve.config.tokens import StmConfig
from tokensieve.config.training import LossConfig, OptimConfig, TrainerConfig
from tokensieve.config.variant import VariantConfig
from tokensieve.config.weighting import RegulariserConfig, WeightConfig

__all__ = [
    "EXECUTION_KEYS",
    "DatasetConfig",
    "EvalConfig",
    "LauncherConfig",
    "LoraConfig",
    "LossConfig",
    "ModelConfig",
    "NoiseConfig",
    "OptimConfig",
    "RegulariserConfig",
    "RunConfig",
    "SearchConfig",
    "StmConfig",
    "SweepConfig",
    "TrackingConfig",
    "TrainerConfig",
    "VariantConfig",
    "WeightConfig",
    "from_yaml",
    "identity",
    "register_schema",
    "to_plain",
    "to_run_config",
    "to_yaml",
]
