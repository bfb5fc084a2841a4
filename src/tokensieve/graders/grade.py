"""The result of grading one text, and reading of references."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tokensieve.errors import DataError

References = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Grade:
    """`score` is in [0, 1]; `reason` is one line: what was read from the text, or why it does not count."""

    score: float
    reason: str


class RowError(DataError):
    """A reference that cannot be used, in row `row` (from 0) of those graded together."""

    row = 0


@contextmanager
def locate(row: int) -> Iterator[None]:
    """Say in which row a reference is at fault."""
    try:
        yield
    except DataError as error:
        located = RowError(error.subject, error.rule, received=error.received, remedy=error.remedy)
        located.row = row
        raise located from None


def read_reference(reference: Mapping[str, Any], key: str, kind: type | tuple[type, ...]) -> Any:
    """Return `reference[key]`.

    Raises:
        DataError: it is missing or has another type.
    """
    value = reference.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(
            f"reference.{key}",
            "the grader needs it",
            received=sorted(reference) if value is None else value,
            remedy="name the column that holds it under dataset.reference",
        )
    return value
