"""Merging an adapter into its base, and checking on the written files that nothing was lost."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.config import RunConfig
from tokensieve.errors import AlignmentError, ConfigError
from tokensieve.export.folder import check_space
from tokensieve.export.records import Export
from tokensieve.export.verification import TOLERANCE, compare_logits, compute_logits
from tokensieve.length_limits import max_length
from tokensieve.model import first_line, load_tokenizer, resolve_path
from tokensieve.resident import ResidentModel
from tokensieve.template_day import with_own_template
from tokensieve.trained_model import TrainedModel

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

# An adapter whose whole effect is not much above what the merge rounds away is lost in the merged weights.
_LOST_SHARE = 0.25


def merge_adapter(trained: TrainedModel, aside: Path, target: Path, *, dtype: str) -> Export:
    """Write the merged model and its tokenizer into `aside`, to stand at `target`, and compare it with the unmerged.

    One model is in memory at a time. The comparison reads the written files.

    Raises:
        ConfigError: a base stored quantised; an adapter of another base.
        AlignmentError: the merged weights are not finite, or do not say what the unmerged say.
        CacheError: the disk lacks the room.
    """
    config, weights = trained.config.model, trained.weights
    assert weights is not None
    stored = read_stored(trained)
    tokenizer = load_tokenizer(config.path, config.revision, config.chat_template)
    limit = max_length(config.path, config.revision)
    quantised = _quantised_logits(trained, tokenizer) if trained.config.lora.quantise != "none" else None
    name = stored["dtype"] if dtype == "auto" else dtype
    models = ResidentModel(_unquantised(trained.config, name))
    base: Any = models.base()
    alone = compute_logits(base, tokenizer, max_length=limit)
    adapted: Any = models.trained(weights)
    expected = compute_logits(adapted, tokenizer, max_length=limit)
    check_space(target, sum(entry.numel() * entry.element_size() for entry in base.parameters()))
    try:
        merged: Any = adapted.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise AlignmentError(
            str(weights), "must merge into finite weights", received=first_line(error), remedy="train it again"
        ) from error
    merged.config.use_cache = stored["use_cache"]  # our loading switches it off, which would slow down every reader
    merged.save_pretrained(aside)
    with_own_template(tokenizer).save_pretrained(aside)
    del base, adapted, merged
    models.forget()
    written = compute_logits(models.trained(aside), tokenizer, max_length=limit)
    models.forget()
    export = Export(
        folder=target,
        dtype=name,
        merge=compare_logits(expected, written),
        effect=compare_logits(expected, alone),
        quantisation=compare_logits(quantised, written) if quantised is not None else None,
    )
    _check(export, weights)
    return export


def _check(export: Export, weights: Path) -> None:
    """Raise AlignmentError for a merge that is not within rounding; tell of an adapter that rounding swallows."""
    assert export.merge is not None
    assert export.effect is not None
    if not export.merge.relative <= TOLERANCE[export.dtype]:
        raise AlignmentError(
            str(weights),
            f"merged logits must equal the unmerged within a relative difference of {TOLERANCE[export.dtype]:g} "
            f"in {export.dtype}",
            received=f"{export.merge.relative:.3g}, the largest difference {export.merge.absolute:.3g}",
            remedy="its layers may be tied, or rounded too much: try --dtype float32, or use the adapter unmerged",
        )
    if export.merge.relative > _LOST_SHARE * export.effect.relative:
        log.warning(
            "note: %s weights round away much of this adapter: it moves logits by %.2g of their size, merging by %.2g; "
            "--dtype float32 keeps it, and so does the adapter unmerged",
            export.dtype,
            export.effect.relative,
            export.merge.relative,
        )


def read_stored(trained: TrainedModel) -> dict[str, Any]:
    """Dtype and cache setting of the base's own checkpoint.

    Raises:
        ConfigError: it cannot be read, or holds quantised weights, into which nothing can be merged without loss.
    """
    from transformers import AutoConfig

    model = trained.config.model
    try:
        config: Any = AutoConfig.from_pretrained(
            resolve_path(model.path), revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            "--model",
            "must be a causal language model that loads",
            received=f"{model.path}: {first_line(error)}",
            remedy="check the folder, or the hub id, the network and HF_TOKEN",
        ) from error
    if getattr(config, "quantization_config", None) is not None:
        raise ConfigError(
            "--model",
            "must be a checkpoint in 16 or 32 bits to merge into",
            received=f"{model.path}, which is stored quantised",
            remedy="give the original that it was quantised from with --model",
        )
    name = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
    return {"dtype": name if name in TOLERANCE else "float32", "use_cache": getattr(config, "use_cache", True)}


def _quantised_logits(trained: TrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[torch.Tensor]:
    """What the model said as it was trained and evaluated, on the 4-bit base."""
    assert trained.weights is not None
    model = ResidentModel(trained.config).trained(trained.weights)
    limit = max_length(trained.config.model.path, trained.config.model.revision)
    return compute_logits(model, tokenizer, max_length=limit)


def _unquantised(config: RunConfig, dtype: str) -> RunConfig:
    """The same base in 16 or 32 bits."""
    model: Any = replace(config.model, dtype=dtype)  # type: ignore[arg-type]  # one of the names that it takes
    return replace(config, model=model, lora=replace(config.lora, quantise="none"))
