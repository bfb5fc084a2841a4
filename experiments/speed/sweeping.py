"""A sweep of 16 runs against one process a run, Hydra's basic launcher and its joblib launcher with 2 workers.

    python experiments/speed/sweeping.py [--steps 60] [--runs 16] [--quick] [--out FILE]

4 thresholds x 2 learning rates x 2 ranks on a 1 M model (vocabulary 8k), batches of 2 as the STM paper trains. The
peers run recipe.py, in the same order of rows; every run's loss curve must be ours. Against the first two, one job at a
time on one core; against joblib, two at a time on two cores. A repeat is a whole sweep of each, from an empty folder.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from commands import run_python, train
from loops import make_loader
from peers import install_peers, peer_environment
from synthetic import draw_rows, save_model, write_pretokenised
from timing import VoidRatio, check_equal, read_options, summarise, write_result

SIZE, VOCABULARY, NUM_ROWS, BATCH_ROWS = "1M", 8_000, 96, 2
# Perplexities of a model with random weights: 40 to 95 % of the tokens are kept, and no row loses all.
# At 4e-3 this model's loss rises, and rounding grows to 0.7 nats within 60 steps: no curves are equal there.
THRESHOLDS, RATES, RANKS = (5e4, 1e5, 3e5, 1e6), (2e-4, 1e-3), (8, 16)
RECIPE = str(Path(__file__).with_name("recipe.py"))
TOLERANCE = 5e-3  # nats, over all steps
TARGETS = {"processes": 5.0, "hydra_basic": 2.5, "hydra_joblib": 1.5}

Run = tuple[float, float, int]  # threshold, learning rate, rank
Curves = dict[Run, list[float]]


class Setting:
    """What all subjects are given: rows, model, order, and the grid of runs."""

    def __init__(self, folder: Path, num_steps: int, num_runs: int) -> None:
        self.folder, self.num_steps = folder, num_steps
        self.epochs = -(-num_steps * BATCH_ROWS // NUM_ROWS)
        count = {16: (4, 2, 2), 4: (2, 2, 1), 2: (2, 1, 1)}[num_runs]
        self.axes = tuple(axis[:n] for axis, n in zip((THRESHOLDS, RATES, RANKS), count, strict=True))
        rows = draw_rows(NUM_ROWS, VOCABULARY)
        write_pretokenised(rows, folder / "rows.parquet")
        save_model(SIZE, VOCABULARY, folder / "model")
        loader = make_loader(rows, BATCH_ROWS, num_steps, epochs=self.epochs, seed=1)
        # Within a batch, the longest first, as this package feeds them.
        steps = [sorted(step.tolist(), key=lambda number: -len(rows[number].ids)) for step in loader.steps]
        (folder / "order.json").write_text(json.dumps(steps))

    @property
    def runs(self) -> list[Run]:
        return list(itertools.product(*self.axes))

    def sweep(self, output: Path, workers: int) -> Curves:
        thresholds, rates, ranks = (",".join(f"{value:g}" for value in axis) for axis in self.axes)
        train(
            "-m", f"stm.threshold={thresholds}", f"optim.lr={rates}", f"lora.rank={ranks}", f"output_dir={output}",
            "dataset=pretokenised", f"dataset.path={self.folder / 'rows.parquet'}", f"sweep.workers={workers}",
            "model=path", f"model.path={self.folder / 'model'}", "eval=target", "sweep.controls=[]", "lora.dropout=0",
            "optim.schedule=constant", "optim.warmup_steps=0", f"trainer.max_steps={self.num_steps}",
            f"trainer.epochs={self.epochs}", f"trainer.batch_size={BATCH_ROWS}",
            f"trainer.micro_batch_size={BATCH_ROWS}", "trainer.group_by_length=false",
        )  # fmt: skip
        curves = {}
        for result in output.glob("sweeps/*/jobs/*/result.json"):
            config = json.loads(result.read_text())["config"]
            lines = [json.loads(line) for line in (result.parent / "metrics.jsonl").read_text().splitlines()]
            run = (config["stm"]["threshold"], config["optim"]["lr"], config["lora"]["rank"])
            curves[run] = [line["train/nll"] for line in lines if "train/nll" in line]
        return curves

    def recipe(self, output: Path, how: str) -> Curves:
        names = ("data", "model", "order", "out")
        paths = (self.folder / "rows.parquet", self.folder / "model", self.folder / "order.json", output)
        shared = [f"{name}={path}" for name, path in zip(names, paths, strict=True)]
        keys = ("threshold", "lr", "rank")
        quiet = [f"hydra.run.dir={output}", f"hydra.sweep.dir={output}/hydra"]
        if how == "processes":
            for run in self.runs:
                run_python(RECIPE, *shared, *quiet, *(f"{key}={value:g}" for key, value in zip(keys, run, strict=True)))
        else:
            swept = [
                f"{key}={','.join(f'{value:g}' for value in axis)}" for key, axis in zip(keys, self.axes, strict=True)
            ]
            joblib = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"] if how == "hydra_joblib" else []
            run_python(RECIPE, "-m", *shared, *quiet, *swept, *joblib, environment=peer_environment())
        return {
            run: json.loads((output / f"{run[0]:g}_{run[1]:g}_{run[2]}/curve.json").read_text()) for run in self.runs
        }


def measure(num_steps: int, num_runs: int, repeats: int) -> dict[str, Any]:
    """Seconds of each subject, ratios of the peers to ours on as many cores, and how far the curves are apart."""
    seconds: dict[str, list[float]] = {}
    curves: dict[str, Curves] = {}
    with tempfile.TemporaryDirectory() as place:
        setting = Setting(Path(place), num_steps, num_runs)
        subjects: dict[str, tuple[int, Callable[[Path], Curves]]] = {
            "ours": (1, lambda output: setting.sweep(output, 1)),
            "processes": (1, lambda output: setting.recipe(output, "processes")),
            "hydra_basic": (1, lambda output: setting.recipe(output, "hydra_basic")),
            "ours_2": (2, lambda output: setting.sweep(output, 2)),
            "hydra_joblib": (2, lambda output: setting.recipe(output, "hydra_joblib")),
        }
        for number in range(repeats):
            for name, (cores, run) in subjects.items():
                with on_cores(cores):
                    start = time.perf_counter()
                    curves[name] = run(Path(place) / f"{name}-{number}")
                    seconds.setdefault(name, []).append(time.perf_counter() - start)
    checks = [
        compare_curves(name, curves["ours"], found, setting.runs) for name, found in curves.items() if name != "ours"
    ]
    against = {"processes": "ours", "hydra_basic": "ours", "hydra_joblib": "ours_2"}
    ratios = {
        name: summarise(theirs / own for theirs, own in zip(seconds[name], seconds[ours], strict=True))
        for name, ours in against.items()
    }
    times = {name: summarise(values) for name, values in seconds.items()}
    return {"runs": num_runs, "steps": num_steps, "seconds": times, "ratios": ratios, "checks": checks}


class on_cores:  # noqa: N801  # reads as the statement that it is
    """Within the block, this process and its children have `count` of the cores (one thread each), or all there are."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __enter__(self) -> None:
        self._before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, sorted(self._before)[: self._count])
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

    def __exit__(self, *error: object) -> None:
        os.sched_setaffinity(0, self._before)


def compare_curves(name: str, ours: Curves, theirs: Curves, runs: list[Run]) -> dict[str, Any]:
    if set(ours) != set(runs) or set(theirs) != set(runs):
        raise VoidRatio(f"ours has {len(ours)} and {name} {len(theirs)} of {len(runs)} runs: the ratio is void")
    pairs = [zip(ours[run], theirs[run], strict=True) for run in runs]
    return check_equal(f"loss curves of ours and {name}", max(abs(a - b) for pair in pairs for a, b in pair), TOLERANCE)


def main() -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--steps", type=int, nargs="+", default=[60])
        parser.add_argument("--runs", type=int, choices=(2, 4, 16), default=16)

    options = read_options(__doc__, more=add)
    install_peers()
    rows = []
    for steps in options.steps:
        try:
            rows.append(measure(20 if options.quick else steps, 2 if options.quick else options.runs, options.repeats))
        except VoidRatio as error:
            rows.append({"steps": steps, "void": str(error)})
    write_result({"work": "sweep", "rows": rows}, options.out)


if __name__ == "__main__":
    main()
