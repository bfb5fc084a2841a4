"""What a user waits for before anything is trained: --help, the first step of a run, a further job of a sweep.

    python experiments/speed/startup.py [--quick] [--out FILE]

`first_step`: from the start of `python train.py` to the end of its first optimiser step, with scores, mask and base
evaluation in the cache, in turn with a process that imports the same libraries, as a run does without collecting
garbage meanwhile, and does nothing. `job`: time between
the ends of neighbouring jobs of a sweep in which everything is cached: process, plan, record, tracking.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

from commands import first_step_time, pin_children, run_python, train
from timing import read_options, summarise, write_result

TARGETS = {"help_seconds": 0.6, "first_step_over_imports": 1.1, "job_seconds": 1.0}
IMPORTS = (
    "import gc; gc.disable(); import torch, transformers, peft, lightning.pytorch, datasets; "
    "from transformers import AutoModelForCausalLM; "
    "from tokensieve import tracking; tracking.preload(); "
    "import os; os._exit(0)"  # taking everything down again is no part of a start
)
SMALL = ("sweep.controls=[]", "eval=target", "eval.num_items=8", "dataset.num_train=40", "trainer.max_steps=1")
THRESHOLDS = ("1000", "100", "50", "25", "10", "6", "4", "2.5", "2", "1.5")


def measure_help(repeats: int) -> dict[str, Any]:
    train("--help")
    return {"help": summarise(train("--help") for _ in range(repeats + 2))}


def measure_first_step(repeats: int) -> dict[str, Any]:
    """Imports alone and the first step, in turn; another seed each time, so that nothing of the fit is cached."""
    imports, steps = [], []
    with tempfile.TemporaryDirectory() as folder:
        train(f"output_dir={folder}", *SMALL, "seed=1000")
        known = set(Path(folder).glob("runs/*"))
        for seed in range(repeats):
            imports.append(run_python("-c", IMPORTS))
            start = time.time()
            train(f"output_dir={folder}", *SMALL, f"seed={seed}")
            (run,) = set(Path(folder).glob("runs/*")) - known
            known.add(run)
            steps.append(first_step_time(run) - start)
    return {
        "imports": summarise(imports),
        "first_step": summarise(steps),
        "first_step_over_imports": summarise(step / alone for step, alone in zip(steps, imports, strict=True)),
    }


def measure_job(repeats: int) -> dict[str, Any]:
    """A sweep twice; of the second one, whose jobs find everything in the cache, the time from job to job."""
    with tempfile.TemporaryDirectory() as folder:
        command = ("-m", f"stm.threshold={','.join(THRESHOLDS[: repeats + 1])}", f"output_dir={folder}", *SMALL)
        train(*command)
        before = set(Path(folder).glob("sweeps/*"))
        while len(found := set(Path(folder).glob("sweeps/*")) - before) == 0:
            time.sleep(1.0)  # sweeps are named by the second
            train(*command)
        (sweep,) = found
        ends = sorted(path.stat().st_mtime for path in sweep.glob("jobs/*/status.json"))
    return {"job": summarise(later - earlier for earlier, later in itertools.pairwise(ends))}


def main() -> None:
    options = read_options(__doc__)
    pin_children(options.threads)
    row = measure_help(options.repeats) | measure_first_step(options.repeats) | measure_job(options.repeats)
    write_result({"work": "startup", "threads": options.threads, "rows": [row]}, options.out)


if __name__ == "__main__":
    main()
