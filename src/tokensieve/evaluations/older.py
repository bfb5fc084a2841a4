"""Results that the cache holds of a task as it was: they are not used, and that is said."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tokensieve.records import Stamp
from tokensieve.store import MANIFEST, Store

# What may differ too: a task's new version often reads other references.
_LOOSE = ("task", "items")


def find_other_versions(store: Store, stamp: Stamp) -> list[int]:
    """Versions other than the stamp's of which the cache has results of this task by the same model and settings."""
    task = stamp.inputs["task"]
    wanted = _comparable(stamp.inputs)
    found = {
        int(inputs["task"]["version"])
        for inputs in _recorded_inputs(store, stamp.stage)
        if isinstance(inputs.get("task"), dict)
        and inputs["task"].get("name") == task["name"]
        and _comparable(inputs) == wanted
    }
    return sorted(found - {int(task["version"])})


def _comparable(inputs: Mapping[str, Any]) -> Any:
    kept = {key: value for key, value in inputs.items() if key not in _LOOSE}
    return json.loads(json.dumps(kept))  # as a manifest has them


def _recorded_inputs(store: Store, stage: str) -> Iterator[Mapping[str, Any]]:
    for root in {store.root, store.own}:
        for manifest in (root / stage).glob(f"*/{MANIFEST}"):
            try:
                inputs = json.loads(manifest.read_text(encoding="utf-8"))["inputs"]
            except (OSError, ValueError, KeyError, TypeError):
                continue  # half written, or pruned meanwhile
            if isinstance(inputs, dict):
                yield inputs
