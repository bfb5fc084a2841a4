"""What a paper printed: `expected.csv` of an experiment's folder, and what a script computes of it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Final

from tokensieve.errors import DataError
from tokensieve.reproduce.sampling import (
    Score,
    accuracy_error,
    change_error,
    count_error,
    mean_error,
    share_error,
    transfer_error,
    variance_error,
)

BASE: Final = "base"
METRICS: Final = (
    "accuracy",
    "ti",
    "bwt",
    "masked_percent",
    "num_examples",
    "weight_norm",
    "mean_sentence_ppl",
    "variance_sentence_ppl",
)
# Needs databases of its own, so that a run may lack it: BWT is also derived without it.
_OPTIONAL_TASK: Final = "BIRD"
_DERIVED: Final = "derived"


@dataclass(frozen=True, slots=True)
class ExpectedRow:
    """One printed number.

    Accuracies, TI, BWT and shares are in percent. `dataset` is what was measured on; of BWT the tasks, joined by `+`.
    `printed` is None where a paper shows only a curve. `n`: items (of BWT: of all its tasks), tokens of a share, rows
    otherwise; None where unknown. `standard_error` is computed (`complete`), None where it cannot be. `source`: paper,
    released (the authors' own sheets and files) or derived (computed here from printed accuracies).
    """

    arm: str
    model: str
    trained_on: str
    dataset: str
    metric: str
    printed: float | None
    n: int | None
    standard_error: float | None
    source: str = "paper"
    note: str = ""

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.dataset.split("+"))


COLUMNS: Final = tuple(entry.name for entry in fields(ExpectedRow))


def read_expected(path: Path) -> list[ExpectedRow]:
    """The rows of an `expected.csv`, in order.

    Raises:
        DataError: it cannot be read, lacks a column, or holds what is not a number.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise DataError(
                    str(path),
                    f"must have the columns {', '.join(COLUMNS)}",
                    received=", ".join(reader.fieldnames or ()),
                )
            return [_read_row(row, f"{path}:{number}") for number, row in enumerate(reader, start=2)]
    except OSError as error:
        raise DataError(str(path), "must be a file of printed numbers", received=error.strerror) from error


def _read_row(row: Mapping[str, str | None], where: str) -> ExpectedRow:
    values = {key: row[key] or "" for key in ("arm", "model", "trained_on", "dataset", "metric", "source", "note")}
    if values["metric"] not in METRICS:
        raise DataError(where, f"metric must be one of {', '.join(METRICS)}", received=values["metric"])
    try:
        return ExpectedRow(
            **values,
            printed=float(row["printed"]) if row["printed"] else None,
            n=int(row["n"]) if row["n"] else None,
            standard_error=float(row["standard_error"]) if row["standard_error"] else None,
        )
    except ValueError as error:
        raise DataError(where, "printed, n and standard_error must be numbers or empty", received=str(error)) from error


def format_expected(rows: Sequence[ExpectedRow]) -> str:
    """The text of `expected.csv`; standard errors with four significant digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        error = "" if row.standard_error is None else f"{row.standard_error:.4g}"
        printed = "" if row.printed is None else f"{row.printed:.10g}"
        writer.writerow(asdict(row) | {"printed": printed, "standard_error": error})
    return text.getvalue()


def complete(rows: Sequence[ExpectedRow]) -> list[ExpectedRow]:
    """The printed rows with computed standard errors, and the rows that follow from printed accuracies.

    Derived for each arm that prints accuracies: TI of each task it was trained for, if the paper does not give it, and
    BWT over the other tasks without BIRD.
    """
    printed = [row for row in rows if row.source != _DERIVED]
    everything = [*printed, *_derive(printed)]
    scores = _scores(everything)
    return [replace(row, standard_error=_error(row, scores, everything)) for row in everything]


_Key = tuple[str, str, str]  # arm, model, trained_on; trained_on is empty for the base
_Scores = Mapping[_Key, Mapping[str, Score]]


def _scores(rows: Sequence[ExpectedRow]) -> _Scores:
    found: dict[_Key, dict[str, Score]] = {}
    for row in rows:
        if row.metric == "accuracy" and row.printed is not None and row.n is not None:
            found.setdefault((row.arm, row.model, row.trained_on), {})[row.dataset] = Score(row.printed, row.n)
    return found


def _derive(rows: Sequence[ExpectedRow]) -> Iterator[ExpectedRow]:
    scores = _scores(rows)
    given = {(row.arm, row.model, row.trained_on, row.metric) for row in rows}
    for (arm, model, trained_on), after in scores.items():
        before = scores.get((BASE, model, ""), {})
        shared = [task for task in after if task in before]
        if arm == BASE or len(shared) < 2:
            continue
        others = [task for task in shared if task not in (*trained_on.split("+"), _OPTIONAL_TASK)]
        targets = [task for task in trained_on.split("+") if task in shared]
        for task in targets if (arm, model, trained_on, "ti") not in given else ():
            change, items = _change(after[task], before[task]), after[task].num_items
            yield ExpectedRow(arm, model, trained_on, task, "ti", round(change, 2), items, None, _DERIVED)
        if others:
            transfer = math.fsum(_change(after[task], before[task]) for task in others) / len(others)
            items = sum(after[task].num_items for task in others)
            names = "+".join(others)
            yield ExpectedRow(arm, model, trained_on, names, "bwt", round(transfer, 2), items, None, _DERIVED)


def _change(after: Score, before: Score) -> float:
    return 100 * (after.percent / before.percent - 1)


def _error(row: ExpectedRow, scores: _Scores, rows: Sequence[ExpectedRow]) -> float | None:
    if row.printed is None or row.n is None:
        return None
    match row.metric:
        case "accuracy":
            return accuracy_error(Score(row.printed, row.n))
        case "masked_percent":
            return share_error(row.printed, row.n)
        case "num_examples":
            return count_error(row.printed, row.n)
        case "variance_sentence_ppl":
            return variance_error(row.printed, row.n)
        case "mean_sentence_ppl":
            variance = _variance_beside(row, rows)
            return mean_error(variance, row.n) if variance is not None else None
        case "weight_norm":
            return None  # a property of one run: its error would take several
        case _:
            return _relative_error(row, row.printed, scores)


def _variance_beside(row: ExpectedRow, rows: Sequence[ExpectedRow]) -> float | None:
    place = (row.arm, row.model, row.trained_on, row.dataset)
    return next(
        (
            other.printed
            for other in rows
            if other.metric == "variance_sentence_ppl"
            and (other.arm, other.model, other.trained_on, other.dataset) == place
        ),
        None,
    )


def _relative_error(row: ExpectedRow, percent: float, scores: _Scores) -> float | None:
    """Of TI and BWT. A task whose accuracy is not printed is taken to have changed by the printed mean."""
    before = scores.get((BASE, row.model, ""), {})
    if any(task not in before for task in row.tasks):
        return None
    printed = scores.get((row.arm, row.model, row.trained_on), {})
    after = {
        task: printed.get(task, Score(min(100.0, before[task].percent * (1 + percent / 100)), before[task].num_items))
        for task in row.tasks
    }
    if row.metric == "ti":
        return change_error(after[row.dataset], before[row.dataset])
    return transfer_error(after, {task: before[task] for task in row.tasks})
