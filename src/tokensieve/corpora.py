"""Which examples a run reads: the splits of its dataset, and the items of every task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tokensieve.config import DatasetConfig, RunConfig
from tokensieve.dataset import define_corpus
from tokensieve.errors import ConfigError
from tokensieve.records import Corpus
from tokensieve.sources import HubSource, LabSource, LocalSource, Source
from tokensieve.store import Artefact, Store
from tokensieve.tasks import TASKS

DEFAULT_LAB_COUNTS = {"train": 400, "validation": 100, "test": 200}


def open_source(dataset: DatasetConfig) -> Source:
    """The source that a dataset config names: a local path beats a hub id beats a lab family."""
    if dataset.path is not None:
        path = Path(dataset.path).expanduser()
        return LocalSource(path, dataset.split_field, dataset.split_ranges, dataset.splits)
    if dataset.hub_id is not None:
        return HubSource(dataset.hub_id, dataset.subset, dataset.revision, dataset.splits)
    assert dataset.lab_family is not None
    wanted = {"train": dataset.num_train, "validation": dataset.num_validation, "test": dataset.num_test}
    counts = {split: wanted[split] or default for split, default in DEFAULT_LAB_COUNTS.items()}
    return LabSource(dataset.lab_family, dataset.lab_style, dataset.seed, counts)


def define_split(
    dataset: DatasetConfig,
    store: Store,
    source: Source,
    split: str,
    limit: int | None = None,
    evaluation: Mapping[str, Artefact[Corpus]] | None = None,
) -> Artefact[Corpus]:
    """The examples of a split, at most `limit`; `evaluation`: what training examples are compared with."""
    wanted = {"train": dataset.num_train, "validation": dataset.num_validation, "test": dataset.num_test}[split]
    limits = [number for number in (wanted, limit, dataset.limit) if number is not None]
    return define_corpus(
        store,
        source,
        split,
        task=dataset.task,
        prompt=dataset.prompt,
        response=dataset.response,
        system_prompt=dataset.system_prompt,
        reference=dataset.reference,
        id_field=dataset.id_field,
        limit=min(limits, default=None),
        validation_fraction=dataset.validation_fraction,
        test_fraction=dataset.test_fraction,
        seed=dataset.seed,
        layout=dataset.layout,
        columns=dataset.columns,
        shuffle_seed=dataset.shuffle_seed,
        deduplicate=dataset.deduplicate,
        near_threshold=dataset.near_threshold,
        evaluation=evaluation,
        on_bad_row=dataset.on_bad_row,
    )


def define_evaluation_sets(config: RunConfig, store: Store, source: Source) -> dict[str, Artefact[Corpus]]:
    """What training examples are compared with: the dataset's own held-out splits, and the items of other tasks."""
    dataset = config.dataset
    fractions = {"validation": dataset.validation_fraction, "test": dataset.test_fraction}
    sets = {
        split: define_split(dataset, store, source, split)
        for split, fraction in fractions.items()
        if source.has_split(split) or fraction > 0
    }
    others = [name for name in find_tasks(config, source) if name != dataset.task]
    return sets | {name: define_items(config, store, name) for name in others}


def find_tasks(config: RunConfig, source: Source) -> list[str]:
    """The target first, then the other tasks, each once."""
    target, datasets = config.dataset.task, config.eval.datasets
    names = list(config.eval.tasks if config.eval.tasks is not None else datasets)
    if target is not None and (source.has_split("test") or config.dataset.test_fraction > 0):
        names = [target, *(name for name in names if name != target)]
    for name in names:
        if name not in TASKS:
            key = "dataset.task" if name == target else "eval.tasks"
            raise ConfigError(key, "must name known tasks", received=name, remedy=f"known: {', '.join(sorted(TASKS))}")
        if name != target and name not in datasets:
            raise ConfigError(
                "eval.tasks",
                "a task other than the target needs its data in eval.datasets",
                received=name,
                remedy=f"add it (+dataset@eval.datasets.{name}={name}), choose a suite (eval=...), or remove it",
            )
    return names


def define_items(config: RunConfig, store: Store, name: str) -> Artefact[Corpus]:
    """The held-out items of a task: the test split of the run's own dataset for the target, of its own for another."""
    dataset, number = (
        config.dataset if name == config.dataset.task else config.eval.datasets[name],
        config.eval.num_items,
    )
    if dataset.lab_family is not None and dataset.num_test is None:
        dataset = replace(dataset, num_test=number)  # the lab draws as many as are wanted
    return define_split(dataset, store, open_source(dataset), "test", number)
