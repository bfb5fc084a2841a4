"""Arms against each other on the items that both answered."""

from tokensieve.compare.arms import ComparedArm, find_arm, group_runs
from tokensieve.compare.comparisons import Comparison, compare
from tokensieve.compare.table import print_comparisons, write_csv

__all__ = ["ComparedArm", "Comparison", "compare", "find_arm", "group_runs", "print_comparisons", "write_csv"]
