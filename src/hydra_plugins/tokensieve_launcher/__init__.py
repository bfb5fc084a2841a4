"""The sweep's face to Hydra: launcher `tokensieve` runs jobs, sweeper `tokensieve` expands the command line.

Hydra imports every module of this namespace at each start, so nothing heavy is imported here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from tokensieve.sweep.session import Session


@dataclass
class LauncherConf:
    """`job` is `module:function` of a job's body, `preload` what the fork server imports; tests replace both."""

    _target_: str = "hydra_plugins.tokensieve_launcher.TokensieveLauncher"
    job: Optional[str] = None
    preload: Optional[list[str]] = None
    grace_seconds: float = 5.0


@dataclass
class SweeperConf:
    """`params`: sweeps by key, as on the command line, which beats them. `arms`: a file of named lists of overrides,
    each of which is run with every combination of the swept values."""

    _target_: str = "hydra_plugins.tokensieve_launcher.TokensieveSweeper"
    params: dict[str, Any] = field(default_factory=dict)
    arms: Optional[str] = None


ConfigStore.instance().store(
    group="hydra/launcher", name="tokensieve", node=LauncherConf, provider="tokensieve", replace=True
)
ConfigStore.instance().store(
    group="hydra/sweeper", name="tokensieve", node=SweeperConf, provider="tokensieve", replace=True
)


class TokensieveLauncher(Launcher):
    """Each job in a fresh process, here or on a cluster; what happens to jobs is the session's matter."""

    def __init__(
        self, job: str | None = None, preload: Sequence[str] | None = None, grace_seconds: float = 5.0
    ) -> None:
        self._settings: dict[str, Any] = {"grace_seconds": grace_seconds}
        if job is not None:
            self._settings["function"] = job
        if preload is not None:
            self._settings["preload"] = tuple(preload)
        self._session: Session | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from tokensieve.sweep.session import Session, Workshop

        is_search = config.hydra.runtime.choices["hydra/sweeper"] not in ("tokensieve", "basic")
        self._session = Session(hydra_context.config_loader, config, Workshop(**self._settings), is_search=is_search)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """One batch; of several, when a search drives (`initial_job_idx` counts on)."""
        from tokensieve.errors import SweepError, TrialPruned
        from tokensieve.sweep.manifest import FINISHED, PRUNED

        assert self._session is not None
        returns = []
        entries = self._session.run_batch(job_overrides)
        # A resumed sweep takes its jobs from the manifest: more than were given, and our sweeper needs no returns.
        for overrides, entry in zip(job_overrides, entries, strict=False):
            finished = entry.state == FINISHED
            end = TrialPruned if entry.state == PRUNED else SweepError
            value = entry.objective if finished else end(entry.name, entry.error or entry.state)
            status = JobStatus.COMPLETED if finished else JobStatus.FAILED
            folder = entry.dir
            returns.append(JobReturn(list(overrides), working_dir=folder, status=status, _return_value=value))
        return returns


def make_launcher(
    hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
) -> tuple[Launcher, list[str]]:
    """This project's launcher, and the overrides that ask of it what `config` asks of one of Hydra's.

    Raises:
        ConfigError: a launcher of Hydra's, or a key of one, that has no counterpart here.
    """
    name = str(config.hydra.runtime.choices.get("hydra/launcher"))
    if name == "tokensieve":
        configured = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        return configured, []
    from tokensieve.sweep.hydra_launchers import translate_launcher

    overrides = translate_launcher(config, name)
    launcher = TokensieveLauncher()
    launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)
    return launcher, overrides


class TokensieveSweeper(Sweeper):
    """The product of all swept overrides, in one batch. Unlike Hydra's basic sweeper it hands the launcher jobs that do
    not compose (so that all faults are reported, not the first) and keeps deletions and interpolations as written."""

    def __init__(self, params: dict[str, Any], arms: str | None = None) -> None:
        self._params = params
        self._arms = arms
        self._loader: Any = None
        self._config: DictConfig | None = None
        self._launcher: Launcher | None = None
        self._adopted: list[str] = []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._loader, self._config = hydra_context.config_loader, config
        self._launcher, self._adopted = make_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> Any:
        from tokensieve.sweep.arms_file import read_arms
        from tokensieve.sweep.resume import complete_arguments

        assert self._launcher is not None
        assert self._config is not None
        lines = [f"{key}={value}" for key, value in self._params.items()]
        given = complete_arguments(self._config, lines, [*self._adopted, *arguments])
        arms = read_arms(Path(self._arms)).values() if self._arms is not None else [[]]
        parser = OverridesParser.create(config_loader=self._loader)
        jobs = [job for arm in arms for job in expand(parser.parse_overrides([*lines, *arm, *given]))]
        return self._launcher.launch(jobs, initial_job_idx=0)


def expand(overrides: Sequence[Override]) -> list[list[str]]:
    """Every job's overrides, the last key varying fastest. A later override of a key replaces the earlier one.

    Raises:
        ConfigError: a continuous range, which only a search can sample.
    """
    choices: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_sweep_override():
            if not override.is_discrete_sweep():
                from tokensieve.errors import ConfigError

                raise ConfigError(
                    key,
                    "a grid needs single values",
                    received=override.input_line,
                    remedy="list values as a,b,c, or choose a search",
                )
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            line = override.input_line or ""
            choices[line if override.type is OverrideType.EXTEND_LIST else key] = [line]
    return [list(job) for job in itertools.product(*choices.values())]
