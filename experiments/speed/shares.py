"""Where the time of scoring and of a training step goes: shares of the operators' own time, by `torch.profiler`.

    python experiments/speed/shares.py [--sizes 1M 10M 30M] [--vocabulary 32000] [--steps 4]

One thread, float32. What the table of results.json calls the limit is the first column at 100 %.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any

from loops import train_ours
from scoring import NUM_ROWS
from synthetic import SIZES, build_model, draw_rows, make_corpus
from timing import pin
from training import plan

GROUPS = {
    "matrix products": ("mm", "bmm", "addmm", "baddbmm"),
    "attention": ("scaled_dot_product", "flash_attention", "softmax"),
    "log_softmax, its gradient, NLL": ("log_softmax", "logsumexp", "nll_loss", "cross_entropy"),
    "multiply, add, norms, rotary": ("mul", "add", "add_", "mul_", "rsqrt", "pow", "mean", "silu", "neg", "sub", "div"),
    "copies": ("copy_", "cat", "index_select", "index", "index_put", "fill_", "zero_", "clone"),
}


def name_group(operator: str) -> str:
    """The group of an operator such as `aten::mm` or `aten::silu_backward`."""
    name = operator.removeprefix("aten::").removeprefix("_")
    for group, names in GROUPS.items():
        if name in names or any(name.startswith(part) for part in names if len(part) > 6):
            return group
    return next((group for group, names in GROUPS.items() if name.removesuffix("_backward") in names), "the rest")


def shares_of(run: Callable[[Callable[[], None]], object]) -> dict[str, float]:
    """Percent of all operators' own time, by group; `run` is handed a function that begins the measurement."""
    from torch.profiler import ProfilerActivity, profile

    profiler = profile(activities=[ProfilerActivity.CPU])
    run(profiler.start)
    profiler.stop()
    found: Counter[str] = Counter()
    for entry in profiler.key_averages():
        if entry.key.startswith("aten::"):
            found[name_group(entry.key)] += entry.self_cpu_time_total
    return {group: 100 * found[group] / found.total() for group in (*GROUPS, "the rest")}


def profile_scoring(size: str, vocabulary: int) -> dict[str, float]:
    from tokensieve.score import compute_nll

    corpus, model = make_corpus(draw_rows(NUM_ROWS[size], vocabulary)), build_model(size, vocabulary)
    compute_nll(model, corpus)

    def run(begin: Callable[[], None]) -> None:
        begin()
        compute_nll(model, corpus)

    return shares_of(run)


def profile_training(size: str, vocabulary: int, num_steps: int) -> dict[str, float]:
    job = plan(size, vocabulary, "float32", 1 + num_steps)

    def run(begin: Callable[[], None]) -> None:
        done = 0

        def pause() -> None:
            nonlocal done
            done += 1
            if done == 1:  # the first step warms up
                begin()

        train_ours(job, pause)

    return shares_of(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    pin(1)
    print("| work | " + " | ".join((*GROUPS, "the rest")) + " |")
    print("|---|" + "---:|" * (len(GROUPS) + 1))
    for size in options.sizes:
        works: dict[str, Any] = {
            "scoring": lambda size=size: profile_scoring(size, options.vocabulary),
            "a training step": lambda size=size: profile_training(size, options.vocabulary, options.steps),
        }
        for work, measure in works.items():
            shares = measure()
            print(f"| {work}, {size} | " + " | ".join(f"{share:.0f} %" for share in shares.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
