"""What a suite asks of a model: an option of conf/eval, put into the config that the model came with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tokensieve.cli.overrides import compose
from tokensieve.config import RunConfig
from tokensieve.errors import ConfigError
from tokensieve.trained_model import TrainedModel

if TYPE_CHECKING:
    from tokensieve.evaluations import Subject
    from tokensieve.records import EvalResult
    from tokensieve.store import Artefact

OVERRIDE = re.compile(r"(?P<sign>\+{0,2}|~)(?P<key>[a-z_]+)[\w.@/]*(=|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteChoice:
    """`suite`: an option of conf/eval. `tasks`: of the suite, these alone; None: all. `num_items`: a task; None: the
    suite's. `overrides`: Hydra overrides of eval, dataset and output_dir."""

    suite: str
    tasks: Sequence[str] | None = None
    num_items: int | None = None
    overrides: Sequence[str] = ()

    @property
    def names_dataset(self) -> bool:
        """Whether an override chooses the data that is the target."""
        matches = (OVERRIDE.match(text) for text in self.overrides)
        return any(match is not None and match["key"] == "dataset" for match in matches)


def open_subject(trained: TrainedModel, choice: SuiteChoice) -> Subject:
    """The model with the suite's settings; nothing is loaded yet."""
    return make_subject(trained, _with_suite(trained, choice))


def make_subject(trained: TrainedModel, config: RunConfig) -> Subject:
    """The model under the settings of `config`; nothing is loaded yet."""
    from tokensieve.evaluations import Subject, Weights
    from tokensieve.model import folder_checksums
    from tokensieve.pipeline import open_store
    from tokensieve.resident import ResidentModel

    folder = trained.weights
    # By content, not by the run's own stamp: a folder may have been replaced since.
    weights = Weights({"files": folder_checksums(folder)}, lambda: folder) if folder is not None else None
    return Subject(config, open_store(config), ResidentModel(config), weights)


def define_suite(subject: Subject, choice: SuiteChoice) -> dict[str, Artefact[EvalResult]]:
    """One result a task, none of them computed.

    Raises:
        ConfigError: no task is left.
    """
    from tokensieve.corpora import define_items, find_tasks, open_source
    from tokensieve.evaluations import define_results

    config = subject.config
    names = find_tasks(config, open_source(config.dataset))
    if choice.tasks is not None:  # the harness's are in the config: then a target was not asked for
        names = [name for name in names if name in choice.tasks and config.eval.backend == "own"]
    if not names and not (config.eval.backend == "lm_eval" and config.eval.tasks):
        raise ConfigError(
            "--suite",
            "must give at least one task",
            received=choice.suite,
            remedy="choose another, or add dataset=... with a task of its own",
        )
    return define_results(subject, {name: define_items(config, subject.store, name) for name in names})


def _with_suite(trained: TrainedModel, choice: SuiteChoice) -> RunConfig:
    """The config with the suite and the overrides. The target of training is a run's own, or the one that is named."""
    composed = compose([f"eval={choice.suite}", *choice.overrides])
    suite = composed.eval
    if choice.num_items is not None:
        suite.num_items = choice.num_items
    dataset = trained.config.dataset
    if choice.names_dataset:
        dataset = composed.dataset
    elif trained.run is None:
        dataset = replace(dataset, task=None)
    if choice.tasks is not None:
        suite.tasks = [name for name in choice.tasks if name != dataset.task or suite.backend == "lm_eval"]
    return replace(trained.config, dataset=dataset, eval=suite, output_dir=composed.output_dir)
