"""A search: Optuna chooses the values of each job, from the results of the jobs before it.

space      swept overrides -> distributions
plan       what is searched and by which rules, checked; of a resumed search, as its study has it
study      trials: asked for, taken up again after a kill, told
record     search.json, which the report reads
drive      the loop
"""

from tokensieve.search.drive import run_search

__all__ = ["run_search"]
