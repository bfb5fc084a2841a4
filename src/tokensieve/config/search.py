"""Config group `search`: what a search optimises, and which of its trials end early."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from tokensieve.config.rule import require

# Objective -> whether more of it is better.
OBJECTIVES = {"gain": True, "forgetting": False, "nll": False, "nll_kept": False}


@dataclass(kw_only=True, slots=True)
class SearchConfig:
    """A search by Optuna, chosen by `search=tpe|random|grid|cmaes` together with `-m`. Without one, nothing is read.

    All objectives are taken on validation items, so that the report's test items have chosen nothing.
    """

    objective: list[str] = field(default_factory=lambda: ["gain"])
    """One or several. gain: points of the target task over the base, more is better. forgetting: points that the other
    tasks lost on average, less is better. nll: validation NLL over all response tokens. nll_kept: over those that the
    run's rule keeps, which does not compare between rules. Several objectives end in a Pareto set."""
    n_trials: int = 20
    """Trials with a result, those that were ended early included; of a resumed search too, where it may be raised."""
    seed: int = 1
    """Of the sampler. What a trial samples depends on this seed, its number and the results before it alone, so that an
    interrupted search goes on as if nothing had happened."""
    parallel: Optional[int] = None
    """Trials that are asked for at once, none of which knows the others' results; null: as many as run at a time."""
    num_items: Optional[int] = None
    """Validation items a task, for gain and forgetting; null: all."""
    max_failure_rate: float = 0.25
    """Share of `n_trials` that may fail; one failure more stops the search."""
    pruner: Literal["none", "median", "halving", "wilcoxon"] = "none"
    """Ends hopeless trials. median, halving: at a validation of the fit, by its NLL against that of earlier trials (the
    median; asynchronous successive halving). wilcoxon: between validation items of the target, by a signed-rank test
    against the best trial on the same items. None of them works with several objectives."""
    startup_trials: int = 5
    """median: trials that must be complete before any is ended."""
    warmup_validations: int = 1
    """median: validations of a trial before it can be ended. halving: validations before the first rung."""
    reduction_factor: int = 3
    """halving: one of so many trials passes a rung; the next rung takes so many times the validations."""
    p_threshold: float = 0.05
    """wilcoxon: a trial ends below this p. The test is repeated, so that it errs more often than a single one."""
    items_per_test: int = 20
    """wilcoxon: items that are answered between two tests."""
    study: Optional[str] = None
    """The study's SQLite file; set by the search in each of its jobs."""
    trial: Optional[int] = None
    """The job's number in the study; set by the search in each of its jobs."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.objective if name not in OBJECTIVES]
        known = ", ".join(OBJECTIVES)
        require(not unknown, "search.objective", f"may hold {known}", unknown, "search.objective=[gain,forgetting]")
        require(
            0 < len(self.objective) == len(set(self.objective)),
            "search.objective",
            "must name at least one objective, each once",
            self.objective,
            "search.objective=[gain]",
        )
        for key in ("n_trials", "startup_trials", "warmup_validations", "items_per_test"):
            require(getattr(self, key) >= 1, f"search.{key}", "must be at least 1", getattr(self, key), "use 1 or more")
        require(self.seed >= 0, "search.seed", "must be at least 0", self.seed, "use 1, 2, 3")
        require(
            self.num_items is None or self.num_items >= 1,
            "search.num_items",
            "must be at least 1",
            self.num_items,
            "leave it null for all items",
        )
        require(
            self.parallel is None or self.parallel >= 1,
            "search.parallel",
            "must be at least 1",
            self.parallel,
            "leave it null",
        )
        require(
            0 <= self.max_failure_rate <= 1,
            "search.max_failure_rate",
            "must be in [0, 1]",
            self.max_failure_rate,
            "0 stops at the first failure, 1 never",
        )
        require(
            self.reduction_factor >= 2, "search.reduction_factor", "must be at least 2", self.reduction_factor, "use 3"
        )
        require(0 < self.p_threshold < 1, "search.p_threshold", "must be in (0, 1)", self.p_threshold, "use 0.05")
        self._check_pruner()

    def _check_pruner(self) -> None:
        if self.pruner == "none":
            return
        require(
            len(self.objective) == 1,
            "search.pruner",
            "needs a single objective: one trial can be worse in one and better in another",
            f"{self.pruner}, and {' and '.join(self.objective)}",
            "set search.pruner=none, or one objective",
        )
        require(
            self.pruner != "wilcoxon" or self.objective == ["gain"],
            "search.pruner",
            "wilcoxon compares the items of the target task, which only gain is made of",
            f"search.objective={self.objective}",
            "set search.objective=[gain], or search.pruner=median",
        )

    @property
    def measures_items(self) -> bool:
        """Whether an objective is a score of answered items."""
        return bool({"gain", "forgetting"} & set(self.objective))

    @property
    def prunes_fits(self) -> bool:
        """Whether this job's fit may be ended at a validation."""
        return self.trial is not None and self.pruner in ("median", "halving")
