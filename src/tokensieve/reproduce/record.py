"""The lab's counterpart of a table, as a file in the table's folder that its README refers to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tokensieve.reproduce.table import Judged, show_count, show_number
from tokensieve.run_folder import write_atomically

if TYPE_CHECKING:
    from tokensieve.reproduce.experiment import Experiment

FILE: Final = "lab.md"
_TITLES: Final = ("arm", "trained on", "quantity", "printed", "in the lab", "n", "direction")
_QUANTITIES: Final = {
    "ti": "TI, %",
    "bwt": "BWT, %",
    "accuracy": "accuracy, %",
    "masked_percent": "masked, %",
    "num_examples": "examples",
    "weight_norm": "norm of the update",
    "mean_sentence_ppl": "mean sentence perplexity",
    "variance_sentence_ppl": "its variance",
}


def write_lab_record(experiment: Experiment, rows: Sequence[Judged]) -> Path:
    """Write `lab.md` in the experiment's folder; returns its path.

    Raises:
        CacheError: it cannot be written.
    """
    path = experiment.folder / FILE
    cells = [_cells(row) for row in rows]
    lines = [
        f"# {experiment.title}: in the lab",
        "",
        f"Written by `tokensieve reproduce {experiment.id} --record`; ± is one standard error, over items and seeds.",
        "Another model and other tasks than the paper's: only directions can be set beside each other. A direction is",
        "clear when neither 95 % interval, ours or the printed number's, holds 0.",
        "",
        "| " + " | ".join(_TITLES) + " |",
        "|" + "---|" * len(_TITLES),
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells),
    ]
    write_atomically(path, "\n".join(lines) + "\n")
    return path


def _cells(row: Judged) -> list[str]:
    expected, ours = row.expected, row.ours
    is_known = ours is not None and not math.isnan(ours.value)
    counted = show_count(ours, "×") if ours and is_known else "–"
    quantity = _QUANTITIES.get(expected.metric, expected.metric)
    direction = row.verdict.why  # `lab: ...; same sign`, or why there is none
    if is_known:
        direction = direction.rpartition("; ")[2] if "; " in direction else ""
    return [
        expected.arm,
        expected.trained_on,
        f"{quantity} ({expected.dataset})" if expected.metric == "ti" else quantity,
        f"{show_number(expected.printed, expected.standard_error)} ({expected.model})",
        show_number(ours.value, ours.standard_error) if ours else "–",
        counted,
        direction,
    ]
