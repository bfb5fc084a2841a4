"""Optimisers by their config name."""

from __future__ import annotations

import torch
from torch import nn

from tokensieve.errors import ConfigError


def build_optimiser(
    name: str, parameters: list[nn.Parameter], lr: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    """The optimiser by its config name.

    Raises:
        ConfigError: an 8-bit or paged optimiser without bitsandbytes.
    """
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)
    if name == "adafactor":
        from transformers.optimization import Adafactor

        # torch's own multiplies the rate by the size of the weights: an adapter, whose B starts at 0, hardly moves.
        return Adafactor(parameters, lr=lr, weight_decay=weight_decay, scale_parameter=False, relative_step=False)
    try:
        from bitsandbytes import optim as bnb_optim
    except ImportError as error:
        raise ConfigError(
            "optim.name",
            f"{name} needs bitsandbytes",
            received=str(error),
            remedy="pip install bitsandbytes, or optim=adamw",
        ) from error
    name_of = {"adamw_8bit": "AdamW8bit", "paged_adamw_32bit": "PagedAdamW32bit"}
    optimiser: torch.optim.Optimizer = getattr(bnb_optim, name_of[name])(
        parameters, lr=lr, betas=betas, weight_decay=weight_decay
    )
    return optimiser
