"""Speed beside what a user would run instead, as ratios: python experiments/speed/run.py [--only NAME ...]

    --list     the benchmarks and about how long each takes; the last three run only by their names
    --quick    the smallest case of each, which shows that it runs; keeps no result
    --fresh    measure again what results.json has already
    --table    print the tables of results.json and measure nothing; --all: every vocabulary; --brief: a line a target

Each benchmark is a program beside this one and writes its result to results.json when it is done: a stopped run goes on
with the next one. Results of another machine or other versions are measured again. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peers import REQUIREMENTS, install_peers
from table import render, render_brief

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
# name -> program and its arguments, minutes on two cores
BENCHMARKS: dict[str, tuple[tuple[str, ...], float]] = {
    "startup": (("startup.py",), 3),
    "tracking": (("tracking_cost.py",), 4),
    "scoring": (("scoring.py",), 4),
    "training": (("training.py",), 5),
    "training_memory": (("training_memory.py",), 2),
    "padding": (("padding.py", "--repeats", "7"), 3),
    "generation": (("generation.py",), 2),
    "sweep": (("sweeping.py", "--repeats", "1"), 6),
    "sweep_steps": (("sweeping.py", "--repeats", "1", "--runs", "2", "--steps", "20", "60", "200", "600"), 13),
    "scoring_grid": (("scoring.py", "--every"), 10),
    "training_grid": (("training.py", "--every"), 15),
}
BY_NAME_ONLY = ("sweep_steps", "scoring_grid", "training_grid")
# These write a file of their own, beside themselves.
OWN_FILES = {name: HERE / f"{name}.json" for name in ("padding", "generation")}
LIBRARIES = ("torch", "transformers", "peft", "lightning", "hydra-core", "mlflow")


def describe_machine() -> dict[str, Any]:
    """What a result holds for; another one makes it stale."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    versions = {name: version(name) for name in LIBRARIES} | dict(wanted.split("==") for wanted in REQUIREMENTS)
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": versions,
    }


def measure(name: str, quick: bool) -> dict[str, Any]:
    """One benchmark in a process of its own.

    Raises:
        SystemExit: it failed; what it said is on the terminal.
    """
    program, minutes = BENCHMARKS[name]
    print(f"{name}: {'quick' if quick else f'about {minutes:g} minutes'} ...", file=sys.stderr, flush=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        keeps_own = name in OWN_FILES  # then, quick or not, it prints what it found
        out = OWN_FILES[name] if keeps_own else Path(folder) / "result.json"
        options = [*([] if keeps_own else ["--out", str(out)]), *(["--quick"] if quick else [])]
        command = [sys.executable, str(HERE / program[0]), *program[1:], *options]
        done = subprocess.run(command, cwd=HERE.parents[1], env=dict(os.environ, HF_HUB_OFFLINE="1"))
        if done.returncode:
            raise SystemExit(f"{name} failed: {' '.join(command)}")
        seconds = time.perf_counter() - start
        print(f"{name}: {seconds:.0f} s", file=sys.stderr, flush=True)
        found = {} if keeps_own and quick else json.loads(out.read_text())
        return dict(found, seconds_of_benchmark=seconds)


def read_results(machine: dict[str, Any], *, every: bool) -> dict[str, Any]:
    """What is measured already: on this machine, or with `every` on any."""
    if not RESULTS.is_file():
        return {}
    found = json.loads(RESULTS.read_text())
    return {name: result for name, result in found.items() if every or result.get("machine") == machine}


def write_results(results: dict[str, Any]) -> None:
    aside = RESULTS.with_suffix(".partial")
    aside.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(aside, RESULTS)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    for name in ("list", "quick", "fresh", "table", "all", "brief"):
        parser.add_argument(f"--{name}", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = read_options()
    if options.list:
        print("\n".join(f"{name:16} {minutes:g} min" for name, (_, minutes) in BENCHMARKS.items()))
        return
    machine = describe_machine()
    if options.table:
        found = read_results(machine, every=True)
        print(render_brief(found) if options.brief else render(found, every_vocabulary=options.all))
        return
    install_peers()
    shown: dict[str, Any] = {}
    for name in options.only or [name for name in BENCHMARKS if name not in BY_NAME_ONLY]:
        known = read_results(machine, every=False)
        if name in known and not options.fresh and not options.quick:
            print(f"{name}: measured {known[name]['date']}; --fresh measures it again", file=sys.stderr)
            shown[name] = known[name]
            continue
        shown[name] = measure(name, options.quick)
        if len(shown[name]) == 1:  # it printed its numbers itself
            del shown[name]
            continue
        if not options.quick:
            date = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
            write_results(read_results(machine, every=True) | {name: dict(shown[name], machine=machine, date=date)})
    print(render(shown, every_vocabulary=options.all or options.quick))


if __name__ == "__main__":
    main()
