"""Whether items of one name are one item: ids often only number the rows of whatever data a run was given."""

from __future__ import annotations

from typing import Any

from tokensieve.errors import DataError
from tokensieve.report.load import Run

# One base gives one greedy answer to one item, up to rounding; to other items it mostly gives others.
_MIN_EQUAL_FRACTION = 0.5


def check_content(task: str, one: Run, other: Run, one_label: str, label: str) -> None:
    """Refuse runs whose items of `task` bear the same ids and are not the same.

    The runs' stamps of the items tell, where both recorded one. Else the base's answers do, where both runs had the
    same base and kept them.

    Raises:
        DataError: the items are not the same.
    """
    if one is other or one.result is None or other.result is None:
        return
    key = f"items {task}"
    stamps = one.result.stamps.get(key), other.result.stamps.get(key)
    if None not in stamps:
        how = "" if stamps[0] == stamps[1] else "the data behind the ids differs"
    else:
        how = _differing_answers(task, one, other)
    if how:
        raise DataError(
            f"task {task}",
            "must have the same items in all runs",
            received=f"equal ids, but {how}, in {one_label} and {label}",
            remedy="evaluate both on the same data, or leave the task out with --tasks",
        )


def _differing_answers(task: str, one: Run, other: Run) -> str:
    """What speaks against equal items; empty where nothing does, or nothing is known."""
    assert one.result is not None
    assert other.result is not None
    if _base_of(one.result.config) != _base_of(other.result.config):
        return ""
    first, second = (
        {entry.task: dict(zip(entry.item_ids, entry.outputs, strict=False)) for entry in result.base_evals}.get(
            task, {}
        )
        for result in (one.result, other.result)
    )
    shared = [name for name in first if name in second]
    equal = sum(first[name] == second[name] for name in shared)
    if not shared or equal >= _MIN_EQUAL_FRACTION * len(shared):
        return ""
    return f"the same base answers {len(shared) - equal} of {len(shared)} differently"


def _base_of(config: Any) -> list[Any]:
    model, lora, evaluation = (config.get(group) or {} for group in ("model", "lora", "eval"))
    keys = ("path", "revision", "dtype", "chat_template", "max_length")
    asked = ("max_new_tokens", "mode", "num_fewshot", "samples_per_item")
    return [*(model.get(key) for key in keys), lora.get("quantise"), *(evaluation.get(key) for key in asked)]
