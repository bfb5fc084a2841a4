"""Stage 8, as an artefact: the trained weights of a run, stamped by everything that decides them."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokensieve.config import RunConfig, to_yaml
from tokensieve.config.training import TRAINER_EXECUTION_KEYS
from tokensieve.errors import TrialPruned
from tokensieve.installed import version
from tokensieve.mask import content_digest
from tokensieve.ranks import Layout, plan_ranks
from tokensieve.records import Stamp
from tokensieve.resident import base_identity
from tokensieve.stages import Stages
from tokensieve.store import Artefact
from tokensieve.trainable import make_trainable
from tokensieve.weighting import build_objective, collect_rows, weighting_stamp

VERSION = 2


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
        if key not in ("checkpoint_seconds", "evaluate_checkpoint", *TRAINER_EXECUTION_KEYS)
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
        **weighting_stamp(config, stages.weights, stages.reference),
        "libraries": {name: version(name) for name in ("torch", "transformers", "peft", "lightning")},
    }
    stamp = Stamp("fit", inputs)

    def build(folder: Path) -> None:
        try:
            _fit(stages, folder, run_dir / "checkpoints", stamp.digest, on_metrics)
        except TrialPruned:  # nobody will go on with it
            shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
            raise

    return Artefact(stamp, stages.store, build, lambda folder: folder)


def _fit(stages: Stages, folder: Path, checkpoint_folder: Path, fit_digest: str, on_metrics: Any) -> None:
    """In this process, or on the ranks of a group: one that is started here, or the one that this process leads."""
    layout = plan_ranks(stages.config)
    if layout.strategy != "fsdp" and checkpoint_folder.is_dir():
        from tokensieve.trainer import make_whole

        make_whole(checkpoint_folder)
    if layout.num_ranks == 1:
        fit_here(stages, folder, checkpoint_folder, fit_digest, on_metrics, layout=layout)
        return
    from tokensieve.ranks.group import fit_in_group
    from tokensieve.ranks.joined import share_order
    from tokensieve.ranks.order import FitOrder

    _free_devices(stages)
    order = FitOrder(
        config=to_yaml(stages.config),
        cache=str(stages.store.root.absolute()),
        folder=str(folder.absolute()),
        checkpoints=str(checkpoint_folder.absolute()),
        digest=fit_digest,
        reports=str((checkpoint_folder.parent / "ranks").absolute()),
        owner=os.getpid(),
    )
    if layout.joined is None:
        fit_in_group(order, layout.devices, on_metrics, total_steps=_count_steps(stages))
        return
    share_order(order)
    fit_here(stages, folder, checkpoint_folder, fit_digest, on_metrics, layout=layout)


def _count_steps(stages: Stages) -> int:
    trainer = stages.config.trainer
    steps = trainer.epochs * -(-stages.count_trained() // trainer.batch_size)
    return min(steps, trainer.max_steps or steps)


def _free_devices(stages: Stages) -> None:
    """Leave the accelerator's memory to the ranks: the base that scored and was evaluated is loaded again after."""
    from tokensieve.memory import free_memory

    stages.resident.forget()
    free_memory()


def fit_here(
    stages: Stages,
    folder: Path,
    checkpoint_folder: Path,
    fit_digest: str,
    on_metrics: Any,
    *,
    layout: Layout,
    rows_limit: int | None = None,
) -> None:
    """Fit in this process, alone or as one rank of `layout`; `rows_limit` cuts passes that do not fit into memory."""
    from tokensieve.loader import StepLoader, validation_batches
    from tokensieve.micro_batches import PassShape
    from tokensieve.model import load_tokenizer
    from tokensieve.pruning import FitReport
    from tokensieve.trainer import fit, pick_device, select_device

    if layout.joined is not None:
        select_device(layout.joined.local_rank)
    config, trainer = stages.config, stages.config.trainer
    tokenizer = load_tokenizer(config.model.path, config.model.revision, config.model.chat_template)
    pad_id = int(tokenizer.pad_token_id or 0)
    rank, num_ranks = layout.joined.rank if layout.joined is not None else 0, layout.num_ranks
    rows = collect_rows(config, stages.tokens, stages.mask, stages.weights, stages.reference)
    loader = StepLoader(
        rows,
        epochs=trainer.epochs,
        max_steps=trainer.max_steps,
        batch_size=trainer.batch_size,
        shape=PassShape(trainer.micro_batch_size, trainer.batch_tokens, trainer.padding_free),
        group_by_length=trainer.group_by_length,
        seed=config.seed,
        pad_id=pad_id,
        rank=rank,
        num_ranks=num_ranks,
        lockstep=layout.strategy == "fsdp",
        rows_limit=rows_limit,
    )
    held_out = []
    if stages.validation_tokens is not None and stages.validation_mask is not None:
        held_out = validation_batches(
            stages.validation_tokens.get(),
            stages.validation_mask.get(),
            shape=PassShape(rows_limit) if rows_limit else PassShape(trainer.micro_batch_size, trainer.batch_tokens),
            pad_id=pad_id,
            rank=rank,
            num_ranks=num_ranks,
        )
    model, packing = make_trainable(stages, layout)
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
            optimiser=_optimiser_settings(config),
            grad_clip=trainer.grad_clip,
            packing=packing,
            objective=build_objective(config, stages.resident),
            validations_per_epoch=trainer.validations_per_epoch,
            patience=trainer.patience,
            checkpoint_seconds=trainer.checkpoint_seconds,
            on_metrics=on_metrics,
            strategy=layout.strategy,
            devices=layout.devices,
            num_nodes=layout.num_nodes,
            sharded_checkpoints=trainer.sharded_checkpoints,
            trial=FitReport(config.search) if config.search.prunes_fits else None,
        )
    finally:
        stages.resident.forget()


def _optimiser_settings(config: RunConfig) -> dict[str, Any]:
    optim = config.optim
    return {
        "optimiser": optim.name,
        "lr": optim.lr,
        "weight_decay": optim.weight_decay,
        "betas": (optim.beta1, optim.beta2),
        "schedule": optim.schedule,
        "warmup_steps": optim.warmup_steps,
    }
