"""Rows a second and peak memory of load + tokenise on many synthetic rows.

    python experiments/speed/data_memory.py [--rows 1000000] [--suffix .jsonl.gz] [--deduplicate near]

Writes the rows to a temporary folder, then builds the corpus and its tokens with the lab's tokenizer in this process.
The peak is the resident set of the process, memory-mapped file pages among it; the writing happens in a child.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tokensieve import lab
from tokensieve.dataset import define_corpus
from tokensieve.sources import LocalSource
from tokensieve.store import Store
from tokensieve.tokenise import define_tokens

LIMIT_BYTES = 2 * 1024**3


def write_rows(path: Path, count: int) -> None:
    """Questions and answers of the lab's four families, numbered, so that no two rows are equal."""
    drawn = [
        (row["question"], row["response"])
        for family in lab.FAMILIES
        for row in lab.rows(family, split="train", num=400, seed=0, style="human")
    ]
    with gzip.open(path, "wt", 1) if path.suffix == ".gz" else path.open("w") as stream:
        for number in range(count):
            question, answer = drawn[number % len(drawn)]
            stream.write(json.dumps({"question": f"Item {number}. {question}", "answer": answer}) + "\n")


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--suffix", default=".jsonl", choices=[".jsonl", ".jsonl.gz"])
    parser.add_argument("--deduplicate", default="none", choices=["none", "exact", "near"])
    parser.add_argument("--shuffle-seed", type=int)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write_rows(options.write, options.rows)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows{options.suffix}"
        subprocess.run([sys.executable, __file__, "--rows", str(options.rows), "--write", str(path)], check=True)
        print(f"{options.rows} rows, {path.stat().st_size / 1e6:.0f} MB, {options.suffix}")
        store = Store(Path(folder) / "cache")
        corpus = define_corpus(
            store, LocalSource(path, None, {}), "train", task=None, prompt=None, response=None, system_prompt=None,
            reference={}, id_field=None, limit=None, val_fraction=0, test_fraction=0, seed=0,
            deduplicate=options.deduplicate, shuffle_seed=options.shuffle_seed,
        )  # fmt: skip
        tokens = define_tokens(store, corpus, model_path="lab", revision=None, chat_template=None, length_limit=None)
        for name, artefact in (("load", corpus), ("tokenise", tokens)):
            start = time.perf_counter()
            count = len(artefact.get())
            seconds = time.perf_counter() - start
            peak = f"peak {peak_bytes() / 1e6:.0f} MB"
            print(f"{name}: {count} rows in {seconds:.0f} s, {count / seconds:.0f} rows/s, {peak}", flush=True)
        verdict = "within" if peak_bytes() <= LIMIT_BYTES else "ABOVE"
        print(f"peak {peak_bytes() / 1024**3:.2f} GiB: {verdict} 2 GiB")


if __name__ == "__main__":
    main()
