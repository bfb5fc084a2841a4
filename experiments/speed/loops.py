"""The same LoRA training three ways: this package's fit, a plain PyTorch and PEFT loop, TRL's SFTTrainer.

All take the same batches in the same order from the same initial adapter, AdamW at a constant rate, gradients clipped
at 1, no dropout, and call `pause()` after each optimiser step. Each returns its loss curve.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthetic import Row, build_model, make_corpus, make_mask

RANK, ALPHA, LR = 16, 32.0, 1e-3
PEERS_FOLDER = Path(__file__).parent / ".peers"


@dataclass(frozen=True, slots=True)
class Training:
    """What every loop is given; `steps` holds the rows' numbers of each batch."""

    size: str
    vocabulary: int
    dtype: str
    rows: list[Row]
    steps: list[list[int]]
    batch_rows: int

    @property
    def precision(self) -> str:
        return "32" if self.dtype == "float32" else "bf16-mixed"


def make_model(job: Training) -> Any:
    """The base with a fresh adapter, the same at every call."""
    from tokensieve.adapter import attach_adapter

    return attach_adapter(
        build_model(job.size, job.vocabulary, job.dtype),
        method="lora", rank=RANK, alpha=ALPHA, dropout=0.0, target_modules="all-linear",
        use_dora=False, use_rslora=False, seed=0, gradient_checkpointing=False,
    )  # fmt: skip


def make_loader(rows: list[Row], batch_rows: int, max_steps: int, *, epochs: int = 1, seed: int = 0) -> Any:
    """This package's loader over the rows; its `steps` are the order that the peers are given too."""
    from tokensieve.loader import StepLoader, TrainingRows
    from tokensieve.micro_batches import PassShape

    return StepLoader(
        TrainingRows.collect(make_corpus(rows), make_mask(rows), normalise="kept"),
        epochs=epochs, max_steps=max_steps, batch_size=batch_rows, shape=PassShape(batch_rows), group_by_length=False,
        seed=seed, pad_id=0,
    )  # fmt: skip


def train_ours(job: Training, pause: Callable[[], None]) -> list[float]:
    import torch

    from tokensieve.trainer import fit

    curve: list[float] = []

    def note(values: Any, step: int) -> None:
        curve.append(values["train/nll"])
        pause()

    with tempfile.TemporaryDirectory() as folder:
        fit(
            make_model(job), make_loader(job.rows, job.batch_rows, len(job.steps)), [],
            Path(folder) / "fit", Path(folder) / "checkpoints",
            fit_digest="bench", device=torch.device("cpu"), precision=job.precision,
            optimiser={"optimiser": "adamw", "lr": LR, "weight_decay": 0.0, "betas": (0.9, 0.999),
                       "schedule": "constant", "warmup_steps": 0},
            grad_clip=1.0, validations_per_epoch=1, patience=None, checkpoint_seconds=1e9, on_metrics=note,
        )  # fmt: skip
    return curve


def train_plain(job: Training, pause: Callable[[], None]) -> list[float]:
    """What one writes by hand: the model's own loss over full logits, labels -100 where nothing is trained."""
    import torch

    from tokensieve.micro_batches import pad

    model = make_model(job)
    model.train()
    parameters = [value for value in model.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.0)
    curve = []
    for step in job.steps:
        batch = [job.rows[number] for number in step]
        ids, attention_mask = pad([row.ids for row in batch], 0)
        keep = pad([row.keep for row in batch], 0)[0].bool()
        with torch.autocast("cpu", torch.bfloat16, enabled=job.dtype == "bfloat16"):
            loss = model(input_ids=ids, attention_mask=attention_mask, labels=ids.masked_fill(~keep, -100)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        curve.append(loss.item())
        pause()
    return curve


def train_trl(job: Training, pause: Callable[[], None]) -> list[float]:
    """TRL's defaults (gradient checkpointing among them); only rate, schedule, order and logging are set."""
    from datasets import Dataset

    from tokensieve import lab
    from tokensieve.model import load_tokenizer

    sys.path.append(str(PEERS_FOLDER))
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Pausing(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            pause()

    order = [number for step in job.steps for number in step]
    columns = {
        "input_ids": [job.rows[number].ids for number in order],
        "labels": [
            [token if kept else -100 for token, kept in zip(job.rows[number].ids, job.rows[number].keep, strict=True)]
            for number in order
        ],
    }
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder, per_device_train_batch_size=job.batch_rows, max_steps=len(job.steps),
            learning_rate=LR, lr_scheduler_type="constant", weight_decay=0.0, bf16=job.dtype == "bfloat16",
            train_sampling_strategy="sequential", dataset_kwargs={"skip_prepare_dataset": True},
            logging_steps=1, report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True, seed=0,
        )  # fmt: skip
        trainer = SFTTrainer(
            make_model(job), config, train_dataset=Dataset.from_dict(columns),
            processing_class=load_tokenizer(str(lab.base_path()), None), callbacks=[Pausing()],
        )  # fmt: skip
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


LOOPS: dict[str, Callable[[Training, Callable[[], None]], list[float]]] = {
    "ours": train_ours,
    "peft_loop": train_plain,
    "trl": train_trl,
}
