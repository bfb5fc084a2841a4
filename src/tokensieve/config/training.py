"""Config groups `optim`, `loss` and `trainer`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Optional

from tokensieve.config.rule import require

# Keys of `trainer` that say how a fit is executed. They change its result by rounding at most, so they enter neither
# its stamp nor a job's identity: a fit may be continued, and its result reused, on another number of devices.
TRAINER_EXECUTION_KEYS = ("strategy", "devices", "num_nodes", "sharded_checkpoints")


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
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several devices share a fit. ddp: each holds the whole model; auto is ddp. fsdp: weights, gradients and
    optimiser state are split over the devices (FSDP2)."""
    devices: int | str = 1
    """Devices of one fit on each node; auto: all that are visible. Above 1, a torchrun group of so many ranks fits."""
    num_nodes: int = 1
    """Machines of one fit. Above 1, torchrun or srun must start the program on each of them."""
    sharded_checkpoints: bool = False
    """fsdp only: every rank writes its part of an interrupted fit's state, instead of rank 0 the whole. Trained weights
    are always saved whole."""
    precision: Literal["auto", "32", "bf16-mixed", "bf16-true", "16-mixed"] = "auto"
    """auto: bf16-mixed where the accelerator computes in bfloat16 natively, else 32 (always 32 on CPU)."""
    epochs: int = 3
    max_steps: Optional[int] = None
    """Stop after so many optimiser steps, whatever `epochs` says."""
    batch_size: int = 16
    """Examples of one optimiser step, over all micro-batches and devices."""
    micro_batch_size: int = 16
    """Examples of one forward pass. The passes of an optimiser step, batch_size / micro_batch_size rounded up, are
    dealt to the devices in turn and accumulated; how many devices there are changes no step. A step that does not fit
    into memory is repeated in smaller passes."""
    batch_tokens: Optional[int] = None
    """Tokens of one forward pass, padding included; then micro_batch_size does not count. A longer example has a pass
    of its own. The examples of an optimiser step, and so its loss, stay those of batch_size."""
    group_by_length: bool = True
    """Put examples of similar length into one step: less padding, same data."""
    padding_free: bool = False
    """Lay the examples of a pass one after another in one row, without padding; none attends to another. Flash
    attention and sdpa compute each example alone; elsewhere a block-diagonal mask is used where it costs less than
    padding. Families that carry a state along the row are refused."""
    compile: bool = False
    """Compile the model's layers (torch.compile): slow first steps, faster ones after. Needs a C++ compiler, on GPUs
    Triton too."""
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
        for key in ("epochs", "batch_size", "micro_batch_size", "validations_per_epoch", "num_nodes"):
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
            self.batch_tokens is None or self.batch_tokens >= 1,
            "trainer.batch_tokens",
            "must be at least 1 token",
            self.batch_tokens,
            "leave it null to count examples",
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
        require(
            self.devices == "auto" or (isinstance(self.devices, int) and self.devices >= 1),
            "trainer.devices",
            "must be auto or at least 1",
            self.devices,
            "give the number of devices of each node",
        )
        require(
            self.strategy != "fsdp" or self.devices != 1 or self.num_nodes > 1,
            "trainer.strategy",
            "fsdp splits a model over at least 2 devices",
            f"trainer.devices={self.devices}",
            "set trainer.devices to auto or 2 and more, or use trainer=auto",
        )
        require(
            self.strategy == "fsdp" or not self.sharded_checkpoints,
            "trainer.sharded_checkpoints",
            "needs trainer.strategy=fsdp: otherwise every device holds the whole state",
            f"trainer.strategy={self.strategy}",
            "leave it false",
        )
        self._check_ranks()

    def _check_ranks(self) -> None:
        """Every device must get work: more devices than passes would only wait."""
        if isinstance(self.devices, int):
            check_share(self, self.devices * self.num_nodes)


def check_share(trainer: TrainerConfig, num_ranks: int) -> None:
    """Raise a ConfigError unless an optimiser step has a micro-batch for each of `num_ranks`, as far as is known.

    How many passes `batch_tokens` makes is known only when examples have lengths: of a step with fewer passes than
    ranks, some ranks get none.
    """
    batch_size, micro_batch_size = trainer.batch_size, trainer.micro_batch_size
    passes = -(-batch_size // micro_batch_size) if trainer.batch_tokens is None else batch_size
    require(
        passes >= num_ranks,
        "trainer.micro_batch_size",
        f"must leave each of the {num_ranks} devices a part of the {batch_size} examples of a step",
        micro_batch_size,
        f"at most {max(1, batch_size // num_ranks)}"
        if batch_size >= num_ranks
        else f"raise trainer.batch_size to {num_ranks} or more, or use fewer devices",
    )
