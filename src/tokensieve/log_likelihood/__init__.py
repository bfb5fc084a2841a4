"""Log-likelihoods of continuations given contexts, and what follows from them: a choice among options, a perplexity.

The rules are those of lm-evaluation-harness, so that the numbers are its numbers: how a pair of texts becomes tokens, a
context too long for the model loses its beginning, and a tie goes to the first option.
"""

from tokensieve.log_likelihood.encode import encode_continuation
from tokensieve.log_likelihood.outcome import Perplexity, compute_perplexity, pick_choice, sum_nll
from tokensieve.log_likelihood.score import Continuation, score_continuations

__all__ = [
    "Continuation",
    "Perplexity",
    "compute_perplexity",
    "encode_continuation",
    "pick_choice",
    "score_continuations",
    "sum_nll",
]
