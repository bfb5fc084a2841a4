"""The LightningModule: masked causal-LM loss with the exact denominator of the whole optimiser step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import nn

from tokensieve.collectives import gather, num_ranks, sum_gradients, sum_over_ranks
from tokensieve.errors import ConfigError, TrainingError
from tokensieve.head import split_head
from tokensieve.loader import ValidationBatch, split_batch, split_validation_batch
from tokensieve.loss import token_nll, weighted_nll_sum
from tokensieve.memory import free_memory, lower_limit
from tokensieve.records import Batch

LogMetrics = Callable[[Mapping[str, float], int], None]
ShardModel = Callable[[nn.Module, nn.Module, Any], None]


class MaskedLMModule(L.LightningModule):
    """Trains the parameters of `model` that require gradients.

    One Lightning batch is one optimiser step: the list of its micro-batches. The loss is
    `sum(weights * nll) / step_weight` over all of them and all ranks, so that neither accumulation nor the number of
    ranks changes anything but rounding. A step that does not fit into memory is repeated in smaller micro-batches.
    `shard(this, model, mesh)` splits the parameters over the ranks (FSDP2), which must then call everything together.
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
        shard: ShardModel | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold trainable weights only
        self.model = model
        self.sharded = shard is not None
        self._shard = shard
        self.rows_limit: int | None = None  # rows of a micro-batch that are known to be too many, halved
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
        split_head(model)  # an unusual head is refused here, before anything is set up

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name, as this rank holds them."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def trainable_state(self) -> dict[str, torch.Tensor]:
        """The weights that training changes, by name, whole. All ranks of a sharded model must call it."""
        return {name: gather(value.detach()) for name, value in self.trainable.items()}

    def configure_model(self) -> None:
        if self._shard is not None:
            assert self.device_mesh is not None
            self._shard(self, self.model, self.device_mesh["data_parallel"])

    def training_step(self, step: list[Batch], batch_idx: int) -> None:
        started = time.perf_counter()
        optimiser: Any = self.optimizers()
        optimiser.zero_grad()
        total = self._accumulate(step)
        tokens = sum(int(batch.attention_mask.sum()) for batch in step)
        if num_ranks() > 1:
            total, tokens_of_all = sum_over_ranks(torch.stack([total.double(), total.new_tensor(tokens).double()]))
            tokens = int(tokens_of_all)
            if not self.sharded:
                sum_gradients(list(self.trainable.values()))
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
        seconds = time.perf_counter() - started
        values = {
            "train/nll": nll,
            "train/lr": lr,
            "train/grad_norm": grad_norm,
            "train/tokens_per_second": tokens / seconds,
        }
        self.log_metrics(values, self.global_step)

    def _accumulate(self, step: Sequence[Batch]) -> torch.Tensor:
        """This rank's part of the step's loss, with its gradients added up; repeated when memory runs out."""
        while True:
            parts = [part for batch in step for part in split_batch(batch, self.rows_limit or len(batch.input_ids))]
            try:
                return self._backward(parts)
            except torch.OutOfMemoryError as error:
                self.rows_limit = self._lower_limit(parts, error)
            self.zero_grad()
            free_memory()

    def _backward(self, step: Sequence[Batch]) -> torch.Tensor:
        total = torch.zeros((), device=self.device)
        for batch in step:
            torch.manual_seed(batch.seed)
            loss: torch.Tensor = self(batch) / batch.step_weight
            self.manual_backward(loss)
            total += loss.detach()
        return total

    def _lower_limit(self, parts: Sequence[Batch | ValidationBatch], error: torch.OutOfMemoryError) -> int:
        step = self.global_step if self.trainer.validating else self.global_step + 1
        return lower_limit([part.input_ids for part in parts], error, step, sharded=self.sharded)

    def forward(self, batch: Batch | ValidationBatch) -> torch.Tensor:
        """The loss of a micro-batch before division by its step's weight, or the sums that a validation adds up.

        All use of parameters is in here, because a sharded module has them whole during its forward pass only.
        """
        decoder, head = split_head(self.model)
        hidden = decoder(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state
        if isinstance(batch, Batch):
            return weighted_nll_sum(hidden, head, batch.input_ids, batch.weights)
        at = batch.response[:, 1:].nonzero(as_tuple=True)
        nll = token_nll(hidden[:, :-1][at], head, batch.input_ids[:, 1:][at]).double()
        keep = batch.keep[:, 1:][at].double()
        return torch.stack([nll.sum(), nll.new_tensor(len(nll)), (nll * keep).sum(), keep.sum()])

    def _clip(self) -> float:
        limit = self.grad_clip if self.grad_clip > 0 else math.inf
        return float(gather(torch.nn.utils.clip_grad_norm_(list(self.trainable.values()), limit)))

    def on_validation_epoch_start(self) -> None:
        self.validation_sums.zero_()

    def validation_step(self, batch: ValidationBatch, batch_idx: int) -> None:
        self.validation_sums += self._validation_sums(batch).cpu()

    def _validation_sums(self, batch: ValidationBatch) -> torch.Tensor:
        while True:
            parts = split_validation_batch(batch, self.rows_limit or len(batch.input_ids))
            try:
                return torch.stack([self(part) for part in parts]).sum(0)
            except torch.OutOfMemoryError as error:
                self.rows_limit = self._lower_limit(parts, error)
            free_memory()

    def on_validation_epoch_end(self) -> None:
        if num_ranks() > 1:
            self.validation_sums = sum_over_ranks(self.validation_sums.to(self.device)).cpu()
        if self.sharded:
            unsharded: Any = self  # what fully_shard made of it
            unsharded.reshard()

    def validation_nll(self) -> dict[str, float]:
        """`val/nll` over all response tokens of the split, `val/nll_kept` over those that the run's rule keeps."""
        total, count, kept_total, kept_count = self.validation_sums.tolist()
        return {
            "val/nll": total / count if count else math.nan,
            "val/nll_kept": kept_total / kept_count if kept_count else math.nan,
        }

    def configure_optimizers(self) -> Any:
        from transformers import get_scheduler

        optimiser = build_optimiser(
            self.optimiser, list(self.trainable.values()), self.lr, self.weight_decay, self.betas
        )
        name = "constant_with_warmup" if self.schedule == "constant" else self.schedule
        scheduler = get_scheduler(name, optimiser, self.warmup_steps, self.total_steps)
        return {"optimizer": optimiser, "lr_scheduler": scheduler}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trainable = {f"model.{name}" for name in self.trainable}
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
