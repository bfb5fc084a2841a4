"""Combinations of a sweep that a rule of combination refuses: no jobs, but told, and written down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tokensieve.errors import CombinationError
from tokensieve.sweep.compose import key_of
from tokensieve.sweep.manifest import JobEntry

LEFT_OUT = "LEFT_OUT"
_SHOWN_VALUES = 6


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The overrides of one combination, and the rule that refuses it."""

    overrides: tuple[str, ...]
    error: CombinationError

    def to_json(self) -> dict[str, Any]:
        return {"overrides": list(self.overrides), "reason": str(self.error)}

    def to_entry(self) -> JobEntry:
        """What stands for its result where one is asked for: a job that failed, without a folder."""
        return JobEntry("", " ".join(self.overrides), list(self.overrides), "", LEFT_OUT, error=str(self.error))


def describe_left_out(left_out: Sequence[LeftOut], total: int, swept: Sequence[str]) -> Iterator[str]:
    """A line for each rule: of how many among `total` combinations it left out how many, why, and what to do."""
    groups: dict[tuple[str, str], list[LeftOut]] = {}
    for item in left_out:
        groups.setdefault((item.error.subject, item.error.rule), []).append(item)
    for (subject, rule), items in groups.items():
        given = [text for item in items for text in item.overrides if key_of(text) in swept]
        values: dict[str, list[str]] = {}
        for text in dict.fromkeys(given):
            values.setdefault(key_of(text), []).append(text.partition("=")[2])
        shown = " ".join(f"{key}={','.join(found)}" for key, found in values.items() if len(found) <= _SHOWN_VALUES)
        yield (
            f"left out {len(items)} of {total} combinations{f' ({shown})' if shown else ''}: {subject}: {rule}."
            f" Remedy: {items[0].error.remedy}."
        )
