"""Gradients of a scaled loss, where float16 would lose the small ones: unscaled before they are read, or given up."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch

log = logging.getLogger(__name__)


def unscale(scaler: torch.amp.GradScaler | None, optimiser: Any) -> None:
    """Divide the gradients of `optimiser` by the scale of the loss, if there is one: once a step, before clipping."""
    if scaler is None:
        return
    device = optimiser.param_groups[0]["params"][0].device
    scaler.scale(torch.zeros((), device=device))  # makes the scale, on a rank that had no pass to scale before
    scaler.unscale_(optimiser)


def overflows(scaler: torch.amp.GradScaler | None, loss: float, grad_norm: float, step: int) -> bool:
    """Whether step `step` is to be given up because only its scaled gradients leave float16's range; says so.

    False where the loss itself is not finite, and at a scale of 1 or less: then a lower one would not help.
    """
    if scaler is None or math.isfinite(grad_norm) or not math.isfinite(loss) or scaler.get_scale() <= 1:
        return False
    log.warning("step %d: gradients times %g leave float16's range; skipped, the scale falls", step, scaler.get_scale())
    return True
