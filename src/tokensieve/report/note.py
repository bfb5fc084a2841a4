"""A sweep in a few lines: what a store shows on the sweep's page, where room is short."""

from __future__ import annotations

from collections.abc import Sequence

from tokensieve.report.arms import Arm
from tokensieve.report.findings import findings
from tokensieve.report.load import Sweep
from tokensieve.report.standing import describe_to_come, heading, unfinished
from tokensieve.report.table import columns, explain

MAX_CHARACTERS = 4500  # older MLflow servers take 5000 in a tag
_MAX_RANK = 1
_MAX_ERROR = 160


def write_note(sweep: Sweep, arms: Sequence[Arm], *, max_characters: int = MAX_CHARACTERS) -> str:
    """Markdown: findings, the table's main columns, what its numbers are, and what failed; whole rows only.

    Rows that do not fit are counted; the report has all of them.
    """
    shown = [column for column in columns(arms) if column.rank <= _MAX_RANK]
    head = [f"**{heading(sweep)}**", "", *(f"{line}  " for line in findings(arms)), ""]
    if arms:
        head += ["| arm | " + " | ".join(column.short for column in shown) + " |", "|---|" + "---:|" * len(shown)]
    rows = []
    for arm in arms:
        # An en space: MLflow shows tables without any room between their columns.
        cells = [" ".join(filter(None, column.cell(arm))) + "\u2002" for column in shown]
        rows.append(f"| {' | '.join([_escape(arm.label), *cells])} |")
    tail = ["", *(f"{line}  " for line in explain(sweep, arms)[:3] if arms)]
    if to_come := describe_to_come(sweep):
        tail.append(to_come)
    for run in unfinished(sweep):
        tail.append(f"- {run.state} {run.name}: {(run.error or 'no error recorded')[:_MAX_ERROR]}")
    last = "All of it, with figures: report.html among the artefacts."
    room = max_characters - len("\n".join([*head, last, "and 1000 more arms", ""]))
    # The table first: of what explains it, and of the failures, as much as then fits.
    kept_rows = _fit(rows, room)
    kept_tail = _fit(tail, room - len("\n".join(kept_rows)) - 1)
    more = [f"\nand {len(rows) - len(kept_rows)} more arms"] if len(kept_rows) < len(rows) else []
    return "\n".join([*head, *kept_rows, *more, *kept_tail, "", last]) + "\n"


def _fit(lines: Sequence[str], room: int) -> list[str]:
    kept: list[str] = []
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            break
        kept.append(line)
    return kept


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
