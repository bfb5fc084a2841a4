"""Ours beside the printed: CSV, Markdown and the terminal."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.errors import CacheError
from tokensieve.reproduce.expected import ExpectedRow
from tokensieve.reproduce.verdict import Measured, Verdict
from tokensieve.run_folder import write_atomically

if TYPE_CHECKING:
    from rich.console import Console

    from tokensieve.reproduce.experiment import Experiment

_COLUMNS = (
    *("arm", "model", "trained_on", "dataset", "metric", "printed", "standard_error", "n", "source"),
    *("ours", "our_error", "our_n", "num_seeds", "low", "high", "verdict", "why"),
)
_SHOWN = ("arm", "model", "trained on", "dataset", "metric", "printed", "ours", "n", "verdict", "why")


@dataclass(frozen=True, slots=True)
class Judged:
    """One row of the result."""

    expected: ExpectedRow
    ours: Measured | None
    verdict: Verdict


def write_tables(experiment: Experiment, scale: str, rows: Sequence[Judged], folder: Path) -> tuple[Path, Path]:
    """`table.csv` and `table.md` in `folder`.

    Raises:
        CacheError: it cannot be written.
    """
    paths = folder / "table.csv", folder / "table.md"
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_flat(row) for row in rows)
    lines = [
        f"# {experiment.title}",
        f"{experiment.paper}, {experiment.table}; scale {scale}. {experiment.why}",
        "| " + " | ".join(_SHOWN) + " |\n|" + "---|" * len(_SHOWN),
    ]
    cells = ["| " + " | ".join(cell.replace("|", "\\|") for cell in show(row)) + " |" for row in rows]
    markdown = "\n\n".join(lines) + "\n" + "\n".join(cells) + f"\n\n{summarise(rows)}\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(paths[0], text.getvalue())
        write_atomically(paths[1], markdown)
    except OSError as error:
        remedy = "free disk space or correct the permissions"
        raise CacheError(str(folder), "must be writable", received=error.strerror, remedy=remedy) from error
    return paths


def print_rows(experiment: Experiment, rows: Sequence[Judged], console: Console) -> None:
    """The table, then how many rows agree."""
    from rich.table import Table

    table = Table(title=f"{experiment.title} ({experiment.paper}, {experiment.table})", title_justify="left")
    for name in _SHOWN:
        table.add_column(name, justify="right" if name in ("printed", "ours", "n") else "left")
    for row in rows:
        table.add_row(*show(row))
    console.print(table, markup=False)
    console.print(summarise(rows), markup=False, highlight=False)


def summarise(rows: Sequence[Judged]) -> str:
    """How many rows agree, and how many would not by chance."""
    counts = Counter(row.verdict.finding for row in rows)
    judged = counts["inside"] + counts["outside"]
    text = f"{counts['inside']} inside, {counts['outside']} outside, {counts['not comparable']} not comparable."
    if judged:
        text += f" Of {judged} intervals at 95 %, {0.05 * judged:.1f} are missed by chance."
    return text


def show(row: Judged) -> list[str]:
    """Cells of one row; +- is one standard error."""
    expected, ours = row.expected, row.ours
    return [
        expected.arm,
        expected.model,
        expected.trained_on,
        expected.dataset,
        expected.metric,
        show_number(expected.printed, expected.standard_error)
        + ("" if expected.source == "paper" else f" ({expected.source})"),
        show_number(ours.value, ours.standard_error) if ours else "-",
        show_count(ours, "x") if ours else "-",
        row.verdict.finding,
        row.verdict.why,
    ]


def show_number(value: float | None, error: float | None) -> str:
    """A value with one standard error; a dash where it is unknown."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.2f}" + (f" ± {error:.2f}" if error is not None and not math.isnan(error) else "")


def show_count(ours: Measured, times: str) -> str:
    """Items and seeds; a property of whole runs, such as a norm, has no items."""
    parts = ([f"{ours.n:,}"] if ours.n else []) + ([f"{ours.num_seeds} seeds"] if ours.num_seeds > 1 else [])
    return f" {times} ".join(parts) or "1 seed"


def _flat(row: Judged) -> dict[str, Any]:
    expected, ours, verdict = row.expected, row.ours, row.verdict
    names = ("arm", "model", "trained_on", "dataset", "metric", "printed", "standard_error", "n", "source")
    values: dict[str, Any] = {name: getattr(expected, name) for name in names}
    if ours is not None:
        values |= {"ours": ours.value, "our_error": ours.standard_error, "our_n": ours.n, "num_seeds": ours.num_seeds}
    known = {"low": verdict.low, "high": verdict.high} if not math.isnan(verdict.low) else {}
    return {key: "" if value is None else value for key, value in (values | known).items()} | {
        "verdict": verdict.finding,
        "why": verdict.why,
    }
