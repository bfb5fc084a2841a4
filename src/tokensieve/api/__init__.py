"""What the commands do, as functions: plain values in, typed results out.

`tokensieve.load_sweep`, `tokensieve.score_tokens`, `tokensieve.select_tokens` and `tokensieve.evaluate` are these.
"""

from tokensieve.api.evaluation import Evaluation, evaluate
from tokensieve.api.scores import ScoredExample, ScoredTokens, score_tokens
from tokensieve.api.selection import SelectedTokens, select_tokens
from tokensieve.api.sweeps import LoadedSweep, load_sweep

__all__ = [
    "Evaluation",
    "LoadedSweep",
    "ScoredExample",
    "ScoredTokens",
    "SelectedTokens",
    "evaluate",
    "load_sweep",
    "score_tokens",
    "select_tokens",
]
