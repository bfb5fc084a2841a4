"""train.py for the tests of the sweep: the same command line over the same conf/, without a model to validate."""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from tokensieve.config import RunConfig, register_schema
from tokensieve.sweep import planner
from tokensieve.sweep.command import run_command, run_single
from tokensieve.sweep.parent_run import ParentRun

CONF = Path(__file__).resolve().parents[1] / "conf"


def accept(config: RunConfig) -> None:
    """Stands for pipeline.validate."""


def report_briefly(self: ParentRun, folder: Path, status: str, *, with_report: bool) -> None:
    """Stands for the report, which needs results of real runs."""
    (folder / "closed").write_text(f"{status} {with_report}")


def patch() -> None:
    """Replace what needs models and results."""
    planner._validate = accept
    ParentRun.close = report_briefly


register_schema()


@hydra.main(config_path=str(CONF), config_name="config")
def train(config: DictConfig) -> float:
    return run_single(config)


if __name__ == "__main__":
    patch()
    sys.exit(run_command(train))
