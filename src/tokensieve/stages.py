"""The stage order, written once: config -> data -> tokens -> scores -> mask (then fit, evaluations).

Everything here is lazy: `define_stages` computes stamps only, so that a dry run can say what is cached without
loading a library, and a run builds exactly what it lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokensieve.adapter import adapter_identity
from tokensieve.config import RunConfig
from tokensieve.corpora import define_evaluation_sets, define_items, define_split, find_tasks, open_source
from tokensieve.errors import ConfigError
from tokensieve.mask import define_mask
from tokensieve.model import model_identity
from tokensieve.records import Corpus, TokenisedCorpus, TokenMask, TokenScores, TokenWeights
from tokensieve.resident import ResidentModel, base_identity
from tokensieve.responses import define_noisy, define_rewritten
from tokensieve.score import define_imported_scores, define_scores
from tokensieve.sources import Source
from tokensieve.store import Artefact, Store
from tokensieve.token_rules import TokenRule
from tokensieve.tokenise import define_imported_tokens, define_tokens
from tokensieve.weighting import define_reference_scores, define_weights

if TYPE_CHECKING:
    from torch import nn


@dataclass(slots=True)
class Stages:
    """Every artefact of one run up to the mask, the items of every task, and how to define the rest."""

    config: RunConfig
    store: Store
    resident: ResidentModel
    corpora: dict[str, Artefact[Corpus]]  # stage -> the training examples after it; none for data that comes as tokens
    tokens: Artefact[TokenisedCorpus]
    validation_tokens: Artefact[TokenisedCorpus] | None
    scores: Artefact[TokenScores] | None
    mask: Artefact[TokenMask]
    validation_mask: Artefact[TokenMask] | None
    items: dict[str, Artefact[Corpus]]
    reference: Artefact[TokenScores] | None = None  # of the second scorer that a weight rule reads
    weights: Artefact[TokenWeights] | None = None  # those that are known before training

    def training_data(self) -> dict[str, Artefact[Any]]:
        """What the fit reads, by stage, in order."""
        found: dict[str, Artefact[Any] | None] = {"tokenise": self.tokens, "score": self.scores}
        found |= {"score reference": self.reference, "mask": self.mask, "weigh": self.weights}
        return self.corpora | {stage: artefact for stage, artefact in found.items() if artefact is not None}

    @property
    def train(self) -> Artefact[Corpus] | None:
        """The examples that are trained, after noise and variant."""
        return next(reversed(self.corpora.values()), None)

    def count_trained(self) -> int:
        """Examples with a token that is trained. Builds the mask, and the weights where there are any."""
        if self.weights is not None:
            return self.weights.get().num_trained
        stats = self.mask.get().stats
        return stats.num_examples - stats.dropped_examples

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
    corpora = {} if config.dataset.tokens_field is not None else _corpora(config, store, source, resident)
    tokens = _tokens(config, store, source, "train", next(reversed(corpora.values()), None))
    has_validation = source.has_split("validation") or config.dataset.val_fraction > 0
    validation_tokens = None
    if has_validation:
        held_out = define_split(config.dataset, store, source, "validation") if corpora else None
        validation_tokens = _tokens(config, store, source, "validation", held_out)
    rule = _rule(config)
    needs_scores = config.stm.needs_scores or config.weight.needs_scores
    scores = _scores(config, store, tokens, resident) if needs_scores else None
    mask = define_mask(store, tokens, rule, scores, _tuned_scores(config, store, tokens, resident))
    reference = define_reference_scores(config, store, tokens, resident)
    weights = define_weights(config, store, mask, scores, reference)
    validation_mask = None
    if validation_tokens is not None:
        # Imported scores describe the training texts only: the validation NLL is then taken over all response tokens.
        measured = rule if config.stm.scores_path is None else TokenRule("none")
        held_out_scores = _scores(config, store, validation_tokens, resident) if measured.name != "none" else None
        tuned = _tuned_scores(config, store, validation_tokens, resident) if measured.name != "none" else None
        validation_mask = define_mask(store, validation_tokens, measured, held_out_scores, tuned, split="validation")
    items = {name: define_items(config, store, name) for name in find_tasks(config, source)}
    return Stages(
        config,
        store,
        resident,
        corpora,
        tokens,
        validation_tokens,
        scores,
        mask,
        validation_mask,
        items,
        reference,
        weights,
    )


def require_validation(stages: Stages) -> None:
    """Raise a ConfigError where the trainer is to choose by a validation split that there is not."""
    trainer = stages.config.trainer
    key = "patience" if trainer.patience is not None else "evaluate_checkpoint"
    if stages.validation_tokens is None and (key == "patience" or trainer.evaluate_checkpoint == "best"):
        raise ConfigError(
            f"trainer.{key}",
            "needs a validation split, whose NLL tells when to stop and which checkpoint is best",
            received=f"{stages.config.dataset.name} without one",
            remedy="hold rows out (dataset.val_fraction=0.1, or a validation file where rows come as tokens), or set "
            "trainer.patience=null trainer.evaluate_checkpoint=last",
        )


def _corpora(config: RunConfig, store: Store, source: Source, resident: ResidentModel) -> dict[str, Artefact[Corpus]]:
    """The training examples after each stage that changes them."""
    dataset = config.dataset
    evaluation = define_evaluation_sets(config, store, source) if dataset.deduplicate != "none" else None
    clean = define_split(dataset, store, source, "train", evaluation=evaluation)
    noisy = define_noisy(config, store, source, clean)
    losses = None
    if config.variant.name == "self_select" and config.variant.select_by == "loss":
        tokens = _tokens(config, store, source, "train", noisy)
        losses = tokens, define_scores(store, tokens, scorer=base_identity(config), load_scorer=resident.base)
    rewritten = define_rewritten(config, store, noisy, resident, losses)
    stages = {"dataset": clean, "noise": noisy, "variant": rewritten}
    previous = {"noise": clean, "variant": noisy}
    return {stage: corpus for stage, corpus in stages.items() if corpus is not previous.get(stage)}


def _tokens(
    config: RunConfig, store: Store, source: Source, split: str, corpus: Artefact[Corpus] | None
) -> Artefact[TokenisedCorpus]:
    """The tokens of a corpus, or of a split whose rows come as tokens."""
    dataset, model = config.dataset, config.model
    if corpus is None:
        columns = {"tokens_field": str(dataset.tokens_field), "prompt_tokens_field": dataset.prompt_tokens_field}
        wanted = {"train": dataset.num_train, "validation": dataset.num_validation}[split]
        limit = min((number for number in (wanted, dataset.limit) if number is not None), default=None)
        return define_imported_tokens(
            store,
            source,
            split,
            **columns,
            id_field=dataset.id_field,
            limit=limit,
            length_limit=model.max_length,
        )
    return define_tokens(
        store,
        corpus,
        train_on=dataset.train_on,
        model_path=model.path,
        revision=model.revision,
        chat_template=model.chat_template,
        length_limit=model.max_length,
    )


def _rule(config: RunConfig) -> TokenRule:
    stm = config.stm
    return TokenRule(
        name=stm.rule,
        threshold=stm.threshold,
        dpf_threshold=stm.dpf_threshold,
        dpf_keep=stm.dpf_keep,
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
