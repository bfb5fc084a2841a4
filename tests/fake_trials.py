"""Bodies of a search's jobs: `hydra.launcher.job=fake_trials:<name>`. They run in milliseconds."""

from __future__ import annotations

import math
import time

from fake_jobs import write_status

from tokensieve.pruning import FitReport
from tokensieve.sweep.job import JobSpec, Outcome


def measure(spec: JobSpec) -> Outcome:
    """Best gain at lr 1e-2; forgetting grows with lr. Leaves a line for every start."""
    write_status(spec, "RUNNING")
    with (spec.folder / "starts").open("a") as stream:
        stream.write(f"{spec.config.search.trial}\n")
    lr = spec.config.optim.lr
    found = {"gain": -((math.log10(lr) + 2) ** 2), "forgetting": 100 * lr, "nll": lr, "nll_kept": lr}
    values = tuple(found[name] for name in spec.config.search.objective)
    write_status(spec, "FINISHED")
    return Outcome(values if len(values) > 1 else values[0], {"lr": lr})


def fail_above(spec: JobSpec) -> Outcome:
    """Learning rates above 0.01 fail until the file `mended` lies in the working directory's parent of the sweep."""
    mended = spec.folder.parents[3] / "mended"
    if spec.config.optim.lr > 0.01 and not mended.exists():
        raise RuntimeError("too fast")
    return measure(spec)


def wait_at_second(spec: JobSpec) -> Outcome:
    """The second trial waits to be killed, once."""
    if spec.config.search.trial == 1 and not (spec.folder / "waiting").exists():
        (spec.folder / "waiting").touch()
        time.sleep(600)
    return measure(spec)


def validate(spec: JobSpec) -> Outcome:
    """Four validations, at an NLL of lr each; ended when the pruner says so."""
    report = FitReport(spec.config.search)
    values = {"val/nll": spec.config.optim.lr}
    for number in range(1, 5):
        if report.is_hopeless(values, number):
            return Outcome(error=str(report.ended(values, number)), error_type="TrialPruned", pruned=True)
    return measure(spec)


def return_nothing(spec: JobSpec) -> Outcome:
    """A trial whose objective is not a number."""
    return Outcome(math.nan)
