"""Training in float16: gradients of a scaled loss, which are unscaled before anything reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
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


def choose_precision(precision: str, device: torch.device, model: nn.Module) -> dict[str, Any]:
    """Arguments of Lightning's trainer for a `precision` that is not auto.

    Raises:
        ConfigError: trained weights that are float16 themselves, whose updates would be lost in rounding.
    """
    if precision != "16-mixed":
        return {"precision": precision}
    if any(value.requires_grad and value.dtype == torch.float16 for value in model.parameters()):
        raise ConfigError(
            "trainer.precision",
            "16-mixed trains weights of higher precision",
            received="weights in float16",
            remedy="set model.dtype=float32, or train an adapter (lora=r16)",
        )
    plugin: Precision = UnscaledBeforeStep("16-mixed", device.type, torch.amp.GradScaler(device.type))
    return {"plugins": [plugin]}
