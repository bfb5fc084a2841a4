"""The weights of a run: which scores they are made of, as artefacts, and what its fit minimises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.adapter import adapter_identity
from tokensieve.config import RunConfig
from tokensieve.errors import ConfigError
from tokensieve.frozen_weights import FrozenRule, content_digest, define_frozen_weights
from tokensieve.model import model_identity
from tokensieve.records import TokenisedCorpus, TokenMask, TokenScores, TokenWeights
from tokensieve.resident import ResidentModel, base_identity, with_first_adapter
from tokensieve.score import define_scores
from tokensieve.store import Artefact, Store

if TYPE_CHECKING:
    from torch import nn

    from tokensieve.loader import TrainingRows
    from tokensieve.objective import Objective


def define_reference_scores(
    config: RunConfig, store: Store, tokens: Artefact[TokenisedCorpus], resident: ResidentModel
) -> Artefact[TokenScores] | None:
    """NLL under the reference of the rule rho: an adapter on the run's base, or a model; None for other rules.

    Raises:
        ConfigError: a folder that holds neither.
    """
    weight = config.weight
    path = weight.reference
    if weight.rule != "rho" or path is None:
        return None
    if (Path(path) / "adapter_config.json").is_file():
        scorer = base_identity(config) | {"adapter": adapter_identity(path)}
        return define_scores(store, tokens, scorer=scorer, load_scorer=lambda: resident.trained(path))
    try:
        model = model_identity(path, weight.reference_revision)
    except ConfigError as error:
        raise ConfigError(
            "weight.reference",
            "must be an adapter folder, a model folder, or a hub id like owner/name",
            received=path,
            remedy="check the spelling; relative folders start at the working directory",
        ) from error
    scorer = base_identity(config) | {"model": model, "quantise": "none"}

    def load() -> nn.Module:
        return resident.scorer(path, weight.reference_revision)

    return define_scores(store, tokens, scorer=scorer, load_scorer=load)


def define_weights(
    config: RunConfig,
    store: Store,
    mask: Artefact[TokenMask],
    scores: Artefact[TokenScores] | None,
    reference: Artefact[TokenScores] | None,
) -> Artefact[TokenWeights] | None:
    """The weights that are known before training; None for rules that are not. `scores`: the frozen scorer's."""
    weight = config.weight
    if not weight.needs_scores:
        return None
    assert scores is not None, "rules that need scores have them"
    rule = FrozenRule(weight.rule, level=weight.level, fraction=weight.fraction, keep=weight.keep)
    return define_frozen_weights(store, mask, rule, scores, reference)


def weighting_stamp(
    config: RunConfig, weights: Artefact[TokenWeights] | None, reference: Artefact[TokenScores] | None
) -> dict[str, Any]:
    """What weights and regulariser add to a fit's stamp; nothing where there are none. Builds frozen weights."""
    found: dict[str, Any] = {}
    if weights is not None:
        found["weights"] = content_digest(weights)
    elif config.weight.rule != "none":
        found["weight"] = {key: value for key, value in config.weight.identity().items() if "reference" not in key}
        if reference is not None:
            found["reference"] = reference.digest
    if config.regulariser.rule != "none":
        found["regulariser"] = config.regulariser.identity()
    return found


def collect_rows(
    config: RunConfig,
    tokens: Artefact[TokenisedCorpus],
    mask: Artefact[TokenMask],
    weights: Artefact[TokenWeights] | None,
    reference: Artefact[TokenScores] | None,
) -> TrainingRows:
    """What the loader reads: frozen weights have used the reference's scores already, online ones read them."""
    from tokensieve.loader import TrainingRows

    return TrainingRows.collect(
        tokens.get(),
        mask.get(),
        normalise=config.loss.normalise,
        weights=weights.get() if weights is not None else None,
        reference=reference.get() if reference is not None and weights is None else None,
    )


def build_objective(config: RunConfig, resident: ResidentModel) -> Objective | None:
    """What the fit minimises; None for the plain masked loss. Loads the frozen base once more for a full fine-tuning
    that is compared with it."""
    weight, regulariser = config.weight, config.regulariser
    if weight.rule == "none" and regulariser.rule == "none":
        return None
    from tokensieve.objective import Objective
    from tokensieve.packing import choose_packing
    from tokensieve.regulariser import Regulariser
    from tokensieve.token_weights import TokenWeighting

    weighting = TokenWeighting(
        rule="none" if weight.needs_scores else weight.rule,
        alpha=weight.alpha,
        top_k=weight.top_k,
        mode=weight.mode,
        threshold=weight.threshold,
        threshold_high=weight.threshold_high,
        fraction=weight.fraction,
        keep=weight.keep,
    )
    if regulariser.rule == "asft":
        weighting = replace(weighting, rule="dft")
    reference = None
    if regulariser.compares and config.lora.method == "none":
        base = resident.scorer(config.model.path, config.model.revision)
        reference = with_first_adapter(base, config).requires_grad_(False)
        if config.trainer.padding_free:  # prepares it to read the rows that the model in training reads
            choose_packing(reference)
        if config.widens_weights:  # an unchanged model is at distance 0
            reference = reference.float()
    penalty = Regulariser(regulariser.rule, regulariser.coefficient, regulariser.divergence)
    return Objective(weighting, penalty, reference)
