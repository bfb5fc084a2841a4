"""The model that a fit trains: the base on the right device and in the right precision, with a fresh adapter."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from tokensieve.ranks import Layout
from tokensieve.resident import with_first_adapter
from tokensieve.stages import Stages

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from tokensieve.packing import Packing


def make_trainable(stages: Stages, layout: Layout) -> tuple[nn.Module, Packing | None]:
    """The base with a fresh adapter, or all of its weights free; and how it takes rows without padding, if it does."""
    from tokensieve.adapter import attach_adapter
    from tokensieve.compilation import check_compiler, compile_layers
    from tokensieve.length_limits import check_lengths
    from tokensieve.packing import choose_packing
    from tokensieve.trainer import pick_device

    config, trainer = stages.config, stages.config.trainer
    if trainer.compile:
        check_compiler(pick_device(trainer.accelerator))
    base = _load_base(stages, layout)
    if config.dataset.tokens_field is not None:
        check_lengths(base, stages.tokens.get())
    packing = None
    if trainer.padding_free:  # before the weights are widened: flash kernels take 16 bits, to which autocast narrows
        packing = choose_packing(base, can_run=base.device.type == pick_device(trainer.accelerator).type)
    if config.widens_weights:
        base = base.float()
    adapter = {
        key: value for key, value in asdict(config.lora).items() if key not in ("name", "quantise", "double_quantise")
    }
    model = attach_adapter(base, **adapter, seed=config.seed, gradient_checkpointing=trainer.gradient_checkpointing)
    if trainer.compile:
        compile_layers(model)
    return model, packing


def _load_base(stages: Stages, layout: Layout) -> PreTrainedModel:
    """The base on this rank's device; in main memory, where it is to be split over devices that it may not fit into."""
    if layout.strategy != "fsdp":
        return stages.resident.base()
    import torch

    from tokensieve.model import load_base, pick_dtype
    from tokensieve.trainer import pick_device

    model = stages.config.model
    dtype = pick_dtype(model.dtype, pick_device(stages.config.trainer.accelerator))
    base = load_base(
        model.path,
        model.revision,
        dtype=str(dtype).removeprefix("torch."),
        attention=model.attention,
        device=torch.device("cpu"),
        trust_remote_code=model.trust_remote_code,
    )
    return with_first_adapter(base, stages.config)
