"""Fits of a tiny model, alone or by every rank of a torchrun group: `rank_fits.py CASES.json FOLDER [CONFIG.yaml]`.

With CONFIG, rank 0 first runs that config's whole pipeline, and the others take part in its fit.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tiny_checkpoint import tiny_model

from tokensieve import loss
from tokensieve.adapter import attach_adapter
from tokensieve.collectives import gather
from tokensieve.loader import StepLoader, TrainingRows, validation_batches
from tokensieve.micro_batches import PassShape
from tokensieve.model import load_base
from tokensieve.objective import Objective
from tokensieve.packing import choose_packing
from tokensieve.records import MaskStats, Stamp, TokenisedCorpus, TokenMask, TokenScores, TokenWeights
from tokensieve.regulariser import Regulariser
from tokensieve.token_weights import TokenWeighting
from tokensieve.trainer import fit

STAMP = Stamp("test", {})
LORA = {"rank": 4, "alpha": 8.0, "target_modules": "all-linear", "use_rslora": False}


class Stopped(Exception):
    """Where a test interrupts a fit."""


def data(number: int) -> tuple[TokenisedCorpus, TokenMask]:
    """`number` examples of 6 to 29 tokens whose kept counts differ."""
    generator = np.random.default_rng(0)
    rows, keeps = [], []
    for at in range(number):
        length = int(generator.integers(6, 30))
        response = [False] * 3 + [True] * (length - 3)
        rows.append({"id": str(at), "input_ids": generator.integers(3, 300, length).tolist(), "is_response": response})
        share = generator.random()
        keeps.append({"id": str(at), "keep": [r and bool(generator.random() < share) for r in response]})
    stats = MaskStats(number, 0, 1, 1, math.nan, 1.0)
    return TokenisedCorpus(Dataset.from_list(rows), STAMP), TokenMask(Dataset.from_list(keeps), stats, STAMP)


def run_case(
    folder: Path,
    *,
    strategy: str = "single",
    batch: int = 6,
    micro: int = 3,
    batch_tokens: int | None = None,
    padding_free: bool = False,
    examples: int = 11,
    dropout: float = 0.1,
    method: str = "lora",
    dora: bool = False,
    optimiser: str = "adamw",
    weight_decay: float = 0.1,
    tied: bool = False,
    recompute: bool = False,
    lockstep: bool = False,
    memory_rows: int | None = None,
    stop_after: int | None = None,
    checkpoints: str | None = None,
    sharded_checkpoints: bool = False,
    rows_limit: int | None = None,
    dtype: str = "float32",
    precision: str = "32",
    chunk_elements: int | None = None,
    lr: float | None = None,
    patience: int | None = None,
    validations: int = 1,
    weighting: dict[str, Any] | None = None,
    penalty: dict[str, Any] | None = None,
    frozen_weights: bool = False,
    quantised: str | None = None,
) -> None:
    """One fit. `memory_rows`: more rows a pass raise OutOfMemoryError. `stop_after`: raise Stopped in the next step.

    `weighting` and `penalty`: what the objective is made of, with a reference's NLL for `weighting`; full fine-tuning
    has a frozen copy. Leaves the gradients of step 1 beside its result.
    """
    rank, ranks = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    tokens, mask = data(examples)
    base = tiny_model(tie_word_embeddings=tied).to(getattr(torch, dtype))
    if quantised is not None:
        base = load_base(quantised, None, dtype="float32", attention="auto", device=torch.device("cpu"), quantise="nf4")
    packing = choose_packing(base) if padding_free else None
    loss.CHUNK_ELEMENTS = chunk_elements or 1 << 24
    model = attach_adapter(
        base, method=method, dropout=dropout, use_dora=dora, seed=1, gradient_checkpointing=recompute, **LORA
    )
    if memory_rows is not None:
        limit_memory(base, memory_rows)
    loader = StepLoader(
        collect(tokens, mask, with_weights=frozen_weights, with_reference=weighting is not None),
        epochs=2,
        max_steps=None,
        batch_size=batch,
        shape=PassShape(micro, batch_tokens, padding_free),
        group_by_length=True,
        seed=1,
        pad_id=2,
        rank=rank,
        num_ranks=ranks,
        lockstep=lockstep or strategy == "fsdp",
        rows_limit=rows_limit,
    )

    def watch(values: Mapping[str, float], step: int) -> None:
        if step == 1 and "train/nll" in values:
            gradients = {name: gather(value.grad) for name, value in model.named_parameters() if value.grad is not None}
            if rank == 0:
                torch.save(gradients, folder / "gradients.pt")
        if stop_after is not None and step == stop_after + 1 and "train/nll" in values:
            raise Stopped

    folder.mkdir(exist_ok=True)
    fit(
        model,
        loader,
        validation_batches(tokens, mask, shape=PassShape(micro), pad_id=2, rank=rank, num_ranks=ranks),
        folder,
        folder.parent / (checkpoints or f"{folder.name}-checkpoints"),
        fit_digest="digest",
        device=torch.device("cpu"),
        precision=precision,
        optimiser={
            "optimiser": optimiser,
            "lr": lr or (1e-2 if method == "lora" else 1e-3),
            "weight_decay": weight_decay,
            "betas": (0.9, 0.999),
            "schedule": "cosine",
            "warmup_steps": 2,
        },
        grad_clip=0.5,
        validations_per_epoch=validations,
        patience=patience,
        checkpoint_seconds=1e-9,  # after every step
        on_metrics=watch,
        objective=build_objective(weighting, penalty, method),
        packing=packing,
        strategy=strategy,
        devices=ranks,
        sharded_checkpoints=sharded_checkpoints,
    )


def collect(tokens: TokenisedCorpus, mask: TokenMask, *, with_weights: bool, with_reference: bool) -> TrainingRows:
    """The rows of a fit, with made-up frozen weights of kept tokens, and a made-up reference."""
    generator = np.random.default_rng(1)
    keeps = mask.rows["keep"]
    numbers = [generator.random(len(row)) for row in keeps]
    weights = [(3 * number * np.asarray(row)).tolist() for number, row in zip(numbers, keeps, strict=True)]
    frozen = TokenWeights(Dataset.from_list([{"weight": row} for row in weights]), len(keeps), 1.5, STAMP)
    reference = TokenScores(Dataset.from_list([{"nll": (6 * number).tolist()} for number in numbers]), STAMP)
    return TrainingRows.collect(
        tokens,
        mask,
        normalise="kept",
        weights=frozen if with_weights else None,
        reference=reference if with_reference else None,
    )


def build_objective(weighting: dict[str, Any] | None, penalty: dict[str, Any] | None, method: str) -> Objective | None:
    if weighting is None and penalty is None:
        return None
    regulariser = Regulariser(**(penalty or {}))
    reference = tiny_model().requires_grad_(False) if regulariser.compares and method == "none" else None
    return Objective(TokenWeighting(**(weighting or {})), regulariser, reference)


def limit_memory(model: Any, rows: int) -> None:
    """Make the decoder of `model` raise what an accelerator raises, for more than `rows` examples."""
    layer = model.get_decoder().layers[1]
    compute = layer.forward

    def forward(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found = len(kwargs.get("example_lengths") or hidden)
        if found > rows:
            raise torch.OutOfMemoryError(f"out of memory with {found} examples")
        return compute(hidden, *args, **kwargs)

    layer.forward = forward


def run_pipeline(config: Path, folder: Path) -> None:
    """As train.py does it."""
    from tokensieve import pipeline
    from tokensieve.config import from_yaml
    from tokensieve.ranks.joined import dismiss, follow_or_lead

    if follow_or_lead():
        return
    try:
        pipeline.run(from_yaml(config.read_text()), folder)
    finally:
        dismiss()


def main(cases: Path, folder: Path, config: Path | None = None) -> None:
    if config is not None:
        run_pipeline(config, folder / "joined")
    for name, options in json.loads(cases.read_text()).items():
        started = time.monotonic()
        with contextlib.suppress(Stopped):
            run_case(folder / name, **options)
        print(f"{name}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
