"""How many positions a model has, read from its folder or from the loaded model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tokensieve.model import resolve_path

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


def _positions(config: Any) -> int | None:
    part = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    limit = getattr(part, "max_position_embeddings", None)
    return int(limit) if limit is not None and limit > 0 else None
