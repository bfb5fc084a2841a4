"""Comparisons for people (a terminal, or aligned lines through a pipe) and for programs (CSV)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from tokensieve.compare.comparisons import Comparison
from tokensieve.errors import CacheError
from tokensieve.plain_table import align_lines
from tokensieve.report.table import change_cell, score_cell
from tokensieve.run_folder import write_atomically
from tokensieve.statistics import Interval, describe_multiplicity

if TYPE_CHECKING:
    from rich.console import Console

_LEFT = 3  # columns of words
_WIDTHS = {"reference %": 12, "arm %": 12, "Δ": 14, "Δ seeds": 14}  # of an interval
_DROPPED = ("Δ seeds", "MDD", "reference %", "Holm p")  # on a narrow terminal, in this order
_POINTS = ("difference", "over_seeds", "detectable")


def print_comparisons(rows: Sequence[Comparison], notes: Sequence[str], console: Console) -> None:
    """Print to `console`: on a terminal a table for each pair, the interval under its number; else plain lines."""
    if console.is_terminal:
        for (arm, reference), members in groupby(rows, key=lambda row: (row.arm, row.reference)):
            _print_pair(f"{arm} against {reference}", list(members), len(rows) > 1, console)
    else:
        lines = _plain_lines(rows)
        console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False, emoji=False)
    for line in [*explain(rows), *notes]:
        style = "dim" if line not in notes else "yellow"
        console.print(line, style=style, soft_wrap=not console.is_terminal, highlight=False, markup=False, emoji=False)


def write_csv(rows: Sequence[Comparison], path: Path) -> None:
    """One line a comparison, with raw numbers: scores in [0, 1], differences in points; whole or not at all.

    Raises:
        CacheError: it cannot be written.
    """
    text = io.StringIO()
    flat = [_flat(row) for row in rows]
    writer = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    try:
        write_atomically(path, text.getvalue())
    except CacheError as error:
        rule = "must be a file that can be written"
        raise CacheError("--csv", rule, received=f"{path}: {error.received}", remedy="name another") from error


def explain(rows: Sequence[Comparison]) -> list[str]:
    """Lines that say what the numbers are."""
    several = any(row.num_seeds > 1 for row in rows)
    lines = []
    if any(row.num_seeds == 1 for row in rows):
        lines.append(
            "One seed: 95 % intervals over items (scores: Wilson; Δ: paired bootstrap), exact two-sided McNemar test "
            "(scores other than 0 and 1: sign test). They say nothing about other seeds."
        )
    if several:
        lines.append(
            "Several seeds: Δ for new seeds and items, the wider of the crossed t-interval and that over seeds; "
            "Δ seeds: t-interval over the seeds' differences, the seed as the unit; p belongs to Δ."
        )
    lines.append(
        "Δ: points, arm - reference. +/-: items gained and lost"
        + (", over all seeds" if several else "")
        + ". MDD, minimum detectable difference: the true Δ found with 80 % power at 5 %."
    )
    if len(rows) > 1:
        lines.append(f"Holm p: adjusted for all {len(rows)} comparisons here. {describe_multiplicity(len(rows))}")
    dropped = [f"{row.num_dropped} of {row.task}" for row in rows if row.num_dropped]
    if dropped:
        lines.append(f"Items without a score in some run are left out: {', '.join(dict.fromkeys(dropped))}.")
    return lines


def _cells(row: Comparison) -> dict[str, tuple[str, str]]:
    """Title -> a number and its interval."""
    over_seeds = {"Δ seeds": change_cell(row.over_seeds)} if row.num_seeds > 1 else {}
    return {
        "n": (f"{row.num_items}" + (f" x {row.num_seeds}" if row.num_seeds > 1 else ""), ""),
        "reference %": score_cell(row.reference_score),
        "arm %": score_cell(row.arm_score),
        "Δ": change_cell(row.difference),
        **over_seeds,
        "+/-": (f"{row.gained}/{row.lost}", ""),
        "p": (_p_value(row.p_value), ""),
        "Holm p": (_p_value(row.adjusted_p_value), ""),
        "MDD": ("-" if math.isnan(row.detectable) else f"{row.detectable:.1f}", ""),
    }


def _titles(rows: Sequence[Comparison], *, holm: bool) -> list[str]:
    titles = max((list(_cells(row)) for row in rows), key=len)  # with the seeds' column, where a row has it
    return [title for title in titles if title != "Holm p" or holm]


def _p_value(value: float) -> str:
    """
    >>> _p_value(0.0391), _p_value(1e-7), _p_value(math.nan)
    ('0.039', '<0.001', '-')
    """
    return "-" if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def _print_pair(title: str, rows: Sequence[Comparison], holm: bool, console: Console) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    titles = [title for title in _titles(rows, holm=holm) if title not in ("n", "+/-")]  # they stand below others
    label = max(len(row.task) for row in rows)
    hidden = [title for title in _DROPPED if title in titles]
    while label + sum(_WIDTHS.get(title, 6) + 2 for title in titles) > console.width and hidden:
        titles.remove(hidden.pop(0))
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title=Text(title, style="bold"), title_justify="left"
    )
    table.add_column("task\nn", overflow="fold")
    for name in titles:
        table.add_column(f"{name}\n+/-" if name == "p" else name, justify="right", overflow="fold")
    for row in rows:
        cells = _cells(row)
        cells["p"] = cells["p"][0], cells["+/-"][0]
        texts = [(row.task, cells["n"][0]), *(cells.get(name, ("-", "")) for name in titles)]
        table.add_row(*(Text.assemble(number, (f"\n{below}" if below else "", "dim")) for number, below in texts))
    console.print(table)
    missing = [name for name in _titles(rows, holm=holm) if name in _DROPPED and name not in titles]
    if missing:
        console.print(
            f"On a wider terminal, piped, and with --csv: {', '.join(missing)}.", style="dim", highlight=False
        )


def _plain_lines(rows: Sequence[Comparison]) -> list[str]:
    """Aligned lines with a bar between columns, for logs and for `column`, `awk` and eyes."""
    titles = _titles(rows, holm=len(rows) > 1)
    table = [["arm", "reference", "task", *titles]]
    for row in rows:
        cells = _cells(row)
        texts = [" ".join(filter(None, cells.get(name, ("-", "")))) for name in titles]
        table.append([row.arm, row.reference, row.task, *texts])
    return align_lines(table, num_left=_LEFT)


def _flat(row: Comparison) -> dict[str, object]:
    found: dict[str, object] = {}
    for entry in fields(row):
        name = f"{entry.name}_points" if entry.name in _POINTS else entry.name
        value = getattr(row, entry.name)
        if isinstance(value, Interval):
            found |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            found[name] = value
    return found
