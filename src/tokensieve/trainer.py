"""Stage 8, fit: one Lightning trainer for every arm, resumable at any step, its result a folder of trained weights."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from torch import nn
from torch.utils.data import DataLoader

from tokensieve.errors import ConfigError
from tokensieve.loader import StepLoader, ValidationBatch
from tokensieve.module import MaskedLMModule

LAST_CHECKPOINT = "last.ckpt"
CURVE_FILE = "curve.jsonl"
log = logging.getLogger(__name__)


def pick_device(accelerator: str) -> torch.device:
    """The device that `accelerator` (auto, cpu, gpu) names on this machine.

    Raises:
        ConfigError: gpu asked for and none is usable.
    """
    available = torch.cuda.is_available()
    if accelerator == "gpu" and not available:
        raise ConfigError(
            "trainer.accelerator",
            "gpu needs a CUDA device that torch can use",
            received="none visible",
            remedy="use trainer=cpu, or check CUDA_VISIBLE_DEVICES and the driver",
        )
    return torch.device("cuda" if available and accelerator != "cpu" else "cpu")


def pick_precision(precision: str, device: torch.device) -> Any:
    """`auto` resolved: bf16-mixed on an accelerator that computes in bfloat16, else 32."""
    if precision != "auto":
        return precision
    return "bf16-mixed" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "32"


class FitRecorder(Callback):
    """Writes the curve, checkpoints by time, keeps the best weights, stops early. Knows no tracking service."""

    def __init__(
        self,
        checkpoint_folder: Path,
        *,
        fit_digest: str,
        checkpoint_seconds: float,
        patience: int | None,
        validate_every: int,
    ) -> None:
        self.best_file = checkpoint_folder / "best.pt"
        self.checkpoint = checkpoint_folder / LAST_CHECKPOINT
        self.curve: list[dict[str, float]] = []
        self.best = math.inf
        self.validations_since_best = 0
        self._fit_digest = fit_digest
        self._checkpoint_seconds = checkpoint_seconds
        self._patience = patience
        self._validate_every = validate_every
        self._saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {
            "curve": self.curve,
            "best": self.best,
            "since_best": self.validations_since_best,
            "fit": self._fit_digest,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.curve, self.best = state_dict["curve"], state_dict["best"]
        self.validations_since_best = state_dict["since_best"]

    def record(self, values: Mapping[str, float], step: int) -> None:
        self.curve.append({"step": step, "time": time.time(), **values})

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        # Where a validation follows, the checkpoint waits for it: a resumed fit would never make it up.
        if trainer.global_step % self._validate_every:
            self._save_when_due(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, MaskedLMModule)
        values = pl_module.validation_nll()
        pl_module.log_metrics(values, trainer.global_step)
        monitored = values["val/nll_kept"] if math.isfinite(values["val/nll_kept"]) else values["val/nll"]
        if monitored < self.best:
            self.best, self.validations_since_best = monitored, 0
            _write_aside(self.best_file, lambda path: torch.save(pl_module.trainable_state(), path))
        else:
            self.validations_since_best += 1
        if self._patience is not None and self.validations_since_best >= self._patience:
            log.info(
                "early stop after step %d: %d validations without a better NLL", trainer.global_step, self._patience
            )
            trainer.should_stop = True
        self._save_when_due(trainer)

    def _save_when_due(self, trainer: L.Trainer) -> None:
        if time.monotonic() - self._saved_at >= self._checkpoint_seconds:
            _write_aside(self.checkpoint, lambda path: trainer.save_checkpoint(path))
            self._saved_at = time.monotonic()


def _write_aside(target: Path, write: Any) -> None:
    """`write(path)` beside `target`, then rename: a killed process leaves the old file or the new one, never half."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_suffix(".partial")
    write(aside)
    os.replace(aside, target)


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
) -> None:
    """Train `model` and write `last/`, `best/` (adapter, or full weights) and the curve into `folder`.

    A checkpoint of the same fit in `checkpoint_folder` is continued, exactly: data order and dropout are functions
    of the step. Checkpoints of another fit are removed.

    Raises:
        TrainingError: a loss that is not finite, with its step.
    """
    validate_every = max(1, loader.steps_per_epoch // validations_per_epoch) if validation else sys.maxsize
    recorder = FitRecorder(
        checkpoint_folder,
        fit_digest=fit_digest,
        checkpoint_seconds=checkpoint_seconds,
        patience=patience,
        validate_every=validate_every,
    )
    resume_from = _find_checkpoint(recorder.checkpoint, fit_digest, loader)

    def log_metrics(values: Mapping[str, float], step: int) -> None:
        recorder.record(values, step)
        if on_metrics is not None:
            on_metrics(values, step)

    module = MaskedLMModule(model, total_steps=len(loader), grad_clip=grad_clip, log_metrics=log_metrics, **optimiser)
    trainer = _build_trainer(
        recorder, device, pick_precision(precision, device), validate_every if validation else None
    )
    batches: Any = DataLoader(validation, batch_size=None, collate_fn=_as_is) if validation else None  # type: ignore[arg-type]
    on_interrupt = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning.*")  # advice on workers and samplers that does not apply
        try:
            trainer.fit(module, loader, batches, ckpt_path=resume_from, weights_only=False)
        except SystemExit:  # what Lightning makes of Ctrl-C and SIGTERM; it also leaves SIGINT ignored
            signal.signal(signal.SIGINT, on_interrupt)
            raise KeyboardInterrupt from None
    _write_results(model, recorder, folder)


def _as_is(batch: ValidationBatch) -> ValidationBatch:
    return batch


def _find_checkpoint(checkpoint: Path, fit_digest: str, loader: StepLoader) -> str | None:
    """Path of a checkpoint to continue, after setting the loader's start; None when there is none of this fit."""
    if not checkpoint.is_file():
        return None
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=False)
        state = saved["callbacks"]["FitRecorder"]
        step = int(saved["global_step"])
    except Exception as error:  # whatever a damaged pickle raises, the fit can start over
        log.warning("checkpoint %s cannot be read (%s): the fit starts over", checkpoint, error)
        state, step = {"fit": None}, 0
    if state["fit"] != fit_digest:
        shutil.rmtree(checkpoint.parent)
        return None
    loader.start_step = step
    log.info("resuming the fit after step %d of %d", step, len(loader))
    return str(checkpoint)


def _build_trainer(
    recorder: FitRecorder, device: torch.device, precision: Any, validate_every: int | None
) -> L.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    show = sys.stderr.isatty()
    callbacks: list[Callback] = [recorder]
    if show:
        callbacks.append(TQDMProgressBar(refresh_rate=5))
    return L.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=precision,
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
    )


def _write_results(model: Any, recorder: FitRecorder, folder: Path) -> None:
    model.save_pretrained(str(folder / "last"))
    if recorder.best_file.is_file():
        best = torch.load(recorder.best_file, map_location="cpu", weights_only=True)
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in best.items():
                parameters[name].copy_(value)
    model.save_pretrained(str(folder / "best"))
    with (folder / CURVE_FILE).open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(entry) + "\n" for entry in recorder.curve)


def read_curve(folder: Path) -> list[dict[str, float]]:
    """The metrics of a finished fit, one dict a record, in order; `step` counts optimiser steps from 1."""
    with (folder / CURVE_FILE).open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]
