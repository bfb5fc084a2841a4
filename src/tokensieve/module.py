"""The LightningModule: masked causal-LM loss with the exact denominator of the whole optimiser step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import lightning as L
import torch
from torch import nn

from tokensieve.collectives import gather, num_ranks, sum_gradients, sum_over_ranks
from tokensieve.errors import TrainingError
from tokensieve.gradient_scale import overflows, unscale
from tokensieve.head import split_head
from tokensieve.loader import ValidationBatch, split_validation_batch
from tokensieve.loss import token_nll, weighted_nll_sum
from tokensieve.memory import free_memory, lower_limit
from tokensieve.micro_batches import count_examples, longest_example, split_batch
from tokensieve.objective import SUMS, Objective, score_parts
from tokensieve.optimisers import build_optimiser
from tokensieve.packing import Packing, compute_hidden, run_padded
from tokensieve.records import Batch

LogMetrics = Callable[[Mapping[str, float], int], None]
ShardModel = Callable[[nn.Module, nn.Module, Any], None]
T = TypeVar("T")


class MaskedLMModule(L.LightningModule):
    """Trains the parameters of `model` that require gradients.

    One Lightning batch is one optimiser step: the list of its micro-batches. The loss is
    `sum(weights * nll) / step_weight` over all of them and all ranks, so that neither accumulation nor the number of
    ranks changes anything but rounding. A step that does not fit into memory is repeated in smaller micro-batches.
    `shard(this, model, mesh)` splits the parameters over the ranks (FSDP2), which must then call everything together.
    Micro-batches of one row without padding need the `packing` that was chosen for the model. An `objective` replaces
    the plain loss; where its weights follow from the whole step, a step is scored before it is trained.
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
        packing: Packing | None = None,
        objective: Objective | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold trainable weights only
        self.model = model
        self.sharded = shard is not None
        self._shard = shard
        self._packing = packing
        self.objective = objective
        self.skipped_steps = 0  # of a scaled loss, whose gradients left float16's range
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
        if self.objective is not None:
            self.objective.remember_start(self.model)

    def training_step(self, step: list[Batch], batch_idx: int) -> None:
        started = time.perf_counter()
        optimiser: Any = self.optimizers()
        optimiser.zero_grad()
        sums = self._accumulate(step)
        tokens = sum(int(batch.attention_mask.sum()) for batch in step)
        if num_ranks() > 1:
            every = sum_over_ranks(torch.cat([sums.double(), sums.new_tensor([tokens]).double()]))
            sums, tokens = every[:-1], int(every[-1])
            if not self.sharded:
                sum_gradients(list(self.trainable.values()))
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        unscale(scaler, optimiser.optimizer)
        losses = {"train/nll": float(sums[0])}
        if self.objective is not None:
            losses = self.objective.metrics(sums.tolist()) | self.objective.penalise(self.model)
        grad_norm = self._clip()
        loss = float(sums[0])
        skip = overflows(scaler, loss, grad_norm, self.global_step + 1)
        if not skip and not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise TrainingError(
                f"step {self.global_step + 1}",
                "loss and gradient must be finite",
                received=f"loss {loss}, gradient norm {grad_norm}",
                remedy="lower optim.lr, set trainer.grad_clip, or look for broken examples with tokensieve inspect",
            )
        lr = optimiser.param_groups[0]["lr"]
        optimiser.step()  # which the scaler, where there is one, leaves out by itself
        if skip:
            self.skipped_steps += 1
        else:
            scheduler: Any = self.lr_schedulers()
            scheduler.step()
        seconds = time.perf_counter() - started
        values = {
            **losses,
            "train/lr": lr,
            "train/grad_norm": grad_norm,
            "train/tokens_per_second": tokens / seconds,
        }
        if scaler is not None:
            values["train/skipped_steps"] = self.skipped_steps
        self.log_metrics(values, self.global_step)

    def _accumulate(self, step: Sequence[Batch]) -> torch.Tensor:
        """This rank's part of the step's sums, with the gradients of the first, the loss, added up."""
        if self.objective is not None and self.objective.weighting.is_stepwise:
            scored = self._retry(step, lambda parts: score_parts(self, parts))
            step = self.objective.weigh_step(*scored, self.device)
        return self._retry(step, self._backward)

    def _retry(self, step: Sequence[Batch], attempt: Callable[[Sequence[Batch]], T]) -> T:
        """`attempt(step)`, repeated with smaller micro-batches when memory runs out."""
        while True:
            parts = [part for batch in step for part in split_batch(batch, self.rows_limit or count_examples(batch))]
            try:
                return attempt(parts)
            except torch.OutOfMemoryError as error:
                sizes = [(count_examples(part), longest_example(part)) for part in parts]
                self.rows_limit = self._lower_limit(sizes, error)
            self.zero_grad()
            free_memory()

    def _backward(self, step: Sequence[Batch]) -> torch.Tensor:
        total = torch.zeros(1 if self.objective is None else len(SUMS), dtype=torch.float32, device=self.device)
        for batch in step:
            torch.manual_seed(batch.seed)
            sums: torch.Tensor = self(batch)
            if self.objective is None:
                sums = (sums / batch.step_weight)[None]
            self.manual_backward(sums[0])
            total += sums.detach()
        return total

    def _lower_limit(self, sizes: Sequence[tuple[int, int]], error: torch.OutOfMemoryError) -> int:
        step = self.global_step if self.trainer.validating else self.global_step + 1
        return lower_limit(sizes, error, step, sharded=self.sharded)

    def forward(self, batch: Batch | ValidationBatch, *, score: bool = False) -> torch.Tensor:
        """The loss of a micro-batch before division by its step's weight, or the sums that a validation adds up.

        With an objective, the sums of the micro-batch as that defines them, or with `score` what its weights depend on.
        All use of parameters is in here, because a sharded module has them whole during its forward pass only.
        """
        if isinstance(batch, Batch) and self.objective is not None:
            measure = self.objective.score if score else self.objective.sums
            return measure(self.model, batch, lambda decoder, batch: compute_hidden(decoder, batch, self._packing))
        decoder, head = split_head(self.model)
        if isinstance(batch, Batch):
            hidden = compute_hidden(decoder, batch, self._packing)
            return weighted_nll_sum(hidden, head, batch.input_ids, batch.weights)
        hidden = run_padded(decoder, batch.input_ids, batch.attention_mask)
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
                sizes = [(len(part.input_ids), part.input_ids.shape[1]) for part in parts]
                self.rows_limit = self._lower_limit(sizes, error)
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

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.skipped_steps = checkpoint.get("skipped_steps", 0)
        self.rows_limit = checkpoint.get("rows_limit")  # a pass that is split draws other dropout masks

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped_steps"] = self.skipped_steps
        checkpoint["rows_limit"] = self.rows_limit
        trainable = {f"model.{name}" for name in self.trainable}
        checkpoint["state_dict"] = {
            name: value for name, value in checkpoint["state_dict"].items() if name in trainable
        }
