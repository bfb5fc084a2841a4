"""How long a thousand jobs take to plan and a thousand runs to report: python experiments/speed/sweep_scale.py

Plans a grid of --jobs jobs (compose, validate, controls, duplicates) in this process, dry-runs the same grid by the
command line, then writes as many runs as a real sweep leaves them and reads and reports those. Nothing is trained.
Prints JSON, and writes it to --output; --profile NAME prints where the time of one measurement goes.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import platform
import pstats
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
TASKS = ("lab_code", "lab_math", "lab_choice", "lab_sql")
NUM_ITEMS = 200
LIMIT_SECONDS = {"plan": 30.0, "read": 10.0}


def make_axes(num_jobs: int) -> dict[str, list[str]]:
    """Three swept keys, one of them a group, and seeds: `num_jobs` rounded up to whole seeds, a tenth duplicates."""
    axes = {
        "lora": ["r16", "r32"],
        "optim.lr": ["1e-3", "4e-3"],
        "stm.threshold": ["1000", "25", "10", "4", "2.5", "2", "1.75", "1.5", "1.25", "1.250"],
    }
    seeds = -(-num_jobs // 40)
    return axes | {"seed": [str(seed) for seed in range(1, seeds + 1)]}


def grid(axes: dict[str, list[str]]) -> list[list[str]]:
    jobs: list[list[str]] = [[]]
    for key, values in axes.items():
        jobs = [[*job, f"{key}={value}"] for job in jobs for value in values]
    return jobs


def plan(num_jobs: int, folder: Path) -> dict[str, Any]:
    """Plan the grid as a sweep does before any job starts."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    from tokensieve import pipeline
    from tokensieve.config import register_schema
    from tokensieve.sweep.compose import composer
    from tokensieve.sweep.plan import plan_jobs

    axes = make_axes(num_jobs)
    register_schema()
    with initialize_config_dir(str(CONF)):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", [f"output_dir={folder}"], RunMode.MULTIRUN)
        start = time.perf_counter()
        jobs = plan_jobs(grid(axes), composer(loader, master), pipeline.validate, swept=list(axes), with_controls=True)
        seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "jobs": len(jobs),
        "duplicates": sum(job.same_as is not None for job in jobs),
        "controls": sum(job.control is not None for job in jobs),
    }


def dry_run(num_jobs: int, folder: Path) -> dict[str, Any]:
    """The same by the command line: start of Python and Hydra, the plan, what is cached of each job, the table."""
    axes = [f"{key}={','.join(values)}" for key, values in make_axes(num_jobs).items()]
    command = [sys.executable, "train.py", "-m", *axes, "dry_run=true", f"output_dir={folder}"]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return {"seconds": seconds, "lines": len(done.stdout.splitlines())}


def write_runs(num_jobs: int, folder: Path) -> Path:
    """A finished sweep of the grid without its duplicates: manifest, and each run's records with texts."""
    from tokensieve.records import digest
    from tokensieve.sweep.manifest import FINISHED, JobEntry, Manifest, now

    axes = make_axes(num_jobs)
    overrides = grid(axes)
    manifest = Manifest(now(), "scale", overrides, axes, {}, "python train.py -m ...")
    for number, job in enumerate(overrides):
        identity = digest(job)
        place = f"jobs/{identity[:16]}"
        manifest.jobs.append(JobEntry(identity, f"run {number}", job, place, FINISHED))
        run = folder / place
        run.mkdir(parents=True)
        status = {"status": FINISHED, "job_id": identity, "name": f"run {number}", "stage": "evaluate", "error": None}
        (run / "status.json").write_text(json.dumps(status))
        (run / "result.json").write_text(_result(identity, job, number).to_json())
    manifest.save(folder)
    return folder


def _result(identity: str, overrides: Sequence[str], number: int) -> Any:
    from tokensieve.config import LoraConfig, OptimConfig, RunConfig, StmConfig, to_plain
    from tokensieve.records import MaskStats, RunResult

    values = dict(text.split("=", 1) for text in overrides)
    threshold = float(values["stm.threshold"])
    config = RunConfig(
        stm=StmConfig(rule="high_ppl", threshold=threshold),
        lora=LoraConfig(name=values["lora"]),
        optim=OptimConfig(lr=float(values["optim.lr"])),
        seed=int(values["seed"]),
    )
    chance = random.Random(f"scale/{number}")
    return RunResult(
        job_id=identity,
        name=config.run_name,
        status="FINISHED",
        config=to_plain(config),
        target_task=TASKS[0],
        stamps=dict.fromkeys(("dataset", "tokenise", "score", "mask", "fit"), identity),
        mask=MaskStats(400, 0, 23212, 20000, 0.6, 1.0),
        base_evals=[_evaluation(task, 0.6, random.Random(task)) for task in TASKS],
        evals=[_evaluation(task, 0.7, chance) for task in TASKS],
        fit={"train/nll": 0.4, "val/nll": 1.1},
        seconds={"score": 1.2, "fit": 6.5},
        peak_memory_bytes={"fit": 612_000_000},
        versions={"python": platform.python_version()},
        git_commit=None,
    )


def _evaluation(task: str, level: float, chance: random.Random) -> Any:
    from tokensieve.records import EvalResult
    from tokensieve.statistics import wilson_interval

    scores = [float(chance.random() < level) for _ in range(NUM_ITEMS)]
    value, low, high = wilson_interval(sum(scores), NUM_ITEMS)
    ids = [f"{task}-{number}" for number in range(NUM_ITEMS)]
    return EvalResult(
        task, "accuracy", 1, ids, scores, value, low, high, {}, outputs=["def f(x):\n    return x\n"] * 200
    )


def read(folder: Path) -> dict[str, Any]:
    """Read every run, as the report does first."""
    from tokensieve.report.load import read_sweep

    start = time.perf_counter()
    sweep = read_sweep(folder)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "runs": sum(run.result is not None for run in sweep.runs)}


def report(folder: Path) -> dict[str, Any]:
    """Read, compare the arms with their intervals, draw, and write the page."""
    from tokensieve.report import write_report

    start = time.perf_counter()
    with redirect_stdout(io.StringIO()):
        write_report(folder)
    return {"seconds": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--only", action="append", choices=("plan", "dry_run", "read", "report"))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    wanted = options.only or ["plan", "dry_run", "read", "report"]
    found: dict[str, Any] = {"python": platform.python_version(), "requested_jobs": options.jobs}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if {"read", "report"} & set(wanted):
            write_runs(options.jobs, folder / "written")
        measurements: dict[str, Callable[[], dict[str, Any]]] = {
            "plan": lambda: plan(options.jobs, folder / "outputs"),
            "dry_run": lambda: dry_run(options.jobs, folder / "outputs"),
            "read": lambda: read(folder / "written"),
            "report": lambda: report(folder / "written"),
        }
        for measurement in wanted:
            profiler = cProfile.Profile()
            if options.profile:
                profiler.enable()
            found[measurement] = measurements[measurement]()
            profiler.disable()
            if options.profile:
                pstats.Stats(profiler, stream=sys.stderr).sort_stats("cumulative").print_stats(45)
    for measurement, limit in LIMIT_SECONDS.items():
        if measurement in found:
            found[measurement]["limit_seconds"] = limit
            found[measurement]["within_limit"] = found[measurement]["seconds"] < limit
    text = json.dumps(found, indent=1)
    print(text)
    if options.output is not None:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
