"""How many positions a model has, read from its folder or from the loaded model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tokensieve.errors import DataError
from tokensieve.model import resolve_path
from tokensieve.records import TokenisedCorpus

if TYPE_CHECKING:
    from torch import nn


def max_length(path: str, revision: str | None) -> int | None:
    """Positions that the checkpoint's config allows; None when it states none."""
    from transformers import AutoConfig, PretrainedConfig

    name = resolve_path(path)
    try:
        return _positions(AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False))
    except ValueError:  # a class of the checkpoint's own: its code is not needed to read a number
        values, _ = PretrainedConfig.get_config_dict(name, revision=revision)
        return _positions(SimpleNamespace(**values.get("text_config", values)))


def length_limit(model: nn.Module) -> int | None:
    """Positions that the model's config allows; None when it states none."""
    return _positions(model.config)


def check_lengths(model: nn.Module, corpus: TokenisedCorpus) -> None:
    """Refuse rows of more tokens than `model` has positions for; those that came as tokens were not measured before.

    Raises:
        DataError: a row is too long.
    """
    limit = length_limit(model)
    for name, ids in zip(corpus.rows["id"], corpus.rows["input_ids"], strict=True):
        if limit is not None and len(ids) > limit:
            raise DataError(
                f"example {name}",
                f"must have at most {limit} tokens, the model's limit",
                received=len(ids),
                remedy="shorten or remove it, or choose the model that the rows were tokenised for",
            )


def _positions(config: Any) -> int | None:
    part = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    limit = getattr(part, "max_position_embeddings", None)
    return int(limit) if limit is not None and limit > 0 else None
