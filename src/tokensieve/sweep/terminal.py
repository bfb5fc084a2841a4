"""What the user sees of a sweep: one line at the start and the end of a job, a bar on a terminal, plain tables."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from tokensieve.sweep.events import Ended
from tokensieve.sweep.job import JobSpec
from tokensieve.sweep.manifest import FAILED, FINISHED, PRUNED, Manifest
from tokensieve.sweep.plan import PlannedJob


def say(line: str) -> None:
    """Print a line above the bar; a terminal that is gone is no reason to stop."""
    with contextlib.suppress(OSError, ValueError):
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()


class Progress:
    """Lines and the bar of `total` jobs; silent bar when stderr is no terminal."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._number: dict[str, int] = {}
        self._bar = tqdm(total=total, unit="job", desc="sweep", disable=None, dynamic_ncols=True)

    def started(self, spec: JobSpec, host: str | None = None) -> None:
        again = " again" if spec.job_id in self._number else ""
        say(f"{self._place(spec)} started{again}" + (f" on {host}" if host else ""))

    def preempted(self, spec: JobSpec) -> None:
        say(f"{self._place(spec)} was stopped by the cluster, and is queued again")

    def ended(self, job: Ended, state: str) -> None:
        detail = job.outcome.error if job.outcome.error is not None else describe_scores(job.outcome.scores)
        where = f" (log: {job.spec.folder / 'log.txt'})" if state == "FAILED" else ""
        say(f"{self._place(job.spec)} {state} after {job.seconds:.1f} s" + (f": {detail}" if detail else "") + where)
        self._bar.update()

    def close(self) -> None:
        self._bar.close()

    def _place(self, spec: JobSpec) -> str:
        number = self._number.setdefault(spec.job_id, len(self._number) + 1)
        return f"[{number}/{self._total}] {spec.name}"


def describe_scores(scores: Mapping[str, float]) -> str:
    """
    >>> describe_scores({"lab_code": 0.615, "other points": -3.25, "val/nll_kept": 0.41})
    'lab_code 0.615, other points -3.2, val/nll_kept 0.41'
    """
    return ", ".join(
        f"{key} {value:+.1f}" if key.endswith("points") else f"{key} {value:.3g}" for key, value in scores.items()
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns of plain text, as wide as they need to be.

    >>> print(table(["job", "n"], [["a", "10"], ["bb", "2"]]))
    job  n
    a    10
    bb   2
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def join_stages(stages: Iterable[str]) -> str:
    """Names of stages in one cell; stages that differ in a task alone are counted.

    >>> join_stages(["score", "items lab_code", "items lab_sql", "evaluate base/lab_code"])
    'score, items (2), evaluate base'
    """
    counts: dict[str, int] = {}
    for stage in stages:
        kind = stage.partition("/")[0] if "/" in stage else "items" if stage.startswith("items ") else stage
        counts[kind] = counts.get(kind, 0) + 1
    return ", ".join(kind if count == 1 else f"{kind} ({count})" for kind, count in counts.items()) or "-"


def plan_table(jobs: Sequence[PlannedJob], states: Mapping[str, str], stages: Mapping[str, tuple[str, str]]) -> str:
    """The jobs of a dry run. `stages`: job id -> (what is cached, what is to do)."""
    rows = []
    for job in jobs:
        note = f"same as {job.same_as[:8]}" if job.same_as else f"control: {job.control}" if job.control else ""
        state = "" if job.same_as else states.get(job.job_id, "")
        rows.append([job.job_id[:8], job.name, note or "-", state or "-", *stages.get(job.job_id, ("-", "-"))])
    return table(["id", "name", "note", "state", "cached", "to do"], rows)


def show_plan(jobs: Sequence[PlannedJob], states: Mapping[str, str], where: str) -> None:
    """Say what a sweep would run, and what of it is cached; nothing is started. `states`: job id -> state so far."""
    from tokensieve.pipeline import plan

    stages = {}
    for job in jobs:
        if job.same_as is None:
            steps = plan(job.config)
            cached, to_do = ([step.stage for step in steps if step.cached is known] for known in (True, False))
            stages[job.job_id] = (join_stages(cached), join_stages(to_do))
    say(plan_table(jobs, states, stages))
    num = sum(states.get(job_id) not in (FINISHED, PRUNED) for job_id in stages)
    say(f"{num} jobs would run, {where}; nothing was started")


def tell_what_is_left(manifest: Manifest, folder: Path, unfinished: int, command: str) -> None:
    """Say which jobs failed, and how to go on with the `unfinished`."""
    for entry in manifest.jobs:
        if entry.state == FAILED:
            say(f"FAILED {entry.name}: {entry.error} (log: {folder / entry.dir / 'log.txt'})")
    if unfinished:
        say(f"{unfinished} of {len(manifest.jobs)} jobs are not finished. To resume:")
        say(f"    {command}")
