"""Sampling errors of printed numbers, from the numbers themselves: nothing else is published.

All values and errors are in percent. Two scores are taken as independent: printed tables hold no items to pair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple


class Score(NamedTuple):
    """An accuracy in percent and the items it was measured on."""

    percent: float
    num_items: int


def accuracy_error(score: Score) -> float:
    """Binomial standard error; a score of 0 or 100 takes p = (x + 1/2) / (n + 1), which is not without error.

    >>> round(accuracy_error(Score(51.06, 378)), 2), round(accuracy_error(Score(0.0, 1319)), 3)
    (2.57, 0.054)
    """
    share = score.percent / 100
    if not 0 < share < 1:
        share = (share * score.num_items + 0.5) / (score.num_items + 1)
    return 100 * math.sqrt(share * (1 - share) / score.num_items)


def change_error(after: Score, before: Score) -> float:
    """Standard error of TI, 100 * (after / before - 1), by the delta method.

    With a and b the two scores: sqrt(var(a) / b^2 + a^2 var(b) / b^4).

    >>> round(change_error(Score(51.06, 378), Score(51.06, 378)), 2)
    7.12
    """
    ratio = after.percent / before.percent
    return 100 * math.hypot(accuracy_error(after), ratio * accuracy_error(before)) / before.percent


def transfer_error(after: Mapping[str, Score], before: Mapping[str, Score]) -> float:
    """Standard error of BWT, the mean of TI over tasks: the tasks have different items, so their variances add.

    >>> one = {"a": Score(50.0, 100)}
    >>> transfer_error(one, one) == change_error(one["a"], one["a"])
    True
    """
    return math.hypot(*(change_error(after[task], before[task]) for task in before)) / len(before)


def share_error(percent: float, num_tokens: int) -> float:
    """Binomial standard error of a share of tokens. Tokens of one text are not independent: a lower bound.

    >>> round(share_error(21.18, 23212), 3)
    0.268
    """
    return accuracy_error(Score(percent, num_tokens))


def count_error(count: float, num_rows: int) -> float:
    """Binomial standard error of how many of `num_rows` rows are usable.

    >>> round(count_error(213, 374), 2)
    9.58
    """
    share = count / num_rows
    return math.sqrt(num_rows * share * (1 - share))


def mean_error(variance: float, num_rows: int) -> float:
    """Standard error of a mean of `num_rows` values of this variance.

    >>> round(mean_error(7.04, 374), 4)
    0.1372
    """
    return math.sqrt(variance / num_rows)


def variance_error(variance: float, num_rows: int) -> float:
    """Standard error of a variance of normal values; too small for the skewed ones that perplexities are.

    >>> round(variance_error(7.04, 374), 2)
    0.52
    """
    return variance * math.sqrt(2 / (num_rows - 1))
