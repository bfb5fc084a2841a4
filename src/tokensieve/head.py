"""The split of a causal model into its decoder and its output head, so that logits are made only where needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokensieve.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True)
class OutputHead:
    """The map from hidden states to logits: `softcap(scale * (hidden @ weight.T + bias))`.

    `scale` multiplies (Cohere's logit_scale; the inverse of Granite's logits_scaling); `softcap` c maps logits to
    c * tanh(logits / c) (Gemma 2).
    """

    weight: torch.Tensor  # [V, D]
    bias: torch.Tensor | None  # [V]
    scale: float = 1.0
    softcap: float | None = None


def split_head(model: nn.Module) -> tuple[nn.Module, OutputHead]:
    """The decoder (token ids -> hidden states [B, T, D]) and the output head of a causal model, adapter included.

    Raises:
        ConfigError: a model whose head is not a plain linear layer.
    """
    import torch

    causal: Any = model.get_base_model() if hasattr(model, "peft_config") else model  # type: ignore[operator]
    head = causal.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if not isinstance(weight, torch.Tensor) or hasattr(head, "lora_A"):
        raise ConfigError(
            "lora.target_modules",
            "must leave the output head a plain linear layer",
            received=type(head).__name__,
            remedy="use lora.target_modules=all-linear, which leaves the head alone",
        )
    config = causal.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return causal.get_decoder(), OutputHead(weight, getattr(head, "bias", None), scale, softcap)
