"""Speed and memory of the noise stage: python experiments/speed/noise_throughput.py [--rows N] [--kinds ...].

Makes a synthetic corpus of N rows (1,000,000), then runs each kind in a process of its own at ratio 0.5 and prints one
JSON line a kind. `peak_rss_mib` is the process's whole resident memory, pages of the memory-mapped corpus included;
`peak_anonymous_mib`, sampled ten times a second, is what the process itself holds. Times depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from tokensieve.noise import define_noise, read_noise_stats
from tokensieve.records import Corpus, Stamp
from tokensieve.store import Artefact, Store

SEED, RATIO, NUM_WORDS = 0, 0.5, 40
WORDS = ("the", "number", "of", "coins", "is", "twelve", "and", "then", "Ana", "sells", "seven", "more", "café", "at")


def examples(num: int) -> Iterator[dict[str, Any]]:
    """Chat examples of about 200 characters of response each, all different."""
    for number in range(num):
        rng = random.Random(number)
        response = f"{' '.join(rng.choices(WORDS, k=NUM_WORDS))}\n#### {number}"
        yield {
            "id": f"train/{number}",
            "task": "synthetic",
            "messages": [
                {"role": "user", "content": f"How many coins are there in heap {number}?"},
                {"role": "assistant", "content": response},
            ],
            "reference": json.dumps({"answer": str(number)}),
            "provenance": [json.dumps({"stage": "dataset", "source": f"synthetic.jsonl:{number + 1}"})],
        }


def clean_corpus(root: Path, num: int) -> Artefact[Corpus]:
    """The synthetic corpus in the cache below `root`."""
    stamp = Stamp("dataset", {"synthetic": num, "words": NUM_WORDS})

    def build(folder: Path) -> None:
        from datasets.arrow_writer import ArrowWriter

        from tokensieve.dataset import features

        with ArrowWriter(features=features(), path=str(folder / "data.arrow")) as writer:
            for row in examples(num):
                writer.write(row)
            writer.finalize()

    return Artefact(stamp, Store(root), build, partial(load_corpus, stamp=stamp))


def load_corpus(folder: Path, *, stamp: Stamp) -> Corpus:
    from datasets import Dataset

    return Corpus(Dataset.from_file(str(folder / "data.arrow")), stamp)


def sample_anonymous(peak: list[int], done: threading.Event) -> None:
    """Keep in `peak[0]` the most memory, in bytes, that was resident and no file's."""
    process = psutil.Process()
    while not done.wait(0.1):
        memory = process.memory_info()
        peak[0] = max(peak[0], memory.rss - memory.shared)


def measure(root: Path, num: int, kind: str) -> dict[str, Any]:
    """Build one noisy corpus in this process."""
    clean = clean_corpus(root, num)
    clean.get()
    peak, done = [0], threading.Event()
    watch = threading.Thread(target=sample_anonymous, args=(peak, done))
    watch.start()
    start, start_cpu = time.perf_counter(), time.process_time()
    noisy = define_noise(clean.store, clean, kind=kind, ratio=RATIO, seed=SEED)
    noisy.get()
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    done.set()
    watch.join()
    stats = read_noise_stats(noisy)
    assert stats is not None
    return {
        "kind": kind,
        "rows": num,
        "changed": stats.num_changed,
        "seconds": round(seconds, 1),
        "rows_per_second": round(num / seconds),
        "rows_per_cpu_second": round(num / cpu),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "peak_anonymous_mib": peak[0] >> 20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kinds", nargs="+", default=["answer_swap", "typo"])
    parser.add_argument("--root", type=Path, help="folder of the cache, for the processes that this one starts")
    options = parser.parse_args()
    if options.root is not None:
        print(json.dumps(measure(options.root, options.rows, options.kinds[0])), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        clean_corpus(Path(folder), options.rows).get()
        for kind in options.kinds:
            own = [sys.executable, __file__, "--rows", str(options.rows), "--root", folder, "--kinds", kind]
            subprocess.run(own, check=True)


if __name__ == "__main__":
    main()
