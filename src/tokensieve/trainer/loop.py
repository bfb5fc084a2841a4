"""One fit, in this process: alone, or as one rank of several."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from torch import nn
from torch.utils.data import DataLoader

from tokensieve.loader import StepLoader, ValidationBatch
from tokensieve.module import MaskedLMModule
from tokensieve.objective import Objective
from tokensieve.packing import Packing
from tokensieve.pruning import FitReport
from tokensieve.trainer.checkpoint import find_checkpoint
from tokensieve.trainer.devices import pick_precision
from tokensieve.trainer.precision import choose_precision
from tokensieve.trainer.recorder import FitRecorder
from tokensieve.trainer.result import write_result
from tokensieve.trainer.strategy import build_strategy, shard_model

log = logging.getLogger(__name__)


def fit(
    model: nn.Module,
    loader: StepLoader,
    validation: list[ValidationBatch],
    folder: Path,
    checkpoint_folder: Path,
    *,
    fit_digest: str,
    device: torch.device,
    precision: str,
    optimiser: Mapping[str, Any],
    grad_clip: float,
    validations_per_epoch: int,
    patience: int | None,
    checkpoint_seconds: float,
    on_metrics: Any = None,
    packing: Packing | None = None,
    objective: Objective | None = None,
    strategy: str = "single",
    devices: int = 1,
    num_nodes: int = 1,
    sharded_checkpoints: bool = False,
    trial: FitReport | None = None,
) -> None:
    """Train `model` and write `last/`, `best/` (adapter, or full weights) and the curve into `folder`.

    The validation split is read `validations_per_epoch` times and at the end. A checkpoint of the same fit in
    `checkpoint_folder` is continued, exactly: data order and dropout are functions of the step, and which passes are
    too large for memory is known again. Checkpoints of another fit are removed. With `strategy` ddp or fsdp this is one
    of `devices * num_nodes` ranks that an environment of torchrun or Slurm describes; loader and validation hold its
    part, rank 0 writes, and `on_metrics` hears on every rank of the numbers of all.

    Raises:
        TrainingError: a loss that is not finite, or an example that does not fit into memory, with its step.
        TrialPruned: on every rank, when rank 0's `trial` is hopeless at a validation.
    """
    interval = max(1, min(loader.steps_per_epoch // validations_per_epoch, len(loader)))
    validate_every = interval if validation else sys.maxsize
    recorder = FitRecorder(
        checkpoint_folder,
        fit_digest=fit_digest,
        checkpoint_seconds=checkpoint_seconds,
        patience=patience,
        validate_every=validate_every,
        trial=trial,
    )
    resume = find_checkpoint(recorder.checkpoint, fit_digest)
    if resume is not None:
        loader.start_step = resume.step
        log.info("resuming the fit after step %d of %d", resume.step, len(loader))

    def log_metrics(values: Mapping[str, float], step: int) -> None:
        recorder.record(values, step)
        if on_metrics is not None:
            on_metrics(values, step)

    shard = shard_model if strategy == "fsdp" else None
    module = MaskedLMModule(
        model,
        total_steps=len(loader),
        grad_clip=grad_clip,
        log_metrics=log_metrics,
        shard=shard,
        packing=packing,
        objective=objective,
        **optimiser,
    )
    ranks: dict[str, Any] = {"devices": devices, "num_nodes": num_nodes}
    if strategy != "single":
        ranks["strategy"] = build_strategy(strategy, devices * num_nodes, sharded_checkpoints=sharded_checkpoints)
        ranks["inference_mode"] = strategy != "fsdp"  # its buffers would be inference tensors, of no use to training
    arguments = ranks | choose_precision(pick_precision(precision, device), device, model)
    trainer = _build_trainer(recorder, device, validate_every if validation else None, arguments)
    _run(trainer, module, loader, validation, resume.path if resume is not None else None)
    write_result(module, recorder.curve, recorder.best_file, folder)


def _run(
    trainer: L.Trainer,
    module: MaskedLMModule,
    loader: StepLoader,
    validation: list[ValidationBatch],
    resume_from: str | None,
) -> None:
    batches: Any = DataLoader(validation, batch_size=None, collate_fn=_as_is) if validation else None  # type: ignore[arg-type]
    on_interrupt = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning.*")  # advice on workers and samplers that does not apply
        try:
            trainer.fit(module, loader, batches, ckpt_path=resume_from, weights_only=False)
        except SystemExit:  # what Lightning makes of Ctrl-C and SIGTERM; it also leaves SIGINT ignored
            signal.signal(signal.SIGINT, on_interrupt)
            raise KeyboardInterrupt from None


def _as_is(batch: ValidationBatch) -> ValidationBatch:
    return batch


def _build_trainer(
    recorder: FitRecorder, device: torch.device, validate_every: int | None, arguments: Mapping[str, Any]
) -> L.Trainer:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    show = sys.stderr.isatty()
    callbacks: list[Callback] = [recorder]
    if show:
        callbacks.append(TQDMProgressBar(refresh_rate=5))
    return L.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        max_epochs=1,  # the loader holds all epochs: a fit can then resume in the middle of one
        val_check_interval=validate_every,
        limit_val_batches=1.0 if validate_every is not None else 0,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=show,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **arguments,
    )
