"""Loss curves from the runs' metrics.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tokensieve.tracking.run import read_metrics

Array = npt.NDArray[np.float64]
_SMOOTHED_SHARE = 0.05


def mean_curve(folders: Sequence[Path], key: str) -> tuple[Array, Array]:
    """Steps and mean values of metric `key` over the runs in `folders`; a step counts the runs that logged it."""
    sums: dict[int, list[float]] = {}
    for folder in folders:
        for step, value in read_metrics(folder).get(key, ()):
            if np.isfinite(value):
                sums.setdefault(step, []).append(value)
    steps = np.array(sorted(sums), dtype=np.float64)
    return steps, np.array([np.mean(sums[int(step)]) for step in steps], dtype=np.float64)


def smooth(values: Array) -> Array:
    """Exponential mean over about 5 % of the steps, without the pull towards the first value.

    >>> smooth(np.array([2.0, 2.0, 2.0])).tolist()
    [2.0, 2.0, 2.0]
    """
    decay = 1.0 - 1.0 / max(1.0, _SMOOTHED_SHARE * len(values))
    total, weight, smoothed = 0.0, 0.0, np.empty_like(values)
    for place, value in enumerate(values):
        total, weight = decay * total + value, decay * weight + 1.0
        smoothed[place] = total / weight
    return smoothed
