"""One run on a GPU, Llama-3-8B's shape with random weights, against a PEFT loop and the STM paper's recipe.

    PYTHONPATH=src python experiments/speed/gpu.py --out gpu.json        # unattended, within 9 minutes on an H200
    PYTHONPATH=src python experiments/speed/gpu.py --shape tiny          # the same on CPU, to see that it runs

LoRA r16 on every linear layer, bfloat16, rows of 512 tokens with 60 % prompt. A run scores its rows once and trains on
them under a mask. `peft_loop`: padded batches of 8, full logits. `paper`: one row at a time for scoring, batches of 2
for training, full logits, as the paper's code. The file is written after every section, so that a stopped program
leaves what it had; a section that cannot run says why. QLoRA needs bitsandbytes.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_loops import DEVICE, OUR_ROWS, Trained, order_of, score_full, timed, train_full, train_ours
from gpu_model import SHAPES, adapted, build, make_records, quantise
from products import Products, forward_shapes, training_shapes
from synthetic import Row, draw_rows
from timing import LIMIT, OURS, check_equal, compare, summarise

RANK, PAPER_ROWS = 16, 2


class Bench:
    """The base, its adapter as it was at the start, and what has been found."""

    def __init__(self, shape: str, num_rows: int, repeats: int) -> None:
        self.config, self.repeats = SHAPES[shape](), repeats
        self.base = build(self.config, DEVICE)
        length = 512 if shape != "tiny" else 48
        self.rows = [
            Row((row.ids * 16)[:length], place, keep)
            for row in draw_rows(num_rows, self.config.vocab_size)
            for place in [[t >= 0.6 * length for t in range(length)]]
            for keep in [[on and (t * 7 + len(row.ids)) % 5 > 0 for t, on in enumerate(place)]]
        ]
        self.lengths = [length] * num_rows
        self.corpus = make_records(self.rows)[0]

    def scoring(self) -> dict[str, Any]:
        """Scoring all rows: seconds, share of the limit, agreement with full logits."""
        from tokensieve.score import compute_nll

        shapes = forward_shapes(
            self.config, self.lengths, sum(sum(row.is_response) for row in self.rows), tokens_at_once=8192
        )
        products = Products(shapes, "bfloat16", DEVICE)
        subjects: dict[str, Callable[[], Any]] = {
            OURS: lambda: compute_nll(self.base, self.corpus),
            "padded_full": lambda: score_full(self.base, self.rows, OUR_ROWS),
            "paper": lambda: score_full(self.base, self.rows, 1),
            LIMIT: products,
        }
        seconds, peaks, last = self._take_turns(subjects)
        ours = torch.tensor([float(nll[~torch.isnan(torch.from_numpy(nll)).numpy()].mean()) for nll in last[OURS]])
        chosen = [torch.tensor(row.is_response)[1:] for row in self.rows]
        theirs = torch.tensor([float(nll[at].mean()) for nll, at in zip(last["paper"], chosen, strict=True)])
        check = check_equal("mean NLL of rows", float((ours - theirs).abs().max()), 0.05)
        return self._report(seconds, peaks, products.flops) | {"checks": [check]}

    def training(self) -> dict[str, Any]:
        """A pass of training over all rows, the first step left out; each from the same initial adapter."""
        steps = order_of(self.rows)
        kept = sum(sum(self.rows[number].keep) for step in steps for number in step) // len(steps)
        shapes = training_shapes(self.config, [self.lengths[0]] * OUR_ROWS, kept, RANK)
        products, count = Products(shapes, "bfloat16", DEVICE), len(steps) - 1
        with adapted(self.base, RANK) as (model, restore):

            def anew(train: Callable[[], Trained]) -> Callable[[], Trained]:
                return lambda: (restore(), train())[1]

            subjects: dict[str, Callable[[], Any]] = {
                OURS: anew(lambda: train_ours(model, self.rows)),
                "peft_loop": anew(lambda: train_full(model, self.rows, steps, OUR_ROWS)),
                "paper": anew(lambda: train_full(model, self.rows, steps, PAPER_ROWS)),
                LIMIT: lambda: [products() for _ in range(count)],
            }
            seconds, peaks, last = self._take_turns(subjects)
        difference = max(abs(a - b) for a, b in zip(last[OURS].curve, last["peft_loop"].curve, strict=True))
        check = check_equal("loss curves of ours and peft_loop", difference, 0.05)
        return self._report(seconds, peaks, products.flops * count, rows=count * OUR_ROWS) | {"checks": [check]}

    def padding_free(self) -> dict[str, Any]:
        """Training on rows of log-normal lengths: one row without padding against padded batches in the same order."""
        from tokensieve.packing import choose_packing

        rows = draw_rows(len(self.rows), self.config.vocab_size, seed=1)
        found: dict[str, list[float]] = {"padded": [], "padding_free": []}
        losses = {}
        packing = choose_packing(self.base)
        with adapted(self.base, RANK) as (model, restore):
            for _ in range(self.repeats):
                for name, free in (("padded", False), ("padding_free", True)):
                    restore()
                    trained = train_ours(model, rows, padding_free=free, packing=packing if free else None)
                    losses[name] = trained.curve[0]
                    found[name].append(trained.seconds)
        check = check_equal("first losses", abs(losses["padded"] - losses["padding_free"]), 0.05)
        ratio = summarise(a / b for a, b in zip(found["padded"], found["padding_free"], strict=True))
        return {"packing": packing, "ratios": {"padded": ratio}, "checks": [check]}

    def precision(self) -> dict[str, Any]:
        """How far bfloat16 scores are from float32 ones, and how many labels flip at thresholds that are quantiles."""
        from tokensieve.score import compute_nll

        half = torch.cat([torch.from_numpy(nll) for nll in compute_nll(self.base, self.corpus)])
        exact = copy.deepcopy(self.base).float()
        full = torch.cat([torch.from_numpy(nll) for nll in compute_nll(exact, self.corpus)])
        del exact
        scored = ~full.isnan()
        half, full = half[scored], full[scored]
        apart = (half - full).abs()
        flips = {}
        for quantile in (0.1, 0.25, 0.5, 0.75, 0.9):
            threshold = full.quantile(quantile)
            flips[f"{quantile:g}"] = float(((half > threshold) != (full > threshold)).float().mean())
        return {
            "tokens": len(full),
            "mean_difference": float(apart.mean()),
            "p99_difference": float(apart.quantile(0.99)),
            "largest_difference": float(apart.max()),
            "flipped_share_at_quantile": flips,
        }

    def qlora(self) -> dict[str, Any]:
        """The same training with the base in 4-bit NormalFloat. Runs last: the base is not what it was."""
        quantise(self.base, DEVICE)
        seconds, peaks = [], []
        with adapted(self.base, RANK) as (model, restore):
            for _ in range(min(3, self.repeats)):
                restore()
                _, peak, trained = timed(lambda: train_ours(model, self.rows))
                seconds.append(trained.seconds)
                peaks.append(peak)
        tokens = sum(self.lengths[OUR_ROWS:])
        return {
            "tokens_per_second": tokens / min(seconds),
            "peak_gib": max(peaks) / 2**30,
            "seconds": summarise(seconds),
        }

    def _take_turns(self, subjects: dict[str, Callable[[], Any]]) -> tuple[Any, Any, dict[str, Any]]:
        """Seconds, peak bytes and last result of each, after a round that is not counted."""
        seconds: dict[str, list[float]] = {name: [] for name in subjects}
        peaks: dict[str, float] = {}
        last: dict[str, Any] = {}
        for number in range(self.repeats + 1):
            for name, run in subjects.items():
                spent, peaks[name], last[name] = timed(run)
                if number:
                    seconds[name].append(last[name].seconds if isinstance(last[name], Trained) else spent)
        return seconds, peaks, last

    def _report(self, seconds: Any, peaks: Any, flops: float, rows: int | None = None) -> dict[str, Any]:
        tokens = sum(self.lengths[:rows])
        row = compare(seconds)
        rates = {name: tokens / found["median"] for name, found in row["seconds"].items() if name != LIMIT}
        gib = {name: peak / 2**30 for name, peak in peaks.items() if name != LIMIT}
        limit = flops / row["seconds"][LIMIT]["median"] / 1e12
        return row | {"tokens_per_second": rates, "peak_gib": gib, "limit_tflops": limit}


def combine(found: dict[str, Any], epochs: int) -> dict[str, Any]:
    """A whole run from its measured parts: the rows scored once and trained `epochs` times."""
    scoring, training = found["scoring"]["tokens_per_second"], found["training"]["tokens_per_second"]
    parts = {OURS: (OURS, OURS), "peft_loop": ("padded_full", "peft_loop"), "paper": ("paper", "paper")}
    cost = {name: 1 / scoring[how] + epochs / training[loop] for name, (how, loop) in parts.items()}
    return {"epochs": epochs, "ratios": {name: cost[name] / cost[OURS] for name in parts if name != OURS}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama3_8b")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--minutes", type=float, default=8.5, help="no section begins later")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    began = time.monotonic()
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    found: dict[str, Any] = {"device": device, "torch": torch.__version__, "shape": options.shape}
    bench = Bench(options.shape, options.rows, options.repeats)
    for name in ("scoring", "training", "precision", "padding_free", "qlora"):
        if time.monotonic() - began > 60 * options.minutes:
            found[name] = {"skipped": "no time left"}
            continue
        try:
            found[name] = getattr(bench, name)()
        except Exception as error:  # the sections after it are wanted all the same
            found[name] = {"failed": f"{type(error).__name__}: {error}"[:500]}
        if name == "training" and "ratios" in found["scoring"] and "ratios" in found[name]:
            found["run"] = combine(found, epochs=3)
        found[name]["ended_after_seconds"] = round(time.monotonic() - began)
        print(name, json.dumps(found[name]), flush=True)
        if options.out:
            options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
