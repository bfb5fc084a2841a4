"""The loops that gpu.py compares, and their time: this package's fit, a plain PEFT loop, scoring by full logits."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gpu_model import make_records
from synthetic import Row

LR = 1e-4
OUR_ROWS = 8
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Trained(NamedTuple):
    """Losses of the optimiser steps, and when every `OUR_ROWS` rows were done: the first are left out of the time."""

    curve: list[float]
    times: list[float]

    @property
    def seconds(self) -> float:
        return self.times[-1] - self.times[0]


def synchronise() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def timed(run: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds, peak bytes of the device, and the result."""
    synchronise()
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    result = run()
    synchronise()
    peak = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0
    return time.perf_counter() - start, float(peak), result


def score_full(model: Any, rows: Sequence[Row], batch_rows: int) -> list[torch.Tensor]:
    """NLL [T - 1] of rows of equal length, from full logits."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(rows), batch_rows):
            ids = torch.tensor([row.ids for row in rows[start : start + batch_rows]], device=DEVICE)
            logits = model(input_ids=ids, use_cache=False).logits.float()
            nll = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
            found += list(nll.cpu())
    return found


def train_full(model: Any, rows: Sequence[Row], steps: Sequence[Sequence[int]], batch_rows: int) -> Trained:
    """A plain loop; an optimiser step for every `batch_rows` rows."""
    model.train()
    parameters = [value for value in model.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.0)
    curve, times = [], []
    for step in steps:
        for start in range(0, len(step), batch_rows):
            batch = [rows[number] for number in step[start : start + batch_rows]]
            ids = torch.tensor([row.ids for row in batch], device=DEVICE)
            keep = torch.tensor([row.keep for row in batch], device=DEVICE)
            with torch.autocast(DEVICE, torch.bfloat16):
                loss = model(input_ids=ids, labels=ids.masked_fill(~keep, -100), use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            curve.append(loss.item())
        times.append(time.perf_counter())
    return Trained(curve, times)


def train_ours(model: Any, rows: Sequence[Row], *, padding_free: bool = False, packing: Any = None) -> Trained:
    """This package's fit over the rows, once."""
    from tokensieve.loader import StepLoader, TrainingRows
    from tokensieve.micro_batches import PassShape
    from tokensieve.trainer import fit

    curve: list[float] = []
    times: list[float] = []

    def note(values: Any, step: int) -> None:
        curve.append(values["train/nll"])
        times.append(time.perf_counter())

    loader = StepLoader(
        TrainingRows.collect(*make_records(rows), normalise="kept"), epochs=1, max_steps=None, batch_size=OUR_ROWS,
        shape=PassShape(OUR_ROWS, None, padding_free), group_by_length=False, seed=0, pad_id=0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        fit(
            model, loader, [], Path(folder) / "fit", Path(folder) / "checkpoints", fit_digest="bench",
            device=torch.device(DEVICE), precision="bf16-mixed",
            optimiser={"optimiser": "adamw", "lr": LR, "weight_decay": 0.0, "betas": (0.9, 0.999),
                       "schedule": "constant", "warmup_steps": 0},
            grad_clip=1.0, validations_per_epoch=1, patience=None, checkpoint_seconds=1e9, on_metrics=note,
            packing=packing,
        )  # fmt: skip
    return Trained(curve, times)


def order_of(rows: Sequence[Row]) -> list[list[int]]:
    from tokensieve.loader import plan_epoch

    lengths = torch.tensor([len(row.ids) for row in rows]).numpy()
    return [step.tolist() for step in plan_epoch(lengths, OUR_ROWS, seed=0, epoch=0, group_by_length=False)]
