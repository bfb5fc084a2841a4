"""The tables of the papers, each a folder of `experiments/`: run again, and set beside what was printed.

experiment -> commands -> measured, expected -> verdict -> table
"""

from tokensieve.reproduce.experiment import Experiment, find_experiment, list_experiments
from tokensieve.reproduce.run import reproduce

__all__ = ["Experiment", "find_experiment", "list_experiments", "reproduce"]
