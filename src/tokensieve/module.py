"""The LightningModule: masked causal-LM loss with the exact denominator of the whole optimiser step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from torch import nn

from tokensieve.errors import ConfigError, TrainingError
from tokensieve.head import split_head
from tokensieve.loader import ValidationBatch
from tokensieve.loss import token_nll, weighted_nll_sum
from tokensieve.records import Batch

LogMetrics = Callable[[Mapping[str, float], int], None]


class MaskedLMModule(L.LightningModule):
    """Trains the parameters of `model` that require gradients.

    One Lightning batch is one optimiser step: the list of its micro-batches. The loss is
    `sum(weights * nll) / step_weight` over all of them, so that accumulation changes nothing but memory.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimiser: str,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
        schedule: str,
        warmup_steps: int,
        total_steps: int,
        grad_clip: float,
        log_metrics: LogMetrics,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold trainable weights only
        self.model = model
        self.decoder_and_head = split_head(model)
        self.optimiser = optimiser
        self.lr = lr
        self.weight_decay = weight_decay
        self.betas = betas
        self.schedule = schedule
        self.warmup_steps = min(warmup_steps, total_steps // 10)
        self.total_steps = total_steps
        self.grad_clip = grad_clip
        self.log_metrics = log_metrics
        self.validation_sums = torch.zeros(4, dtype=torch.float64)
        self._trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def trainable_state(self) -> dict[str, torch.Tensor]:
        """The weights that training changes, by name."""
        return {name: value.detach() for name, value in self.model.named_parameters() if value.requires_grad}

    def training_step(self, step: list[Batch], batch_idx: int) -> None:
        started = time.perf_counter()
        optimiser: Any = self.optimizers()
        optimiser.zero_grad()
        total = torch.zeros((), device=self.device)
        for batch in step:
            torch.manual_seed(batch.seed)
            loss = self._nll_sum(batch) / batch.step_weight
            self.manual_backward(loss)
            total += loss.detach()
        grad_norm = self._clip()
        nll = float(total)
        if not math.isfinite(nll) or not math.isfinite(grad_norm):
            raise TrainingError(
                f"step {self.global_step + 1}",
                "loss and gradient must be finite",
                received=f"loss {nll}, gradient norm {grad_norm}",
                remedy="lower optim.lr, set trainer.grad_clip, or look for broken examples with tokensieve inspect",
            )
        lr = optimiser.param_groups[0]["lr"]
        optimiser.step()
        scheduler: Any = self.lr_schedulers()
        scheduler.step()
        tokens = sum(int(batch.attention_mask.sum()) for batch in step)
        seconds = time.perf_counter() - started
        values = {
            "train/nll": nll,
            "train/lr": lr,
            "train/grad_norm": grad_norm,
            "train/tokens_per_second": tokens / seconds,
        }
        self.log_metrics(values, self.global_step)

    def _nll_sum(self, batch: Batch) -> torch.Tensor:
        decoder, head = self.decoder_and_head
        hidden = decoder(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state
        return weighted_nll_sum(hidden, head, batch.input_ids, batch.weights)

    def _clip(self) -> float:
        limit = self.grad_clip if self.grad_clip > 0 else math.inf
        return float(torch.nn.utils.clip_grad_norm_(self._trainable, limit))

    def on_validation_epoch_start(self) -> None:
        self.validation_sums.zero_()

    def validation_step(self, batch: ValidationBatch, batch_idx: int) -> None:
        decoder, head = self.decoder_and_head
        hidden = decoder(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state
        at = batch.response[:, 1:].nonzero(as_tuple=True)
        nll = token_nll(hidden[:, :-1][at], head, batch.input_ids[:, 1:][at]).double()
        keep = batch.keep[:, 1:][at].double()
        sums = [nll.sum(), nll.new_tensor(len(nll)), (nll * keep).sum(), keep.sum()]
        self.validation_sums += torch.stack(sums).cpu()

    def validation_nll(self) -> dict[str, float]:
        """`val/nll` over all response tokens of the split, `val/nll_kept` over those that the run's rule keeps."""
        total, count, kept_total, kept_count = self.validation_sums.tolist()
        return {
            "val/nll": total / count if count else math.nan,
            "val/nll_kept": kept_total / kept_count if kept_count else math.nan,
        }

    def configure_optimizers(self) -> Any:
        from transformers import get_scheduler

        optimiser = build_optimiser(self.optimiser, self._trainable, self.lr, self.weight_decay, self.betas)
        name = "constant_with_warmup" if self.schedule == "constant" else self.schedule
        scheduler = get_scheduler(name, optimiser, self.warmup_steps, self.total_steps)
        return {"optimizer": optimiser, "lr_scheduler": scheduler}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trainable = {f"model.{name}" for name in self.trainable_state()}
        checkpoint["state_dict"] = {
            name: value for name, value in checkpoint["state_dict"].items() if name in trainable
        }


def build_optimiser(
    name: str, parameters: list[nn.Parameter], lr: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    """The optimiser by its config name.

    Raises:
        ConfigError: an 8-bit or paged optimiser without bitsandbytes.
    """
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)
    if name == "adafactor":
        return torch.optim.Adafactor(parameters, lr=lr, weight_decay=weight_decay)
    try:
        from bitsandbytes import optim as bnb_optim
    except ImportError as error:
        raise ConfigError(
            "optim.name",
            f"{name} needs bitsandbytes",
            received=str(error),
            remedy="pip install bitsandbytes, or optim=adamw",
        ) from error
    name_of = {"adamw_8bit": "AdamW8bit", "paged_adamw_32bit": "PagedAdamW32bit"}
    optimiser: torch.optim.Optimizer = getattr(bnb_optim, name_of[name])(
        parameters, lr=lr, betas=betas, weight_decay=weight_decay
    )
    return optimiser
