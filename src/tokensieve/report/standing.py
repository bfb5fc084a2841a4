"""How far a sweep is: what finished, what ended without a result, what is still to come."""

from __future__ import annotations

from collections import Counter
from typing import Final

from tokensieve.report.load import Run, Sweep

# State -> how it is told.
_TO_COME: Final = {"RUNNING": "running", "PENDING": "waiting", "SUBMITTED": "queued", "PREEMPTED": "queued again"}


def unfinished(sweep: Sweep) -> list[Run]:
    """Runs that ended without a result, in the sweep's order; pruned trials stand among the trials."""
    return [run for run in sweep.runs if run.result is None and run.state not in ("PRUNED", *_TO_COME)]


def describe_to_come(sweep: Sweep) -> str:
    """One line on the runs that have not ended; empty where all have."""
    counts = Counter(_TO_COME[run.state] for run in sweep.runs if run.result is None and run.state in _TO_COME)
    found = ", ".join(f"{number} {state}" for state, number in counts.most_common())
    return f"Not ended: {found}." if found else ""


def heading(sweep: Sweep) -> str:
    """
    >>> heading(Sweep(None, "demo", "", "", {}, ()))
    'demo: 0 of 0 runs finished'
    """
    done = sum(run.result is not None for run in sweep.runs)
    pruned = sum(run.state == "PRUNED" for run in sweep.runs)
    return f"{sweep.name}: {done} of {len(sweep.runs)} runs finished" + (f", {pruned} pruned" if pruned else "")
