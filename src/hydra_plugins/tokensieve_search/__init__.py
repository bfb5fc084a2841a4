"""Sweeper `tokensieve_search`: Hydra's Optuna sweeper, with what it has no words for.

Hydra's own sweeper reads the search space and builds the sampler here too, with the same keys. But it opens its study
without a pruner, does not tell a job which trial it is, runs `n_trials` again when a study is continued, repeats the
first samples then, and leaves trials of a killed process running for ever. So the loop over trials is another one, in
`tokensieve.search`.

Hydra imports every module of this namespace at each start, so nothing heavy is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_optuna_sweeper.config import OptunaSweeperConf
from omegaconf import DictConfig

from hydra_plugins.tokensieve_launcher import make_launcher


@dataclass
class SearchConf(OptunaSweeperConf):
    """Read are `sampler` and `params`; what else a search needs stands in the config group `search`."""

    _target_: str = "hydra_plugins.tokensieve_search.SearchSweeper"


ConfigStore.instance().store(
    group="hydra/sweeper", name="tokensieve_search", node=SearchConf, provider="tokensieve", replace=True
)


class SearchSweeper(Sweeper):
    """Trials of an Optuna study, `sweep.workers` at a time, each a job of the launcher."""

    def __init__(self, sampler: DictConfig, params: DictConfig | None, **unread: Any) -> None:
        self._sampler = sampler
        self._params = params
        self._context: HydraContext | None = None
        self._config: DictConfig | None = None
        self._launcher: Launcher | None = None
        self._adopted: list[str] = []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._config = hydra_context, config
        self._launcher, self._adopted = make_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        from tokensieve.search import run_search

        assert self._context is not None
        assert self._config is not None
        assert self._launcher is not None
        lines = [f"{key}={value}" for key, value in (self._params or {}).items()]
        run_search(
            self._config,
            self._context.config_loader,
            self._launcher,
            self._sampler,
            [*lines, *self._adopted, *arguments],
        )
