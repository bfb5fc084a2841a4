"""Speed of greedy answers against transformers: python experiments/speed/generation.py [--items N] [--repeats N].

The packaged lab model answers N test items of each of its four families in one pass, as an evaluation of the suite
`lab` does: 256 rows at a time. Against our decoding loop stands transformers' `generate`, a prompt at a time, in
batches of 16, in the order of the items and sorted by length, which is kinder to it, and in sorted batches of our size.
All take turns on the same prompts; ratios are taken turn by turn. Texts must be equal, but for rows where the two best
logits lie within rounding of each other. Writes generation.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
import transformers
from timing import compare, pin

from tokensieve.cli import compose
from tokensieve.completions.records import Decoding
from tokensieve.corpora import define_items
from tokensieve.evaluate.inquiry import TextRequest, put_requests
from tokensieve.generate import encode_conversation
from tokensieve.model import load_base, load_tokenizer
from tokensieve.store import Store
from tokensieve.tasks import find_task

RESULTS = Path(__file__).with_suffix(".json")
ROUNDING = 1e-4  # difference of two logits that another order of sums may turn around
WANTED = {"transformers_batch_1": 8.0, "transformers_batch_16": 2.0}

Questions = dict[str, list[list[int]]]  # task -> token ids of its prompts


class Lab:
    """The lab model, its tokenizer, and what the suite `lab` asks of it."""

    def __init__(self, num_items: int) -> None:
        self.tokenizer: Any = load_tokenizer("lab", None)
        device = torch.device("cpu")
        self.model: Any = load_base("lab", None, dtype="float32", attention="sdpa", device=device)
        self.model.eval()
        self.questions: Questions = {}
        with tempfile.TemporaryDirectory() as folder:
            config = compose(["eval=lab", f"eval.num_items={num_items}"])
            self.batch_size = config.eval.batch_size
            for name in config.eval.datasets:
                items = define_items(config, Store(Path(folder)), name).get()
                self.questions[name] = [
                    encode_conversation(self.tokenizer, messages[:-1]) for messages in items.rows["messages"]
                ]

    def answer(self) -> list[str]:
        """Our loop on the prompts of all tasks at once, as an evaluation does."""
        return self._put(list(self.questions))

    def answer_task_by_task(self) -> list[str]:
        """Our loop, a task after the other."""
        return [text for name in self.questions for text in self._put([name])]

    def _put(self, tasks: Sequence[str]) -> list[str]:
        requests = [
            TextRequest(prompt, Decoding(max_new_tokens=find_task(name).max_new_tokens))
            for name in tasks
            for prompt in self.questions[name]
        ]
        found = put_requests(self.model, self.tokenizer, requests, batch_size=self.batch_size, max_length=None)
        return [str(text) for text in found]

    def answer_with_transformers(self, batch_size: int, *, is_sorted: bool = False) -> list[str]:
        """`generate` on batches that are padded on the left."""
        texts = []
        for name, prompts in self.questions.items():
            order = sorted(range(len(prompts)), key=lambda at: -len(prompts[at])) if is_sorted else range(len(prompts))
            found = [""] * len(prompts)
            for start in range(0, len(prompts), batch_size):
                chosen = order[start : start + batch_size]
                rows = self._generate([prompts[at] for at in chosen], find_task(name).max_new_tokens)
                for at, text in zip(chosen, rows, strict=True):
                    found[at] = text
            texts += found
        return texts

    def _generate(self, prompts: Sequence[Sequence[int]], limit: int) -> list[str]:
        width = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in prompts])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
        with torch.inference_mode():
            found = self.model.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=limit, pad_token_id=pad
            )
        return [str(self.tokenizer.decode(row[width:], skip_special_tokens=True)) for row in found]

    def explain_differences(self, ours: Sequence[str], theirs: Sequence[str]) -> Iterator[float]:
        """For each pair of unequal texts the gap of the two best logits where they part."""
        prompts = [prompt for prompts in self.questions.values() for prompt in prompts]
        for prompt, one, other in zip(prompts, ours, theirs, strict=True):
            if one == other:
                continue
            first, second = (self.tokenizer.encode(text, add_special_tokens=False) for text in (one, other))
            shared = [a for a, _ in takewhile(lambda both: both[0] == both[1], zip(first, second, strict=False))]
            with torch.inference_mode():
                best = self.model(torch.tensor([[*prompt, *shared]])).logits[0, -1].topk(2).values
            yield float(best[0] - best[1])


def measure(lab: Lab, repeats: int) -> dict[str, Any]:
    """Seconds of every way, in turns, after one turn that does not count; and whether they said the same.

    Raises:
        SystemExit: texts differ by more than rounding.
    """
    ways: dict[str, Callable[[], list[str]]] = {
        "ours": lab.answer,
        "ours_task_by_task": lab.answer_task_by_task,
        "transformers_batch_16": lambda: lab.answer_with_transformers(16),
        "transformers_batch_16_sorted": lambda: lab.answer_with_transformers(16, is_sorted=True),
        f"transformers_batch_{lab.batch_size}_sorted": lambda: lab.answer_with_transformers(
            lab.batch_size, is_sorted=True
        ),
        "transformers_batch_1": lambda: lab.answer_with_transformers(1),
    }
    texts = {name: answer() for name, answer in ways.items()}
    gaps = {name: list(lab.explain_differences(texts["ours"], found)) for name, found in texts.items()}
    if any(gap > ROUNDING for found in gaps.values() for gap in found):
        raise SystemExit(f"the texts differ by more than rounding, so the ratios are void: {gaps}")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats):
        order = list(ways) if turn % 2 == 0 else list(reversed(ways))
        for name in order:
            start = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    tokens = sum(len(lab.tokenizer.encode(text, add_special_tokens=False)) for text in texts["ours"])
    return {
        "items": len(texts["ours"]),
        "answer_tokens": tokens,
        "our_batch_size": lab.batch_size,
        "unequal_texts_within_rounding": {name: len(found) for name, found in gaps.items() if name != "ours"},
        "median_seconds": medians,
        "ratios": compare(seconds)["ratios"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=200, help="a family (default: 200, as the suite asks)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="20 items, one repeat; writes no results")
    options = parser.parse_args()
    pin(options.threads)
    found = measure(Lab(20 if options.quick else options.items), 1 if options.quick else options.repeats)
    machine = {"cores": os.cpu_count(), "processor": platform.machine(), "threads": options.threads}
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    results = {"machine": machine | versions, "repeats": options.repeats, **found, "wanted": WANTED}
    for name, ratio in ((name, found["ratios"][name]["median"]) for name in found["ratios"]):
        wanted = f", wanted {WANTED[name]:g}" if name in WANTED else ""
        print(f"{name:30} {found['median_seconds'][name]:8.3f} s against {found['median_seconds']['ours']:.3f} s: "
              f"{ratio:.2f}x{wanted}")  # fmt: skip
    if not options.quick:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
