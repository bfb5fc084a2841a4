"""Config groups `optim`, `loss` and `trainer`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Optional

from tokensieve.config.rule import require


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    """Optimiser and learning-rate schedule."""

    name: Literal["adamw", "adamw_8bit", "paged_adamw_32bit", "adafactor"] = "adamw"
    lr: float = 2e-5
    """Peak learning rate; 2e-5 is the papers' for 2-9 B models. The lab sets its own (conf/model/lab.yaml)."""
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 10
    """Optimiser steps of linear warm-up; capped at a tenth of the run."""

    def __post_init__(self) -> None:
        require(
            0 < self.lr < math.inf, "optim.lr", "must be a finite number above 0", self.lr, "2e-5 is the papers' choice"
        )
        require(self.weight_decay >= 0, "optim.weight_decay", "must be at least 0", self.weight_decay, "use 0")
        for key in ("beta1", "beta2"):
            require(0 <= getattr(self, key) < 1, f"optim.{key}", "must be in [0, 1)", getattr(self, key), "0.9, 0.999")
        require(self.warmup_steps >= 0, "optim.warmup_steps", "must be at least 0", self.warmup_steps, "use 10")


@dataclass(kw_only=True, slots=True)
class LossConfig:
    """The denominator of the loss: published methods differ in it, and it scales the learning rate."""

    normalise: Literal["kept", "response"] = "kept"
    """kept: divide by the trained tokens of the optimiser step (the STM code). response: by all its response tokens,
    so that masking also lowers the effective learning rate."""


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    """How the fit is executed; the same for every arm."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "32", "bf16-mixed", "bf16-true", "16-mixed"] = "auto"
    """auto: bf16-mixed where the accelerator computes in bfloat16 natively, else 32 (always 32 on CPU)."""
    epochs: int = 3
    max_steps: Optional[int] = None
    """Stop after so many optimiser steps, whatever `epochs` says."""
    batch_size: int = 16
    """Examples of one optimiser step, over all micro-batches and devices."""
    micro_batch_size: int = 16
    """Examples of one forward pass; batch_size / micro_batch_size passes are accumulated."""
    group_by_length: bool = True
    """Put examples of similar length into one step: less padding, same data."""
    grad_clip: float = 1.0
    """Maximal gradient norm; 0 for no clipping."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    validations_per_epoch: int = 1
    patience: Optional[int] = None
    """Early stopping: validations in a row without a better NLL; null: never stop early."""
    evaluate_checkpoint: Literal["last", "best"] = "last"
    """Which adapter is evaluated and kept as `adapter`: the last, or the one of the best validation NLL."""
    checkpoint_seconds: float = 60.0
    """Seconds between the checkpoints from which an interrupted fit resumes."""

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "micro_batch_size", "validations_per_epoch"):
            require(
                getattr(self, key) >= 1, f"trainer.{key}", "must be at least 1", getattr(self, key), "use 1 or more"
            )
        require(
            self.max_steps is None or self.max_steps >= 1,
            "trainer.max_steps",
            "must be at least 1",
            self.max_steps,
            "leave it null to run all epochs",
        )
        require(
            self.patience is None or self.patience >= 1,
            "trainer.patience",
            "must be at least 1 validation",
            self.patience,
            "leave it null to never stop early",
        )
        require(
            self.grad_clip >= 0, "trainer.grad_clip", "must be at least 0", self.grad_clip, "use 1.0, or 0 for none"
        )
        require(
            self.checkpoint_seconds > 0,
            "trainer.checkpoint_seconds",
            "must be above 0",
            self.checkpoint_seconds,
            "use 60",
        )
