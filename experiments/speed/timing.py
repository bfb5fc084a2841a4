"""Interleaved repeats, their spread, and the checks without which a ratio is void."""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

REPEATS = 7
OURS, LIMIT = "ours", "products"


class VoidRatio(Exception):
    """Two subjects did not compute the same thing: there is no ratio of them."""


def read_options(description: str | None, *, more: Callable[[argparse.ArgumentParser], Any] | None = None) -> Any:
    """The options of every benchmark: where its JSON goes, the repeats, the cores."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, help="JSON file; default: standard output")
    parser.add_argument("--quick", action="store_true", help="the smallest case, few repeats: does it run?")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--threads", type=int, default=1, help="cores that this process is pinned to")
    if more is not None:
        more(parser)
    options = parser.parse_args()
    if options.quick:
        options.repeats = min(options.repeats, 3)
    return options


def write_result(result: Mapping[str, Any], out: Path | None) -> None:
    text = json.dumps(result, indent=1) + "\n"
    if out is None:
        print(text, end="")
    else:
        out.write_text(text)


def pin(threads: int) -> None:
    """Keep this process and torch on the first `threads` of the cores it may use."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
    import torch

    torch.set_num_threads(threads)


def interleave(subjects: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each subject, `repeats` times in turn after one unmeasured run; another one begins each round."""
    names = list(subjects)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for run in subjects.values():
        run()
    gc.collect()
    gc.disable()
    try:
        for number in range(repeats):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                start = time.perf_counter()
                subjects[name]()
                seconds[name].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return seconds


def summarise(values: Iterable[float]) -> dict[str, float]:
    """Median, spread and number of some repeats."""
    found = list(values)
    return {"median": statistics.median(found), "low": min(found), "high": max(found), "repeats": len(found)}


def compare(seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """What a row reports: seconds, each peer's time over ours repeat by repeat, and the share of the limit."""
    ours = seconds[OURS]
    peers = [name for name in seconds if name not in (OURS, LIMIT)]
    row: dict[str, Any] = {
        "seconds": {name: summarise(values) for name, values in seconds.items()},
        "ratios": {
            name: summarise(theirs / own for theirs, own in zip(seconds[name], ours, strict=True)) for name in peers
        },
    }
    if LIMIT in seconds:
        row["share_of_limit"] = summarise(best / own for best, own in zip(seconds[LIMIT], ours, strict=True))
    return row


def check_equal(what: str, difference: float, tolerance: float) -> dict[str, Any]:
    """The check that a row reports.

    Raises:
        VoidRatio: the difference is above the tolerance, or not a number.
    """
    if not difference <= tolerance:
        raise VoidRatio(f"{what} differ by {difference:.3g}, more than {tolerance:.3g}: the ratio is void")
    return {"what": what, "difference": difference, "tolerance": tolerance}
