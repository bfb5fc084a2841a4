"""The adapter and the Lightning module that tests of losses and gradients train."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from tokensieve.adapter import attach_adapter
from tokensieve.module import MaskedLMModule
from tokensieve.objective import Objective


def attach_lora(model: PreTrainedModel, **changes: Any) -> nn.Module:
    """Rank 4 on all linear maps, without dropout; `changes`: of `attach_adapter`'s arguments."""
    options: dict[str, Any] = {
        "method": "lora",
        "rank": 4,
        "alpha": 8.0,
        "dropout": 0.0,
        "target_modules": "all-linear",
        "use_dora": False,
        "use_rslora": False,
        "seed": 1,
        "gradient_checkpointing": False,
    }
    return attach_adapter(model, **(options | changes))


def make_module(model: nn.Module, objective: Objective | None = None) -> MaskedLMModule:
    """One step of AdamW at 1e-2, not clipped, not logged."""
    return MaskedLMModule(
        model,
        optimiser="adamw",
        lr=1e-2,
        weight_decay=0.0,
        betas=(0.9, 0.999),
        schedule="constant",
        warmup_steps=0,
        total_steps=1,
        grad_clip=0.0,
        log_metrics=lambda values, step: None,
        objective=objective,
    )
