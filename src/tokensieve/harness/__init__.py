"""lm-evaluation-harness as a back end: its tasks and its scoring, our loaded model and our results.

Light: importing this loads neither torch nor the harness.
"""

from tokensieve.harness.find import index_tasks, require_harness
from tokensieve.harness.run import evaluate_with_harness

__all__ = ["evaluate_with_harness", "index_tasks", "require_harness"]
