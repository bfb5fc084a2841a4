"""Speed of the lab sweep, as ratios measured in one run: python experiments/speed/run.py [--quick] [--only NAME].

Prints a table and writes results.json beside this file. Times depend on the machine; ratios much less.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results.json"
THRESHOLDS = (1000, 100, 25, 10, 4, 2.5, 1.5)


def train(*arguments: str) -> float:
    """Seconds of one `python train.py` call, which must succeed."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "train.py", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"train.py {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - start


def measure_start(quick: bool) -> dict[str, Any]:
    """`--help` and `--cfg job`, seconds of the whole process, median of repeats."""
    repeats = 3 if quick else 9
    found: dict[str, Any] = {}
    for name, arguments in (("help", ["--help"]), ("cfg_job", ["--cfg", "job"])):
        times = [train(*arguments) for _ in range(repeats)]
        found[f"{name}_seconds"] = statistics.median(times)
        found[f"{name}_spread"] = [min(times), max(times)]
    return found


def measure_scoring(quick: bool) -> dict[str, Any]:
    """Scoring passes for all thresholds with an empty cache, and again with a warm one. Counted, not timed."""
    script = (
        "import json, sys\n"
        "from tokensieve import score\n"
        "from tokensieve.cli import compose\n"
        "from tokensieve.pipeline import open_store\n"
        "from tokensieve.stages import define_stages\n"
        "passes, plain = [], score.compute_nll\n"
        "def counted(model, corpus):\n"
        "    passes.append(len(corpus))\n"
        "    return plain(model, corpus)\n"
        "score.compute_nll = counted\n"
        "for threshold in sys.argv[2:]:\n"
        "    run = compose([f'output_dir={sys.argv[1]}', f'stm.threshold={threshold}'])\n"
        "    define_stages(run, open_store(run)).mask.get()\n"
        "print(json.dumps(len(passes)))\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", script, folder, *map(str, THRESHOLDS)]
        cold, warm = (
            int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout) for _ in range(2)
        )
    return {"thresholds": len(THRESHOLDS), "scoring_passes_empty_cache": cold, "scoring_passes_warm_cache": warm}


def measure_sweep(quick: bool) -> dict[str, Any]:
    """One sweep against the same runs as separate processes that share their cache."""
    thresholds = THRESHOLDS[-2:] if quick else THRESHOLDS
    small = ["eval.num_items=20", "trainer.max_steps=10"] if quick else []
    shared = ["tracking=none", "sweep.controls=[]", *small]
    values = ",".join(map(str, thresholds))
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as many:
        sweep = train("-m", f"stm.threshold={values}", f"output_dir={one}", *shared)
        separate = sum(train(f"stm.threshold={value}", f"output_dir={many}", *shared) for value in thresholds)
        found = [json.loads(path.read_text()) for path in Path(one).glob("sweeps/*/jobs/*/result.json")]
        lone = [json.loads(path.read_text()) for path in Path(many).glob("runs/*/result.json")]
    by_name = {result["name"]: [entry["item_scores"] for entry in result["evals"]] for result in found}
    if any(by_name[result["name"]] != [entry["item_scores"] for entry in result["evals"]] for result in lone):
        raise SystemExit("the sweep and the separate runs scored differently: the ratio is void")
    return {
        "runs": len(thresholds),
        "sweep_seconds": sweep,
        "separate_processes_seconds": separate,
        "ratio": separate / sweep,
    }


def measure_job_overhead(quick: bool) -> dict[str, Any]:
    """What one more job costs a sweep when everything that it computes is cached: process, plan, record, report."""
    repeats = 1 if quick else 5
    small = ["tracking=none", "sweep.controls=[]", "eval=target", "eval.num_items=20", "dataset.num_train=40"]
    small += ["trainer.epochs=1"]
    with tempfile.TemporaryDirectory() as folder:
        many, one = (",".join(map(str, some)) for some in (THRESHOLDS, THRESHOLDS[:1]))
        train("-m", f"stm.threshold={many}", f"output_dir={folder}", *small)
        times = [
            [train("-m", f"stm.threshold={values}", f"output_dir={folder}", *small) for values in (many, one)]
            for _ in range(repeats)
        ]
    jobs = [(seven - lone) / (len(THRESHOLDS) - 1) for seven, lone in times]
    return {
        "cached_sweep_of_one_seconds": statistics.median(lone for _, lone in times),
        "seconds_a_further_job": statistics.median(jobs),
        "seconds_a_further_job_spread": [min(jobs), max(jobs)],
    }


def measure_loss_memory(quick: bool) -> dict[str, Any]:
    """Peak memory that the loss adds (forward and backward) at vocabulary 32k: ours against full logits."""
    script = Path(__file__).with_name("loss_memory.py")
    sizes = ["--rows", "2"] if quick else ["--rows", "8"]
    peaks = {}
    for kind in ("ours", "full"):
        done = subprocess.run([sys.executable, str(script), kind, *sizes], capture_output=True, text=True, check=True)
        peaks[kind] = json.loads(done.stdout)
    if abs(peaks["ours"]["loss"] - peaks["full"]["loss"]) > 1e-4:
        raise SystemExit("the two losses differ: the ratio is void")
    added = {kind: peak["peak_bytes"] - peak["before_bytes"] for kind, peak in peaks.items()}
    return {
        "ours_mib": added["ours"] / 2**20,
        "full_logits_mib": added["full"] / 2**20,
        "ratio": added["full"] / added["ours"],
    }


BENCHMARKS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "start": measure_start,
    "scoring": measure_scoring,
    "loss_memory": measure_loss_memory,
    "job_overhead": measure_job_overhead,
    "sweep": measure_sweep,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats and smaller sizes; writes no results")
    parser.add_argument("--only", choices=BENCHMARKS, help="one benchmark")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    results["machine"] = {"cores": os.cpu_count(), "python": platform.python_version(), "processor": platform.machine()}
    for name in [options.only] if options.only else BENCHMARKS:
        results[name] = BENCHMARKS[name](options.quick)
        for key, value in results[name].items():
            print(f"{name:12} {key:32} {value if not isinstance(value, float) else round(value, 3)}", flush=True)
    if not options.quick:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
