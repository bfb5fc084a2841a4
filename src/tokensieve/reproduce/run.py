"""Run a table's commands, find the runs that are its arms, judge every row."""

from __future__ import annotations

import logging
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokensieve.errors import ConfigError, SweepError
from tokensieve.reproduce.arms import Compose, compose_arms, list_seeds, place_of
from tokensieve.reproduce.collect import measure_arms, measure_masks, measure_released
from tokensieve.reproduce.expected import BASE, ExpectedRow
from tokensieve.reproduce.experiment import Experiment, Scale, Setup
from tokensieve.reproduce.record import write_lab_record
from tokensieve.reproduce.table import Judged, print_rows, write_tables
from tokensieve.reproduce.verdict import Measured, Verdict, describe_lab, judge
from tokensieve.sweep.compose import key_of

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger(__name__)
_GRACE_SECONDS = 15.0


def reproduce(
    experiment: Experiment,
    compose: Compose,
    *,
    scale: Scale,
    extra: Sequence[str] = (),
    data: Path | None = None,
    output_dir: Path = Path("outputs"),
    run: bool = True,
    record: bool = False,
    console: Console | None = None,
) -> list[Judged]:
    """Run the table at `scale` and set our numbers beside the printed ones, on screen and in
    `<output_dir>/reproduce/<id>/<scale>/`.

    Args:
        experiment: the table.
        scale: paper, with the real models, or lab, with the packaged one.
        compose: overrides -> checked run.
        extra: overrides for every command and arm (where data lies, seeds, devices).
        data: released perplexities that stand for the experiment's `imports` row, instead of a model.
        output_dir: where runs and tables are.
        run: false: judge the runs that are there.
        record: write the lab's numbers into the table's folder as well (`lab.md`).
        console: where to print; default: standard output.

    Raises:
        ConfigError: an arm that does not compose, or `record` at another scale than lab. SweepError, after the table
            was written: a command that failed.
    """
    from rich.console import Console

    if record and (scale != "lab" or data is not None):
        remedy = "add --scale lab" if data is None else "leave out --data, which is compared with what was printed"
        raise ConfigError("--record", "writes down what came out in the lab", received=scale, remedy=remedy)
    overrides = [*extra, f"output_dir={output_dir}"]
    setup = experiment.setup(scale)
    if data is not None:
        found, failed = measure_released(experiment, compose, overrides, data), 0
    elif experiment.kind == "mask":
        found, failed = measure_masks(experiment, setup, compose, overrides, run=run)
    else:
        configs = compose_arms(experiment, setup, compose, overrides)
        failed = _call_all(setup, overrides) if run else 0
        found = measure_arms(experiment, scale, configs, output_dir)
    rows = [
        Judged(row, ours, _verdict(experiment, scale, row, ours, same_data=data is not None))
        for row in _shown(experiment, scale)
        for ours in [found.get(row)]
    ]
    folder = output_dir / "reproduce" / experiment.id / ("released" if data is not None else scale)
    paths = write_tables(experiment, scale, rows, folder)
    print_rows(experiment, rows, console or Console(width=None if sys.stdout.isatty() else 200))
    log.info("table: %s, %s", *paths)
    if record:
        log.info("record: %s", write_lab_record(experiment, rows))
    if failed:
        raise SweepError(
            experiment.id,
            f"{failed} of its {'commands' if experiment.kind == 'train' else 'arms'} failed",
            remedy="see their messages above; the table holds what finished, and the same command goes on",
        )
    return rows


def _shown(experiment: Experiment, scale: Scale) -> list[ExpectedRow]:
    """Rows of the table: at lab scale those alone whose direction can be told."""
    if scale == "paper":
        return experiment.expected
    has_changes = any(row.metric in ("ti", "bwt") for row in experiment.expected)
    seen: dict[tuple[str, ...], ExpectedRow] = {}
    for row in experiment.expected:
        if row.arm != BASE and not (row.metric == "accuracy" and has_changes):
            target = row.dataset if row.metric == "ti" else ""
            seen.setdefault((*place_of(row), row.metric, target), row)
    return list(seen.values())


def _verdict(
    experiment: Experiment, scale: Scale, row: ExpectedRow, ours: Measured | None, *, same_data: bool
) -> Verdict:
    reason = experiment.cannot.get(row.arm) or experiment.setup(scale).cannot.get(row.arm)
    if reason is not None:
        return Verdict("not comparable", reason)
    if scale == "lab" and experiment.setup(scale).overrides(*place_of(row)) is None:
        return Verdict("not comparable", "no counterpart in the lab")
    if scale == "lab":
        return describe_lab(row.printed if row.metric in ("ti", "bwt") else None, ours, row.standard_error)
    obstacle = "" if same_data else experiment.obstacle(row)
    return judge(row.printed, row.standard_error, ours, obstacle=obstacle, same_data=same_data)


def _call_all(setup: Setup, overrides: Sequence[str]) -> int:
    """Run the setup's commands, in order; how many failed."""
    others = [override for override in overrides if key_of(override) != "seed"]
    seeds = list_seeds(setup, overrides)
    failed = sum(_call(command.replace("$seed", seed), others) for command in setup.first for seed in seeds)
    return failed + sum(_call(command, overrides) for command in setup.commands)


def full_command(command: str, extra: Sequence[str] = ()) -> list[str]:
    """The words of a command under this interpreter, later overrides in place of earlier ones of the same key."""
    later = {_left(override) for override in extra}
    words = [word for word in shlex.split(command) if "=" not in word or _left(word) not in later]
    return [sys.executable if words[0] == "python" else words[0], *words[1:], *extra]


def _left(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def _call(command: str, extra: Sequence[str]) -> bool:
    """Run one command; True when it failed."""
    words = full_command(command, extra)
    log.info("$ %s", shlex.join(words))
    with subprocess.Popen(words) as child:
        try:
            return child.wait() != 0
        except KeyboardInterrupt:
            _let_stop(child)
            raise


def _let_stop(child: subprocess.Popen[bytes]) -> None:
    """Wait until a sweep has saved its state. Ctrl-C reaches it too; a signal that was sent to us alone does not."""
    try:
        child.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGTERM)
        child.wait()
