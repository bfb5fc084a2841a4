"""Stage 8, as an artefact: the trained weights of a run, stamped by everything that decides them."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokensieve.mask import content_digest
from tokensieve.records import Stamp
from tokensieve.resident import base_identity
from tokensieve.stages import Stages
from tokensieve.store import Artefact

VERSION = 1


def define_fit(stages: Stages, run_dir: Path, on_metrics: Any = None) -> Artefact[Path]:
    """The folder with `last/`, `best/` and the curve, not yet trained.

    Needs the masks' content, so that equal masks train once whatever rule made them. `run_dir` keeps the checkpoints
    of an interrupted fit; `on_metrics(values, step)` hears of every step.
    """
    config = stages.config
    validation = stages.validation_tokens.digest if stages.validation_tokens is not None else None
    held_out_mask = content_digest(stages.validation_mask) if stages.validation_mask is not None else None
    trainer = {
        key: value
        for key, value in asdict(config.trainer).items()
        if key not in ("checkpoint_seconds", "evaluate_checkpoint")
    }
    adapter = {key: value for key, value in asdict(config.lora).items() if key != "name"}
    inputs: dict[str, Any] = {
        "version": VERSION,
        "base": base_identity(config),
        "tokens": stages.tokens.digest,
        "mask": content_digest(stages.mask),
        "validation": [validation, held_out_mask],
        "lora": adapter if config.lora.method != "none" else None,
        "optim": asdict(config.optim),
        "loss": asdict(config.loss),
        "trainer": trainer,
        "seed": config.seed,
        "libraries": {name: version(name) for name in ("torch", "transformers", "peft", "lightning")},
    }
    stamp = Stamp("fit", inputs)

    def build(folder: Path) -> None:
        _fit(stages, folder, run_dir / "checkpoints", stamp.digest, on_metrics)

    return Artefact(stamp, stages.store, build, lambda folder: folder)


def _fit(stages: Stages, folder: Path, checkpoint_folder: Path, fit_digest: str, on_metrics: Any) -> None:
    from tokensieve.adapter import attach_adapter
    from tokensieve.loader import StepLoader, TrainingRows, validation_batches
    from tokensieve.model import load_tokenizer
    from tokensieve.trainer import fit, pick_device

    config, trainer, optim = stages.config, stages.config.trainer, stages.config.optim
    tokenizer = load_tokenizer(config.model.path, config.model.revision, config.model.chat_template)
    pad_id = int(tokenizer.pad_token_id or 0)
    rows = TrainingRows.collect(stages.tokens.get(), stages.mask.get(), normalise=config.loss.normalise)
    loader = StepLoader(
        rows,
        epochs=trainer.epochs,
        max_steps=trainer.max_steps,
        batch_size=trainer.batch_size,
        micro_batch_size=trainer.micro_batch_size,
        group_by_length=trainer.group_by_length,
        seed=config.seed,
        pad_id=pad_id,
    )
    held_out = []
    if stages.validation_tokens is not None and stages.validation_mask is not None:
        held_out = validation_batches(
            stages.validation_tokens.get(),
            stages.validation_mask.get(),
            batch_size=trainer.micro_batch_size,
            pad_id=pad_id,
        )
    adapter = {
        key: value for key, value in asdict(config.lora).items() if key not in ("name", "quantise", "double_quantise")
    }
    model = attach_adapter(
        stages.resident.base(), **adapter, seed=config.seed, gradient_checkpointing=trainer.gradient_checkpointing
    )
    settings = {
        "optimiser": optim.name,
        "lr": optim.lr,
        "weight_decay": optim.weight_decay,
        "betas": (optim.beta1, optim.beta2),
        "schedule": optim.schedule,
        "warmup_steps": optim.warmup_steps,
    }
    try:
        fit(
            model,
            loader,
            held_out,
            folder,
            checkpoint_folder,
            fit_digest=fit_digest,
            device=pick_device(trainer.accelerator),
            precision=trainer.precision,
            optimiser=settings,
            grad_clip=trainer.grad_clip,
            validations_per_epoch=trainer.validations_per_epoch,
            patience=trainer.patience,
            checkpoint_seconds=trainer.checkpoint_seconds,
            on_metrics=on_metrics,
        )
    finally:
        stages.resident.forget()
