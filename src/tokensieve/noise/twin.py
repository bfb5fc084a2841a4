"""`from_file`: a set that somebody else made noisy, read beside its clean twin."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from tokensieve.errors import DataError
from tokensieve.noise.plan import Plan
from tokensieve.noise.rows import Example, located, read_responses

if TYPE_CHECKING:
    import datasets

_BATCH_ROWS = 256
log = logging.getLogger(__name__)


def plan_twin(clean: datasets.Dataset, noisy: datasets.Dataset) -> Plan:
    """The rows whose responses differ between the twins, and the noisy twin's responses for them.

    Raises:
        DataError: the twins differ in anything but responses: number of rows, ids, order, prompts.
    """
    if len(clean) != len(noisy):
        raise DataError(
            "noise.path",
            f"the noisy file must hold the {len(clean)} rows of the clean one",
            received=f"{len(noisy)} rows",
            remedy="give both files the same rows in the same order, and read both with one dataset option",
        )
    changed = np.zeros(len(clean), np.bool_)
    batches = (rows.select_columns(["id", "messages"]).iter(batch_size=_BATCH_ROWS) for rows in (clean, noisy))
    position = 0
    for ours, theirs in zip_longest(*batches):
        for row_id, other_id, turns, others in zip(
            ours["id"], theirs["id"], ours["messages"], theirs["messages"], strict=True
        ):
            fault = _difference(row_id, other_id, turns, others)
            if fault is not None:
                raise located(noisy, position, fault)
            changed[position] = turns[-1]["content"] != others[-1]["content"]
            position += 1
    if len(clean) and not changed.any():
        log.warning("noise.path: the noisy file's responses are all equal to the clean ones: there is no noise")

    def rewrite(examples: Sequence[Example]) -> list[str]:
        return read_responses(noisy, [example.position for example in examples])

    return Plan(changed, rewrite)


def _difference(row_id: str, other_id: str, turns: list[Any], others: list[Any]) -> DataError | None:
    remedy = "give both files the same rows in the same order, and read both with one dataset option"
    if row_id != other_id:
        return DataError("", f"must be the twin of the clean row {row_id!r}", received=other_id, remedy=remedy)
    ours, theirs = ([(turn["role"], turn["content"]) for turn in messages] for messages in (turns, others))
    if ours[:-1] != theirs[:-1] or ours[-1][0] != theirs[-1][0]:
        shown = theirs[-2][1] if len(theirs) > 1 else ""
        return DataError("", f"must have the prompt of its clean twin {row_id!r}", received=shown[:80], remedy=remedy)
    return None
