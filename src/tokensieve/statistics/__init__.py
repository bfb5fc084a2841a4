"""Intervals, tests and effect sizes: scores of items, differences of arms, means over seeds, changes over tasks."""

from tokensieve.statistics.arms import (
    PairedTest,
    compare_arms,
    detectable_difference,
    detectable_over_seeds,
    difference_p_value,
    mcnemar_test,
    minimum_detectable_difference,
)
from tokensieve.statistics.intervals import Interval, Scores, paired_bootstrap, seed_interval, wilson_interval
from tokensieve.statistics.multiplicity import adjust_p_values, describe_multiplicity
from tokensieve.statistics.pass_at_k import pass_at_k, score_samples
from tokensieve.statistics.transfer import backward_transfer, backward_transfer_points, target_improvement

__all__ = [
    "Interval",
    "PairedTest",
    "Scores",
    "adjust_p_values",
    "backward_transfer",
    "backward_transfer_points",
    "compare_arms",
    "describe_multiplicity",
    "detectable_difference",
    "detectable_over_seeds",
    "difference_p_value",
    "mcnemar_test",
    "minimum_detectable_difference",
    "paired_bootstrap",
    "pass_at_k",
    "score_samples",
    "seed_interval",
    "target_improvement",
    "wilson_interval",
]
