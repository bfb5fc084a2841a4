"""Padding-free and length-grouped batches against padded random ones: python experiments/speed/padding.py [--quick].

One epoch of training (forward, backward, optimiser) of a LoRA adapter on the packaged lab model, over examples whose
lengths are log-normal between 32 and 512 tokens, 16 a step. All ways take turns, and medians count. The learning rate
is 0, so that the NLL of the epoch must be the same for all. Prints a table and writes padding.json beside this file
(not with --quick).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from timing import pin
from torch import nn

from tokensieve.adapter import attach_adapter
from tokensieve.loader import StepLoader, TrainingRows
from tokensieve.micro_batches import PassShape
from tokensieve.model import load_base
from tokensieve.module import MaskedLMModule
from tokensieve.packing import Packing, choose_packing
from tokensieve.records import MaskStats, Stamp, TokenisedCorpus, TokenMask

RESULTS = Path(__file__).with_suffix(".json")
SHORTEST, LONGEST, MEDIAN, SPREAD = 32, 512, 128, 0.7
BATCH, TOKENS = 16, 2048
WANTED = 1.5  # times as fast as padded random batches

# Name -> how passes are shaped, whether steps are grouped by length, and how rows without padding are computed.
WAYS: dict[str, tuple[PassShape, bool, Packing | None]] = {
    "padded, random": (PassShape(BATCH), False, None),
    "padded, random, by tokens": (PassShape(BATCH, TOKENS), False, None),
    "padded, grouped": (PassShape(BATCH), True, None),
    "padding-free, random": (PassShape(BATCH, padding_free=True), False, "by_example"),
    "padding-free, grouped": (PassShape(BATCH, padding_free=True), True, "by_example"),
    "padding-free, random, by tokens": (PassShape(BATCH, TOKENS, padding_free=True), False, "by_example"),
    "block-diagonal mask, random": (PassShape(BATCH, padding_free=True), False, "block_diagonal"),
}
BASELINE = "padded, random"


def draw_rows(num: int, vocabulary: int) -> TrainingRows:
    """Random tokens; the last two thirds of each example train."""
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(math.log(MEDIAN), SPREAD, num), SHORTEST, LONGEST).astype(int)
    rows, keeps = [], []
    for number, length in enumerate(lengths.tolist()):
        response = [place > length // 3 for place in range(length)]
        ids = generator.integers(3, vocabulary, length).tolist()
        rows.append({"id": str(number), "input_ids": ids, "is_response": response})
        keeps.append({"id": str(number), "keep": response})
    stamp, stats = Stamp("benchmark", {}), MaskStats(num, 0, 1, 1, math.nan, 1.0)
    tokens, mask = TokenisedCorpus(Dataset.from_list(rows), stamp), TokenMask(Dataset.from_list(keeps), stats, stamp)
    return TrainingRows.collect(tokens, mask, normalise="kept")


def make_module(packing: Packing | None) -> MaskedLMModule:
    """The lab model with an adapter; every way has its own, because by_example changes a model's attention."""
    base = load_base("lab", None, dtype="float32", attention="sdpa", device=torch.device("cpu"))
    if packing == "by_example" and choose_packing(base) != packing:
        raise SystemExit("the lab model cannot compute each example of a row alone")
    options: dict[str, Any] = {"method": "lora", "rank": 16, "alpha": 32.0, "dropout": 0.0, "seed": 1}
    options |= {"target_modules": "all-linear", "use_dora": False, "use_rslora": False, "gradient_checkpointing": False}
    schedule: dict[str, Any] = {"schedule": "constant", "warmup_steps": 0, "total_steps": 1}
    return MaskedLMModule(
        attach_adapter(base, **options),
        optimiser="adamw",
        lr=0.0,
        weight_decay=0.0,
        betas=(0.9, 0.999),
        grad_clip=1.0,
        log_metrics=lambda values, step: None,
        packing=packing,
        **schedule,
    )


def run_epoch(module: nn.Module, loader: StepLoader, seconds: list[float]) -> float:
    """The NLL sum of the epoch; appends how long it took."""
    parameters = [value for value in module.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=0.0, fused=True)
    total = 0.0
    start = time.perf_counter()
    for step in loader:
        optimiser.zero_grad()
        for batch in step:
            loss = module(batch) / batch.step_weight
            loss.backward()
            total += float(loss.detach()) * batch.step_weight
        optimiser.step()
    seconds.append(time.perf_counter() - start)
    return total


def count_tokens(loader: StepLoader) -> int:
    """Tokens of an epoch, padding included."""
    return sum(batch.input_ids.numel() for step in loader for batch in step)


def measure(num: int, repeats: int) -> dict[str, Any]:
    modules = {name: make_module(packing) for name, (_, _, packing) in WAYS.items()}
    rows = draw_rows(num, int(next(iter(modules.values())).model.config.vocab_size))  # type: ignore[union-attr,arg-type]
    loaders = {
        name: StepLoader(
            rows, epochs=1, max_steps=None, batch_size=BATCH, shape=shape, group_by_length=grouped, seed=0, pad_id=0
        )
        for name, (shape, grouped, _) in WAYS.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    nll = {}
    for repeat in range(repeats + 1):  # the first warms up
        names = list(WAYS)[repeat % len(WAYS) :] + list(WAYS)[: repeat % len(WAYS)]
        for name in names:
            nll[name] = run_epoch(modules[name], loaders[name], seconds[name])
    if any(abs(value / nll[BASELINE] - 1) > 1e-5 for value in nll.values()):
        raise SystemExit(f"the ways differ in their NLL, and the times are void: {nll}")
    ways = {}
    for name, times in seconds.items():
        ratios = [one / other for one, other in zip(seconds[BASELINE][1:], times[1:], strict=True)]
        ways[name] = {
            "seconds": statistics.median(times[1:]),
            "tokens": count_tokens(loaders[name]),
            "times_as_fast": statistics.median(ratios),
            "spread": [min(ratios), max(ratios)],
        }
    return {"examples": num, "repeats": repeats, "nll": nll[BASELINE], "ways": ways}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="48 examples, 1 repeat; nothing is written")
    options = parser.parse_args()
    pin(1)
    found = measure(48, 1) if options.quick else measure(options.examples, options.repeats)
    found |= {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads of {os.cpu_count()} CPUs",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "wanted": WANTED,
    }
    print(f"{'':34}{'seconds':>9}{'tokens':>9}{'times as fast':>15}  spread")
    for name, way in found["ways"].items():
        low, high = way["spread"]
        row = f"{name:34}{way['seconds']:9.2f}{way['tokens']:9d}{way['times_as_fast']:15.2f}"
        print(f"{row}  {low:.2f}-{high:.2f}")
    if not options.quick:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
