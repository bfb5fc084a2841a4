"""Several samples for each item: the unbiased pass@k (arXiv 2107.03374, equation 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """Probability that one of k samples passes, from n samples of which c passed: 1 - C(n - c, k) / C(n, k).

    Raises:
        ValueError: not 1 <= k <= n, or not 0 <= c <= n.

    >>> pass_at_k(10, 3, 1), pass_at_k(4, 2, 2)
    (0.3, 0.8333333333333334)
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} needs k between 1 and the number of samples, {num_samples}")
    if not 0 <= num_passed <= num_samples:
        raise ValueError(f"{num_passed} of {num_samples} samples cannot have passed")
    drawn = math.comb(num_samples, k)
    return (drawn - math.comb(num_samples - num_passed, k)) / drawn


def score_samples(scores: Sequence[Sequence[float]], k: int) -> list[float]:
    """pass@k of each item from the scores of its samples; a sample passes with score 1. Items may differ in samples.

    >>> score_samples([[1, 0, 0, 0], [0, 0, 0, 0]], k=2)
    [0.5, 0.0]
    """
    return [pass_at_k(len(item), sum(score == 1 for score in item), k) for item in scores]
