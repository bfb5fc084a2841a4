"""The arms on a terminal, or as plain lines through a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokensieve.plain_table import align_lines
from tokensieve.report.arms import Arm
from tokensieve.report.forgetting import ForgettingStudy, explain_predictions, predictor_lines
from tokensieve.report.load import Sweep
from tokensieve.report.standing import describe_to_come, heading, unfinished
from tokensieve.report.table import columns, explain

if TYPE_CHECKING:
    from rich.console import Console


def print_table(sweep: Sweep, arms: Sequence[Arm], console: Console) -> None:
    """Print to `console`: on a terminal as many columns as fit, the interval under its number; else plain lines."""
    from rich.markup import escape

    console.print(f"[bold]{escape(heading(sweep))}[/bold]", soft_wrap=True, highlight=False, emoji=False)
    if arms:
        _print_arms(arms, console)
        for line in explain(sweep, arms):
            console.print(line, style="dim", soft_wrap=not console.is_terminal, highlight=False, markup=False)
    else:
        console.print("No run finished: there is nothing to compare yet.")
    if to_come := describe_to_come(sweep):
        console.print(to_come, style="yellow", highlight=False, markup=False)
    for run in unfinished(sweep):
        style = "bold red" if run.state == "FAILED" else "yellow"
        console.print(
            f"[{style}]{run.state}[/{style}] {escape(run.name)}", soft_wrap=True, highlight=False, emoji=False
        )
        if run.error:
            console.print(f"  {run.error}", soft_wrap=True, highlight=False, markup=False)
        if run.log_path.is_file():
            console.print(f"  log: {run.log_path}", soft_wrap=True, highlight=False, markup=False)


def print_predictions(study: ForgettingStudy, console: Console) -> None:
    """Print what foretold forgetting, as plain lines; nothing for a sweep with few masks."""
    if not study.predictions:
        return
    console.print("\n[bold]Forgetting, foretold before training[/bold]", highlight=False, emoji=False)
    console.print("\n".join(predictor_lines(study)), soft_wrap=True, highlight=False, markup=False)
    for line in explain_predictions(study):
        console.print(line, style="dim", soft_wrap=not console.is_terminal, highlight=False, markup=False)


def _print_arms(arms: Sequence[Arm], console: Console) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    every = shown = columns(arms)
    if not console.is_terminal:
        console.print("\n".join(_plain_lines(arms)), soft_wrap=True, highlight=False, markup=False)
        return
    room = console.width - 3 - max(len(arm.label) for arm in arms)
    while sum(column.width + 2 for column in shown) > room and max(column.rank for column in shown) > 0:
        last = max(column.rank for column in shown)
        shown = [column for column in shown if column.rank != last]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("arm", no_wrap=console.width > 60, overflow="fold")
    for column in shown:
        table.add_column(column.short, justify="right", overflow="fold")
    for arm in arms:
        cells = [
            Text.assemble(number, (f"\n{bracket}", "dim")) for number, bracket in (column.cell(arm) for column in shown)
        ]
        table.add_row(Text(arm.label), *cells)
    console.print(table)
    if len(shown) < len(every):
        missing = ", ".join(column.short for column in every if column not in shown)
        console.print(f"In the report, and on a wider terminal: {missing}.", style="dim", highlight=False, markup=False)


def _plain_lines(arms: Sequence[Arm]) -> list[str]:
    """Aligned lines with a bar between columns, for logs and for `column`, `awk` and eyes."""
    shown = columns(arms)
    rows = [["arm", *(column.short for column in shown)]]
    rows += [[arm.label, *(" ".join(filter(None, column.cell(arm))) for column in shown)] for arm in arms]
    return align_lines(rows)
