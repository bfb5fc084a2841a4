"""A table as plain lines, for logs and for `column`, `awk` and eyes."""

from __future__ import annotations

from collections.abc import Sequence


def align_lines(rows: Sequence[Sequence[str]], *, num_left: int = 1) -> list[str]:
    """One line a row with a bar between columns, and a rule under the first; `num_left` columns stand on the left.

    >>> align_lines([["arm", "n"], ["base", "10"]])
    ['arm  |  n', '-----+---', 'base | 10']
    """
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [
        " | ".join(
            cell.ljust(width) if place < num_left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return [lines[0], "-+-".join("-" * width for width in widths), *lines[1:]]
