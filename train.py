"""Train one run, or with -m a sweep of runs: python train.py -m stm.threshold=1.5,2.5,4

`python train.py --help` lists the choices, `--cfg job` the whole configuration.
"""

import sys

import hydra
from omegaconf import DictConfig

from tokensieve.config import register_schema
from tokensieve.sweep.command import run_command, run_single

register_schema()


@hydra.main(config_path="conf", config_name="config")
def train(config: DictConfig) -> float | tuple[float, ...]:
    """Returns what a search optimises, on validation items; of a run by itself, its validation NLL."""
    return run_single(config)


if __name__ == "__main__":
    sys.exit(run_command(train))
