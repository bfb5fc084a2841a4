"""Precision of training where Lightning's own ways lose something: of gradients, of weights, of a batch's numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision, Precision
from torch import nn

from tokensieve.errors import ConfigError


class UnscaledBeforeStep(MixedPrecision):
    """`16-mixed` where the module has already unscaled the gradients: Lightning would do so after they are clipped.

    The scaler skips the step of an optimiser whose gradients are not finite, and lowers its scale.
    """

    def optimizer_step(  # type: ignore[override]  # as Lightning's own
        self, optimizer: Any, model: Any, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        closure()
        self._after_closure(model, optimizer)
        assert self.scaler is not None
        result = self.scaler.step(optimizer, **kwargs)
        self.scaler.update()
        return result


class HalfWeights(HalfPrecision):
    """`bf16-true` of weights alone. Losses of a reference and weights of tokens stay float32, and so do buffers, as
    where a checkpoint is loaded in bfloat16: the frequencies of rotary positions would lose 8 of their 24 bits."""

    def convert_module(self, module: nn.Module) -> nn.Module:
        exact = [(owner, key, value) for owner in module.modules() for key, value in owner.named_buffers(recurse=False)]
        module = super().convert_module(module)
        for owner, key, value in exact:
            setattr(owner, key, value)
        return module

    def convert_input(self, data: Any) -> Any:
        return data


def choose_precision(precision: str, device: torch.device, model: nn.Module) -> dict[str, Any]:
    """Arguments of Lightning's trainer for a `precision` that is not auto.

    Raises:
        ConfigError: mixed precision of trained weights that are 16 bits wide, whose updates would be lost in rounding.
    """
    if precision == "bf16-true":
        return {"plugins": [HalfWeights("bf16-true")]}
    if precision not in ("16-mixed", "bf16-mixed"):
        return {"precision": precision}
    half = {value.dtype for value in model.parameters() if value.requires_grad} & {torch.float16, torch.bfloat16}
    if half:
        raise ConfigError(
            "trainer.precision",
            f"{precision} trains weights of higher precision",
            received=f"weights in {str(half.pop()).removeprefix('torch.')}",
            remedy="set model.dtype=float32, or train an adapter (lora=r16)",
        )
    if precision == "bf16-mixed":
        return {"precision": precision}
    plugin: Precision = UnscaledBeforeStep("16-mixed", device.type, torch.amp.GradScaler(device.type))
    return {"plugins": [plugin]}
