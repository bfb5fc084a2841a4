"""What every reader yields, and what it does with a row that is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tokensieve.errors import DataError

Row = Mapping[str, Any]
OnBad = Callable[[DataError], None]
"""What is told of a row that cannot be read; it may raise. None in its place: the error is raised."""


def refuse(error: DataError, on_bad: OnBad | None) -> None:
    """Hand `error` to `on_bad`, or raise it when that is None."""
    if on_bad is None:
        raise error from None
    on_bad(error)
