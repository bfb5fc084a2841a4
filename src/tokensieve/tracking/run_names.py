"""How a run is called where many stand in one narrow column: what tells it apart comes first."""

from __future__ import annotations

import re
from collections.abc import Iterator

_PARTS = re.compile(r"(?P<path>[^()]*?)(?: \((?P<axes>.*)\))?", re.DOTALL)
_MIN_PARTS = 6  # model/dataset/variant/arm/lora[/weight][/regulariser][/noise]/seed


def arm_first(name: str) -> str:
    """A run's name with its arm, its swept values and its seed in front; another kind of name as it is.

    >>> arm_first("lab/lab_code/ground_truth/stm=2.5/r16/seed=1 (stm.threshold=2.5 optim.lr=0.004)")
    'stm=2.5 lr=0.004 seed=1 · r16/ground_truth/lab_code/lab'
    >>> arm_first("lab/lab_code/ground_truth/unmasked/r16/dft/typo=0.3/seed=3"), arm_first("mine (first)")
    ('unmasked dft typo=0.3 seed=3 · r16/ground_truth/lab_code/lab', 'mine (first)')
    """
    found = _PARTS.fullmatch(name)
    parts = found["path"].split("/") if found is not None else []
    if found is None or len(parts) < _MIN_PARTS or not parts[-1].startswith("seed="):
        return name
    model, dataset, variant, arm, lora, *rules, seed = parts
    front = [arm, *rules, *_swept(found["axes"] or ""), seed]
    return f"{' '.join(front)} · {lora}/{variant}/{dataset}/{model}"  # the end, which is cut off, varies least


def _swept(axes: str) -> Iterator[str]:
    """The swept values that neither the arm nor the seed says already, under the last part of their keys."""
    for entry in axes.split():
        key, sign, value = entry.partition("=")
        if key.partition(".")[0] not in ("stm", "seed"):
            yield f"{key.rpartition('.')[2]}{sign}{value}"
