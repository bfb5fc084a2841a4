"""What log-likelihoods decide: which option was chosen, and how surprising a corpus is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tokensieve.errors import DataError
from tokensieve.log_likelihood.score import Continuation

Norm = Literal["sum", "per_token", "per_character", "per_byte"]


@dataclass(frozen=True, slots=True)
class Perplexity:
    """`value` is `exp(total NLL / tokens)` over a corpus, at least 1; inf where that overflows.

    `item_nlls` holds the mean NLL of each item in nats a token, NaN for an item without scored tokens.
    """

    value: float
    item_nlls: Sequence[float]


def pick_choice(scores: Sequence[Continuation], by: Norm = "sum", texts: Sequence[str] | None = None) -> int:
    """Number of the chosen option (from 0): the most likely one, the first of equals.

    Args:
        scores: one an option.
        by: what is compared. `sum`: log-probabilities (the harness's acc); `per_character` and `per_byte`: divided by
            the length of the option's text in characters (acc_norm) or in UTF-8 bytes (acc_bytes); `per_token`: by its
            number of tokens. An empty option is never the more likely one per character or byte.
        texts: the options without the blank that separates them from the context; needed by the two lengths.

    Raises:
        ValueError: no options, or texts that are missing or of another number.

    >>> scores = [Continuation(-4.0, 2, False), Continuation(-3.0, 1, False)]
    >>> pick_choice(scores), pick_choice(scores, "per_token"), pick_choice(scores, "per_character", ["green", "red"])
    (1, 0, 0)
    """
    if not scores:
        raise ValueError("there must be at least one option")
    if by in ("per_character", "per_byte"):
        if texts is None or len(texts) != len(scores):
            raise ValueError(f"{by} needs one text an option")
        lengths = [len(text) if by == "per_character" else len(text.encode()) for text in texts]
    else:
        lengths = [score.num_tokens if by == "per_token" else 1 for score in scores]
    values = [score.log_probability / n if n else -math.inf for score, n in zip(scores, lengths, strict=True)]
    return values.index(max(values))


def compute_perplexity(nll_sums: Sequence[float], num_tokens: Sequence[int]) -> Perplexity:
    """The perplexity of N items from each one's summed NLL (nats) and number of scored tokens.

    Every token weighs the same, so a long item weighs more; the mean of item perplexities is another number.

    Raises:
        DataError: no token at all.

    >>> compute_perplexity([math.log(2.0), 3 * math.log(8.0)], [1, 3]).value.__round__(4)
    5.6569
    """
    total = sum(num_tokens)
    if total == 0:
        raise DataError("perplexity", "needs at least one scored token", remedy="check the rows and their responses")
    mean = math.fsum(nll for nll, num in zip(nll_sums, num_tokens, strict=True) if num) / total
    try:
        value = math.exp(mean)
    except OverflowError:
        value = math.inf
    item_nlls = [nll / num if num else math.nan for nll, num in zip(nll_sums, num_tokens, strict=True)]
    return Perplexity(value, item_nlls)


def sum_nll(nll_by_row: Iterable[Iterable[float]]) -> tuple[list[float], list[int]]:
    """For `compute_perplexity`: each row's sum and number of token NLLs, those that are NaN (not scored) left out.

    Rows are what `compute_nll` and `TokenScores.rows["nll"]` hold.

    >>> sum_nll([[math.nan, 1.0, 0.5], [math.nan]])
    ([1.5, 0.0], [2, 0])
    """
    sums, counts = [], []
    for row in nll_by_row:
        scored = [float(nll) for nll in row if not math.isnan(nll)]
        sums.append(math.fsum(scored))
        counts.append(len(scored))
    return sums, counts
