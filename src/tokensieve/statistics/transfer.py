"""Effect sizes over tasks: TI and BWT of STM (arXiv 2501.14315), and plain differences in percentage points.

TI and BWT are relative changes in percent, so a task with a low base weighs more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def target_improvement(after: float, before: float) -> float:
    """TI: 100 * (after / before - 1), in percent; NaN when the base scores 0.

    >>> round(target_improvement(0.6111, 0.5926), 2)
    3.12
    """
    return 100.0 * (after / before - 1.0) if before > 0 else math.nan


def backward_transfer(after: Mapping[str, float], before: Mapping[str, float]) -> float:
    """BWT: the mean over non-target tasks of 100 * (after / before - 1), in percent; negative is forgetting.

    NaN when there is no task, or when the base scores 0 on one of them (its relative change is undefined).

    Raises:
        ValueError: the two do not hold the same tasks.

    >>> bases = {"math": 0.281, "arc": 0.7474, "gsm8k": 0.5845, "bird": 0.1389}  # arXiv 2501.14315, T12, Gemma-2-2B
    >>> tuned = {"math": 0.298, "arc": 0.7483, "gsm8k": 0.5641, "bird": 0.1375}  # trained on MBPP with STM
    >>> round(backward_transfer(tuned, bases), 2)
    0.42
    """
    _require_same_tasks(after, before)
    return _mean([target_improvement(after[task], before[task]) for task in before])


def backward_transfer_points(after: Mapping[str, float], before: Mapping[str, float]) -> float:
    """Mean over non-target tasks of `after - before`, in percentage points; NaN when there is no task.

    >>> round(backward_transfer_points({"a": 0.5, "b": 0.9}, {"a": 0.6, "b": 0.9}), 6)
    -5.0
    """
    _require_same_tasks(after, before)
    return _mean([100.0 * (after[task] - before[task]) for task in before])


def _require_same_tasks(after: Mapping[str, float], before: Mapping[str, float]) -> None:
    if set(after) != set(before):
        raise ValueError(f"tasks differ: {sorted(after)} and {sorted(before)}")


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
