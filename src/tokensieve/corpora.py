"""Which examples a run reads: the splits of its dataset, and the items of every task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tokensieve.config import DatasetConfig, RunConfig
from tokensieve.dataset import define_corpus
from tokensieve.dataset.databases import DatabaseFiles
from tokensieve.dataset.few_shot import define_few_shot
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
        val_fraction=dataset.val_fraction,
        test_fraction=dataset.test_fraction,
        seed=dataset.seed,
        layout=dataset.layout,
        columns=dataset.columns,
        shuffle_seed=dataset.shuffle_seed,
        deduplicate=dataset.deduplicate,
        near_threshold=dataset.near_threshold,
        evaluation=evaluation,
        on_bad_row=dataset.on_bad_row,
        databases=_open_databases(dataset),
    )


def _open_databases(dataset: DatasetConfig) -> DatabaseFiles | None:
    if dataset.databases is None:
        return None
    path = Path(dataset.path).expanduser() if dataset.path is not None else None
    return DatabaseFiles(path.parent if path is not None and path.is_file() else path, dataset.databases)


def define_evaluation_sets(config: RunConfig, store: Store, source: Source) -> dict[str, Artefact[Corpus]]:
    """What training examples are compared with: the dataset's own held-out splits, and the items of other tasks."""
    dataset = config.dataset
    fractions = {"validation": dataset.val_fraction, "test": dataset.test_fraction}
    sets = {
        split: define_split(dataset, store, source, split)
        for split, fraction in fractions.items()
        if source.has_split(split) or fraction > 0
    }
    others = [name for name in find_tasks(config, source) if name != dataset.task]
    return sets | {name: define_questions(config, store, name) for name in others}


def find_tasks(config: RunConfig, source: Source) -> list[str]:
    """Our own tasks: the target first, then the others, each once. The harness's, where asked for, are only checked.

    Raises:
        ConfigError: a task that nobody knows, or whose data is not named.
    """
    target, datasets = config.dataset.task, config.eval.datasets
    names = list(config.eval.tasks if config.eval.tasks is not None else datasets)
    if config.eval.backend == "lm_eval":
        _check_harness_tasks(config.eval.tasks, config.eval.include_path)
        names = []
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


def _check_harness_tasks(names: Sequence[str] | None, include_path: str | None) -> None:
    """Refuse what lm-evaluation-harness could not run and names of several scores, before a model loads."""
    from tokensieve.harness import index_tasks, require_harness

    require_harness()
    if names is not None and not names:  # the target alone
        return
    manager = index_tasks(names or [], Path(include_path).expanduser() if include_path is not None else None)
    for name in names or []:
        entry = manager.task_index[name]
        kind, declaration = entry.kind.name, entry.cfg or {}
        if kind == "TAG" or (kind == "GROUP" and not declaration.get("aggregate_metric_list")):
            raise ConfigError(
                "eval.tasks",
                "must name tasks, or groups with a score of their own",
                received=f"{name}, a {kind.lower()} without one",
                remedy=f"name its tasks one by one; `lm-eval ls tasks` lists them ({name})",
            )


def define_items(
    config: RunConfig, store: Store, name: str, held_out: Artefact[Corpus] | None = None
) -> Artefact[Corpus]:
    """The items of a task as they are asked: the held-out ones, behind their solved examples if there are to be any.

    `held_out`: those of another split than the test split.

    How many stands in `eval.num_fewshot`, else with the task's data; a target whose own data says none takes the number
    that the suite has for it.

    Raises:
        ConfigError: data that is not there, or examples wanted where no split could give them.
    """
    items, dataset = held_out or define_questions(config, store, name), _find_dataset(config, name)
    suite = config.eval.datasets.get(name)
    if suite is not None and not dataset.num_fewshot:
        shared = {key: getattr(suite, key) for key in ("num_fewshot", "fewshot_split", "fewshot_group")}
        dataset = replace(dataset, **shared, splits={**dataset.splits, **suite.splits})
    num = config.eval.num_fewshot if config.eval.num_fewshot is not None else dataset.num_fewshot
    if num == 0:
        return items
    split = dataset.fewshot_split
    if dataset.splits.get(split, split) is None and (split == "train" or dataset.val_fraction == 0):
        raise ConfigError(
            f"{_key(config, name)}.num_fewshot",
            f"needs a {split} split to draw examples from, and {dataset.name} has none",
            received=num,
            remedy="set it to 0, with eval.num_fewshot=null",
        )
    # All of it, also when less is trained: how a question is asked must not depend on that.
    whole = replace(dataset, num_train=None, num_validation=None, limit=None, deduplicate="none", shuffle_seed=None)
    pool = define_split(whole, store, open_source(whole), split)
    return define_few_shot(store, items, pool, num=num, seed=config.eval.seed, group=dataset.fewshot_group)


def define_questions(config: RunConfig, store: Store, name: str) -> Artefact[Corpus]:
    """The held-out items of a task: the test split of the run's own dataset for the target, of its own for another."""
    dataset = _find_dataset(config, name)
    try:
        return define_held_out(dataset, store, config.eval.num_items)
    except ConfigError as error:
        key = _key(config, name)
        if key == "dataset" or not error.subject.startswith("dataset."):
            raise
        remedy = f"{error.remedy}; or leave {name} out, with eval.tasks"
        subject = error.subject.replace("dataset", key, 1)
        raise ConfigError(subject, error.rule, received=error.received, remedy=remedy) from error


def define_held_out(dataset: DatasetConfig, store: Store, number: int | None) -> Artefact[Corpus]:
    """The examples of the test split, at most `number`."""
    if dataset.lab_family is not None and dataset.num_test is None:
        dataset = replace(dataset, num_test=number)  # the lab draws as many as are wanted
    return define_split(dataset, store, open_source(dataset), "test", number)


def define_validation_items(config: RunConfig, store: Store, name: str, number: int | None) -> Artefact[Corpus]:
    """As `define_items`, of the validation split, at most `number`: what a search may choose by.

    Raises:
        ConfigError: there is no such split, and none is held out.
    """
    dataset = _find_dataset(config, name)
    source = open_source(dataset)
    if not source.has_split("validation") and dataset.val_fraction == 0:
        key = _key(config, name)
        raise ConfigError(
            f"{key}.val_fraction",
            "a search needs validation items of this task, and none are held out",
            received=0,
            remedy=f"set {key}.val_fraction=0.1, or leave the task out, with eval.tasks",
        )
    return define_items(config, store, name, define_split(dataset, store, source, "validation", number))


def _find_dataset(config: RunConfig, name: str) -> DatasetConfig:
    """The data of a task. A target's names what the suite's solved examples are grouped by, if its own does not."""
    if name != config.dataset.task:
        return config.eval.datasets[name]
    dataset, suite = config.dataset, config.eval.datasets.get(name)
    if suite is None or suite.fewshot_group is None or dataset.num_fewshot:
        return dataset
    wanted = {key: value for key, value in suite.reference.items() if key == suite.fewshot_group}
    return replace(dataset, reference=wanted | dataset.reference)


def _key(config: RunConfig, name: str) -> str:
    return "dataset" if name == config.dataset.task else f"eval.datasets.{name}"
