"""The callback of every fit: the curve, checkpoints by time, the best weights, early stopping."""

from __future__ import annotations

import logging
import math
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from tokensieve.collectives import decide, num_ranks, rank
from tokensieve.module import MaskedLMModule
from tokensieve.pruning import FitReport
from tokensieve.run_metrics import monitored_nll
from tokensieve.trainer.checkpoint import LAST_CHECKPOINT, write_aside

log = logging.getLogger(__name__)


class FitRecorder(Callback):
    """Writes the curve, checkpoints by time, keeps the best weights, stops early. Knows no tracking service.

    Every rank has one, and they decide alike: what they compare is summed over the ranks, and rank 0 has the clock.
    """

    def __init__(
        self,
        checkpoint_folder: Path,
        *,
        fit_digest: str,
        checkpoint_seconds: float,
        patience: int | None,
        validate_every: int,
        trial: FitReport | None = None,
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
        self._validates = validate_every < sys.maxsize
        self._trial = trial
        self._saved_at = time.monotonic()
        self._on_terminate = signal.getsignal(signal.SIGTERM)

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

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Lightning's handler waits for a broadcast among the ranks, in which a dead one never takes part.
        if num_ranks() > 1 and trainer.strategy.launcher is None:
            signal.signal(signal.SIGTERM, self._on_terminate)
        self._stop_early(trainer)  # a fit that had ended so, and whose result was not written

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        # Where a validation follows, the checkpoint waits for it: a resumed fit would never make it up.
        if not trainer.global_step % self._validate_every:
            return
        if self._validates and trainer.global_step == trainer.num_training_batches:
            trainer.should_stop = True  # makes Lightning validate: the end need not fall on an interval
        else:
            self._save_when_due(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, MaskedLMModule)
        values = pl_module.validation_nll()
        pl_module.log_metrics(values, trainer.global_step)
        monitored = monitored_nll(values)
        if monitored < self.best:
            self.best, self.validations_since_best = monitored, 0
            self._save_best(pl_module)
        else:
            self.validations_since_best += 1
        self._stop_early(trainer)
        self._end_if_hopeless(values, trainer)
        self._save_when_due(trainer)

    def _stop_early(self, trainer: L.Trainer) -> None:
        if self._patience is not None and self.validations_since_best >= self._patience:
            log.info(
                "early stop after step %d: %d validations without a better NLL", trainer.global_step, self._patience
            )
            trainer.should_stop = True

    def _end_if_hopeless(self, values: Mapping[str, float], trainer: L.Trainer) -> None:
        if self._trial is None or trainer.global_step % self._validate_every:  # the end, where nothing is left to save
            return
        number = trainer.global_step // self._validate_every
        is_hopeless = rank() == 0 and self._trial.is_hopeless(values, number)
        if decide(is_hopeless, trainer.strategy.root_device):
            raise self._trial.ended(values, number)

    def _save_best(self, module: MaskedLMModule) -> None:
        if module.sharded or rank() == 0:
            state = module.trainable_state()
        if rank() == 0:
            write_aside(self.best_file, lambda path: torch.save(state, path))

    def _save_when_due(self, trainer: L.Trainer) -> None:
        is_due = time.monotonic() - self._saved_at >= self._checkpoint_seconds
        if decide(is_due, trainer.strategy.root_device):
            write_aside(self.checkpoint, lambda path: trainer.save_checkpoint(path))
            self._saved_at = time.monotonic()
