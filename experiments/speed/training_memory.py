"""Peak memory that training adds to a loaded model: ours, a plain PEFT loop, TRL's SFTTrainer, each in a process.

    python experiments/speed/training_memory.py [--quick] [--out FILE]

A process trains one small step, which leaves what every step needs, notes its resident set, then trains the measured
batch twice; the peak is sampled every millisecond. Freed memory goes back to
the system at once (MALLOC_TRIM_THRESHOLD_).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import threading
from operator import itemgetter
from typing import Any

from loops import LOOPS, Training, make_loader
from peers import install_peers
from synthetic import Row, draw_rows
from timing import OURS, VoidRatio, check_equal, pin, read_options, write_result

CASES = (("1M", 32_000, 8), ("10M", 32_000, 8), ("30M", 32_000, 4))
TARGET_SHARE = 0.6


def measure_here(kind: str, size: str, vocabulary: int, num_rows: int) -> dict[str, Any]:
    """In this process: bytes before and at the peak, and the loss curve."""
    import psutil

    long = sorted(draw_rows(8 * num_rows, vocabulary), key=lambda row: -len(row.ids))[:num_rows]
    # Of a short row, all but the first token, which nothing predicts, are trained.
    short = [Row(row.ids[:16], [False, *row.is_response[-15:]], [False, *row.keep[-15:]]) for row in long]
    steps = [step.tolist() for step in make_loader(3 * short, num_rows, 3).steps]
    rows = [
        row for _, row in sorted(zip(itertools.chain(*steps), [*short, *long, *long], strict=True), key=itemgetter(0))
    ]
    process, done = psutil.Process(), threading.Event()
    before, peak = [0], [0]

    def watch() -> None:
        while not done.wait(0.001):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)

    def pause() -> None:
        if not before[0]:
            before[0] = process.memory_info().rss
            watcher.start()

    try:
        curve = LOOPS[kind](Training(size, vocabulary, "float32", rows, steps, num_rows), pause)
    finally:
        done.set()
    watcher.join()
    return {"before_bytes": before[0], "added_bytes": peak[0] - before[0], "curve": curve}


def measure(size: str, vocabulary: int, num_rows: int) -> dict[str, Any]:
    """The peak of each kind in a fresh process: bytes, unlike seconds, are the same each time."""
    found: dict[str, dict[str, Any]] = {}
    environment = dict(os.environ, MALLOC_TRIM_THRESHOLD_="0", MALLOC_MMAP_THRESHOLD_="65536")
    for kind in LOOPS:
        case = [kind, size, str(vocabulary), str(num_rows)]
        done = subprocess.run(
            [sys.executable, __file__, "--case", *case],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found[kind] = json.loads(done.stdout.splitlines()[-1])
    added = {kind: run["added_bytes"] for kind, run in found.items()}
    checks = []
    for kind, run in found.items():
        if kind != OURS:
            difference = max(abs(a - b) for a, b in zip(found[OURS]["curve"], run["curve"], strict=True))
            checks.append(check_equal(f"loss curves of ours and {kind}", difference, 1e-3))
    shares = {kind: added[OURS] / value for kind, value in added.items() if kind != OURS}
    return {
        "added_mib": {kind: value / 2**20 for kind, value in added.items()},
        "ours_share_of": shares,
        "checks": checks,
    }


def main() -> None:
    def add_case(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--case", nargs=4, metavar=("KIND", "SIZE", "VOCABULARY", "ROWS"), help="measure one here")

    options = read_options(__doc__, more=add_case)
    install_peers()
    pin(options.threads)
    if options.case:
        kind, size, vocabulary, num_rows = options.case
        print(json.dumps(measure_here(kind, size, int(vocabulary), int(num_rows))))
        return
    rows = []
    for size, vocabulary, num_rows in CASES[:1] if options.quick else CASES:
        case = {"size": size, "vocabulary": vocabulary, "rows": num_rows}
        try:
            rows.append(case | measure(size, vocabulary, num_rows))
        except VoidRatio as error:
            rows.append(case | {"void": str(error)})
    write_result({"work": "training_memory", "threads": options.threads, "rows": rows}, options.out)


if __name__ == "__main__":
    main()
