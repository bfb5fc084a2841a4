"""`tokensieve <verb>`: what one does around training. Training itself is `python train.py`."""

from tokensieve.cli.command import main
from tokensieve.cli.overrides import compose
from tokensieve.trained_model import read_run_config

__all__ = ["compose", "main", "read_run_config"]
