"""The stage order, written once: config -> data -> tokens -> scores -> mask (then fit, evaluations).

Everything here is lazy: `define_stages` computes stamps only, so that a dry run can say what is cached without
loading a library, and a run builds exactly what it lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.adapter import adapter_identity
from tokensieve.config import DatasetConfig, RunConfig
from tokensieve.dataset import define_corpus
from tokensieve.errors import ConfigError
from tokensieve.mask import define_mask
from tokensieve.model import model_identity
from tokensieve.records import Corpus, TokenisedCorpus, TokenMask, TokenScores
from tokensieve.resident import ResidentModel, base_identity
from tokensieve.score import define_imported_scores, define_scores
from tokensieve.sources import HubSource, LabSource, LocalSource, Source
from tokensieve.store import Artefact, Store
from tokensieve.tasks import TASKS
from tokensieve.token_rules import TokenRule
from tokensieve.tokenise import define_imported_tokens, define_tokens

if TYPE_CHECKING:
    from torch import nn

DEFAULT_LAB_COUNTS = {"train": 400, "validation": 100, "test": 200}


def open_source(dataset: DatasetConfig) -> Source:
    """The source that a dataset config names: a local path beats a hub id beats a lab family."""
    if dataset.path is not None:
        return LocalSource(Path(dataset.path).expanduser(), dataset.split_field, dataset.split_ranges)
    if dataset.hub_id is not None:
        return HubSource(dataset.hub_id, dataset.subset, dataset.revision)
    assert dataset.lab_family is not None
    wanted = {"train": dataset.num_train, "validation": dataset.num_validation, "test": dataset.num_test}
    counts = {split: wanted[split] or default for split, default in DEFAULT_LAB_COUNTS.items()}
    return LabSource(dataset.lab_family, dataset.lab_style, dataset.seed, counts)


@dataclass(slots=True)
class Stages:
    """Every artefact of one run up to the mask, the items of every task, and how to define the rest."""

    config: RunConfig
    store: Store
    resident: ResidentModel
    train: Artefact[Corpus] | None  # None for a dataset that comes as tokens
    tokens: Artefact[TokenisedCorpus]
    validation_tokens: Artefact[TokenisedCorpus] | None
    scores: Artefact[TokenScores] | None
    mask: Artefact[TokenMask]
    validation_mask: Artefact[TokenMask] | None
    items: dict[str, Artefact[Corpus]]

    def training_data(self) -> dict[str, Artefact[Any]]:
        """What the fit reads, by stage, in order."""
        found = {"dataset": self.train, "tokenise": self.tokens, "score": self.scores, "mask": self.mask}
        return {stage: artefact for stage, artefact in found.items() if artefact is not None}

    def up_to_mask(self) -> dict[str, Artefact[Any]]:
        """All that is defined before the fit: training data, validation mask, the items of every task."""
        held_out = {"mask validation": self.validation_mask} if self.validation_mask is not None else {}
        return self.training_data() | held_out | {f"items {name}": items for name, items in self.items.items()}


def define_stages(config: RunConfig, store: Store) -> Stages:
    """All artefacts of `config`, in order, none of them built.

    Raises:
        ConfigError, DataError: what can be known before anything loads (missing files, unknown tasks).
    """
    resident = ResidentModel(config)
    source = open_source(config.dataset)
    train, tokens = _data(config, store, source, "train")
    has_validation = source.has_split("validation") or config.dataset.validation_fraction > 0
    validation_tokens = _data(config, store, source, "validation")[1] if has_validation else None
    rule = _rule(config)
    scores = _scores(config, store, tokens, resident) if config.stm.needs_scores else None
    mask = define_mask(store, tokens, rule, scores, _tuned_scores(config, store, tokens, resident))
    validation_mask = None
    if validation_tokens is not None:
        # Imported scores describe the training texts only: the validation NLL is then taken over all response tokens.
        measured = rule if config.stm.scores_path is None else TokenRule("none")
        held_out_scores = _scores(config, store, validation_tokens, resident) if measured.name != "none" else None
        tuned = _tuned_scores(config, store, validation_tokens, resident) if measured.name != "none" else None
        validation_mask = define_mask(store, validation_tokens, measured, held_out_scores, tuned)
    items = {name: _items(config, store, source, name) for name in _task_names(config, source)}
    return Stages(config, store, resident, train, tokens, validation_tokens, scores, mask, validation_mask, items)


def _corpus(
    dataset: DatasetConfig, store: Store, source: Source, split: str, limit: int | None = None
) -> Artefact[Corpus]:
    wanted = {"train": dataset.num_train, "validation": dataset.num_validation, "test": dataset.num_test}[split]
    limits = [number for number in (wanted, limit) if number is not None]
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
    )


def _data(
    config: RunConfig, store: Store, source: Source, split: str
) -> tuple[Artefact[Corpus] | None, Artefact[TokenisedCorpus]]:
    """The examples of a split and their tokens; no examples where the dataset comes as tokens."""
    dataset, model = config.dataset, config.model
    if dataset.tokens_field is not None:
        columns = {"tokens_field": dataset.tokens_field, "prompt_tokens_field": dataset.prompt_tokens_field}
        limit = {"train": dataset.num_train, "validation": dataset.num_validation}[split]
        return None, define_imported_tokens(store, source, split, **columns, id_field=dataset.id_field, limit=limit)
    corpus = _corpus(dataset, store, source, split)
    tokens = define_tokens(
        store,
        corpus,
        model_path=model.path,
        revision=model.revision,
        chat_template=model.chat_template,
        length_limit=model.max_length,
    )
    return corpus, tokens


def _rule(config: RunConfig) -> TokenRule:
    stm = config.stm
    return TokenRule(
        name=stm.rule,
        threshold=stm.threshold,
        dpf_threshold=stm.dpf_threshold,
        quantile=stm.quantile,
        quantile_scope=stm.quantile_scope,
        seed=stm.mask_seed if stm.mask_seed is not None else config.seed,
    )


def _scores(
    config: RunConfig, store: Store, tokens: Artefact[TokenisedCorpus], resident: ResidentModel
) -> Artefact[TokenScores]:
    stm = config.stm
    if stm.scores_path is not None:
        return define_imported_scores(store, tokens, stm.scores_path)
    if stm.scorer is None:
        return define_scores(store, tokens, scorer=base_identity(config), load_scorer=resident.base)

    def load_other() -> nn.Module:
        assert stm.scorer is not None
        return resident.scorer(stm.scorer, stm.scorer_revision)

    scorer = base_identity(config) | {"model": model_identity(stm.scorer, stm.scorer_revision), "quantise": "none"}
    return define_scores(store, tokens, scorer=scorer, load_scorer=load_other)


def _tuned_scores(
    config: RunConfig, store: Store, tokens: Artefact[TokenisedCorpus], resident: ResidentModel
) -> Artefact[TokenScores] | None:
    folder = config.stm.tuned_adapter
    if config.stm.rule not in ("dpf", "stm_dpf") or folder is None:
        return None

    scorer = base_identity(config) | {"adapter": adapter_identity(folder)}
    return define_scores(store, tokens, scorer=scorer, load_scorer=lambda: resident.trained(folder))


def _task_names(config: RunConfig, source: Source) -> list[str]:
    """The target first, then the other tasks, each once."""
    target = config.dataset.task
    names = list(config.eval.tasks)
    if target is not None and (source.has_split("test") or config.dataset.test_fraction > 0):
        names = [target, *(name for name in names if name != target)]
    for name in names:
        if name not in TASKS:
            key = "dataset.task" if name == target else "eval.tasks"
            raise ConfigError(key, "must name known tasks", received=name, remedy=f"known: {', '.join(sorted(TASKS))}")
        if name != target and TASKS[name].lab_family is None:
            raise ConfigError(
                "eval.tasks",
                "a task other than the target must bring its own data",
                received=name,
                remedy=f"train on it (dataset={name}), or remove it",
            )
    return names


def _items(config: RunConfig, store: Store, source: Source, name: str) -> Artefact[Corpus]:
    """The held-out items of a task: the dataset's own test split for the target, the lab's for the others."""
    if name == config.dataset.task:
        return _corpus(config.dataset, store, source, "test", config.eval.num_items)
    family = TASKS[name].lab_family
    number = config.eval.num_items or DEFAULT_LAB_COUNTS["test"]
    dataset = DatasetConfig(
        name=name,
        task=name,
        lab_family=family,
        num_test=number,
        prompt="{{ question }}",
        response="{{ response }}",
        reference={},
    )
    return _corpus(dataset, store, open_source(dataset), "test")
