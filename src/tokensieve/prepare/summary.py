"""What was written, for people: a table on a terminal, aligned lines through a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tokensieve.plain_table import align_lines
from tokensieve.prepare.formats import FORMATS
from tokensieve.prepare.records import Prepared, PreparedSplit

if TYPE_CHECKING:
    from rich.console import Console

_TITLES: Final = ("split", "examples", "left out", "written", "response tokens", "trained tokens", "trained %")


def print_summary(prepared: Prepared, console: Console) -> None:
    """Print to `console` a line a split, and what a reader of the files must know."""
    rows = [_cells(split) for split in prepared.splits]
    if console.is_terminal:
        _print_table(rows, console)
    else:
        console.print(
            "\n".join(align_lines([_TITLES, *rows])), soft_wrap=True, highlight=False, markup=False, emoji=False
        )
    for line in explain(prepared):
        console.print(line, soft_wrap=not console.is_terminal, highlight=False, markup=False, emoji=False)


def explain(prepared: Prepared) -> list[str]:
    """Lines below the table."""
    lines = []
    if len(prepared.num_examples) > 1:
        stages = ", ".join(f"{stage} {count:,}" for stage, count in prepared.num_examples.items())
        lines.append(f"Training examples after each stage: {stages}.")
    masked = any(split.stats.kept_tokens < split.stats.response_tokens for split in prepared.splits)
    if FORMATS[prepared.format].is_text and masked:
        lines.append("The mask is not in these files; --format tokens carries it.")
    if prepared.num_longer and prepared.train_on == "last" and FORMATS[prepared.format].is_text:
        lines.append(
            f"{prepared.num_longer:,} examples have several assistant turns, of which the last was to be trained "
            "(dataset.train_on=last): tell the other trainer."
        )
    names = ", ".join(split.file for split in prepared.splits)
    return [*lines, f"written: {prepared.folder} ({names})"]


def _cells(split: PreparedSplit) -> tuple[str, ...]:
    stats = split.stats
    return (
        split.name,
        f"{stats.num_examples:,}",
        f"{split.num_left_out:,}",
        f"{split.num_rows:,}",
        f"{stats.response_tokens:,}",
        f"{stats.kept_tokens:,}",
        f"{100 * stats.kept_fraction:.2f}",
    )


def _print_table(rows: list[tuple[str, ...]], console: Console) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for place, title in enumerate(_TITLES):
        table.add_column(title, justify="right" if place else "left", no_wrap=place == 0, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
