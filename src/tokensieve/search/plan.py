"""What a search is: its space, its rules, its sampler; checked before anything starts, and kept in the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tokensieve.config import SearchConfig
from tokensieve.errors import ConfigError, SweepError
from tokensieve.records import digest
from tokensieve.search.space import Space, grid_of, read_space
from tokensieve.sweep.compose import CONTROLLER_KEYS, Compose, is_execution, key_of, without

# Rules that a resumed search may change; what it has found so far stays comparable.
_CHANGEABLE = ("n_trials", "max_failure_rate", "parallel")
_SAMPLERS = ("hydra_plugins.hydra_optuna_sweeper.*", "optuna.samplers.*")


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """`arguments`: overrides as given, from which all else follows. `sampler`: Hydra's node of the sampler. `composed`:
    the config that trials share."""

    arguments: Sequence[str]
    space: Space
    rules: SearchConfig
    sampler: Mapping[str, Any]
    composed: DictConfig

    @property
    def num_trials(self) -> int:
        """Trials with a result that the search is after: `n_trials`, or the whole of a smaller grid."""
        if not self.is_grid:
            return self.rules.n_trials
        size = 1
        for values in grid_of(self.space).values():
            size *= len(values)
        return min(size, self.rules.n_trials)

    @property
    def is_grid(self) -> bool:
        return str(self.sampler["_target_"]).endswith(".GridSampler")

    def build_sampler(self, number: int) -> Any:
        """The sampler of trial `number`, seeded by it, so that a search that was interrupted samples as if it was not.

        A grid is shuffled once: its order must be the same for all trials.
        """
        node = OmegaConf.create(dict(self.sampler))
        node.seed = self.rules.seed if self.is_grid else int(digest([self.rules.seed, number])[:8], 16)
        made = instantiate(node, _execution_whitelist_=_SAMPLERS)
        return made(grid_of(self.space)) if self.is_grid else made

    def to_json(self) -> dict[str, Any]:
        """What the study keeps."""
        return {"arguments": list(self.arguments), "rules": self._lasting(), "space": self.space.to_json()}

    def _lasting(self) -> dict[str, Any]:
        rules = {key: value for key, value in asdict(self.rules).items() if key not in _CHANGEABLE}
        return rules | {"sampler": OmegaConf.to_container(OmegaConf.create(dict(self.sampler)), resolve=True)}

    def require_same(self, stored: Mapping[str, Any], remedy: str) -> None:
        """Raise a SweepError unless the study has the same space and rules."""
        now = self.to_json()
        then_flat = {**stored["rules"], **{f"space of {key}": text for key, text in stored["space"].items()}}
        now_flat = {**now["rules"], **{f"space of {key}": text for key, text in now["space"].items()}}
        changes = [
            f"{key}: {then_flat.get(key, '(absent)')} -> {now_flat.get(key, '(absent)')}"
            for key in sorted(then_flat.keys() | now_flat.keys())
            if then_flat.get(key) != now_flat.get(key)
        ]
        if changes:
            raise SweepError(
                "sweep.resume", f"the search changed since it began; {'; '.join(changes[:4])}", remedy=remedy
            )


def plan_search(arguments: Sequence[str], sampler: DictConfig, compose: Compose) -> SearchPlan:
    """The plan that the command line asks for.

    Raises:
        ConfigError: a space or rules that cannot work.
    """
    space = read_space(without(arguments, ["sweep.resume"]))
    composed = compose(space.fixed)
    rules = OmegaConf.to_object(composed.search)
    assert isinstance(rules, SearchConfig)
    values = OmegaConf.to_container(sampler, resolve=True)
    assert isinstance(values, dict)
    rules = replace(rules, study=None, trial=None)
    plan = SearchPlan(arguments, space, rules, {str(key): value for key, value in values.items()}, composed)
    _check(plan)
    return plan


def continue_arguments(stored: Sequence[str], given: Sequence[str], remedy: str) -> list[str]:
    """The stored overrides, under those given now that change only how jobs run.

    Raises:
        SweepError: others are given than the search began with.
    """
    then, now = ({text for text in lines if _is_part(text)} for lines in (stored, given))
    if now - then:
        changes = [f"not in the search: {text}" for text in sorted(now - then)]
        raise SweepError("sweep.resume", "; ".join(changes[:4]), remedy=remedy)
    new = [text for text in given if not _is_part(text) and key_of(text) != "sweep.resume"]
    return [*without(stored, [*map(key_of, new), "sweep.resume"]), *new]


def _is_part(override: str) -> bool:
    return not is_execution(override) and key_of(override) not in CONTROLLER_KEYS


def _check(plan: SearchPlan) -> None:
    rules, keys = plan.rules, {key_of(key) for key in plan.space.swept}
    kind = str(plan.sampler["_target_"]).rpartition(".")[2]
    for key in sorted(keys):
        if is_execution(key) or key in CONTROLLER_KEYS:
            raise ConfigError(key, "says how jobs run, and cannot be searched", remedy="give it one value")
    if plan.is_grid:
        grid_of(plan.space)
    if kind == "CmaEsSampler":
        _check_numbers(plan)
    by_nll = bool({"nll", "nll_kept"} & set(rules.objective)) or rules.pruner in ("median", "halving")
    _require_fixed(
        keys,
        ("stm",),
        "nll_kept" in rules.objective,
        ConfigError(
            "search.objective",
            "nll_kept averages over the tokens that a rule keeps, so trials of different rules do not compare",
            received="nll_kept",
            remedy="use gain, forgetting, or nll",
        ),
    )
    _require_fixed(
        keys,
        ("stm",),
        rules.pruner in ("median", "halving"),
        ConfigError(
            "search.pruner",
            "compares validation NLLs, which do not tell how good a token rule is: masked tokens are not trained for",
            received=rules.pruner,
            remedy="use search.pruner=wilcoxon, which compares answered items, or none",
        ),
    )
    _require_fixed(
        keys,
        ("model",),
        by_nll,
        ConfigError(
            "search",
            "a validation NLL a token does not compare between models",
            received=f"search.objective={list(rules.objective)} search.pruner={rules.pruner}",
            remedy="use search.objective=[gain], with search.pruner=wilcoxon or none",
        ),
    )
    _require_fixed(
        keys,
        ("dataset", "eval"),
        rules.pruner != "none",
        ConfigError(
            "search.pruner",
            "compares trials on the same validation data",
            received=rules.pruner,
            remedy="leave it none",
        ),
    )


def _require_fixed(keys: set[str], groups: Sequence[str], applies: bool, error: ConfigError) -> None:
    """Raise `error`, with the key's name, where it `applies` and a key of `groups` is searched."""
    searched = sorted(key for key in keys if key.partition(".")[0] in groups)
    if applies and searched:
        rule = f"{error.rule}; {searched[0]} is searched"
        raise ConfigError(error.subject, rule, received=error.received, remedy=error.remedy)


def _check_numbers(plan: SearchPlan) -> None:
    from optuna.distributions import CategoricalDistribution

    for key, distribution in plan.space.swept.items():
        if isinstance(distribution, CategoricalDistribution):
            raise ConfigError(
                key,
                "cmaes moves in intervals and ranges of numbers, not among choices",
                received=", ".join(map(str, distribution.choices)),
                remedy="use search=tpe, or give an interval",
            )
    if len(plan.space.swept) < 2:
        raise ConfigError("search", "cmaes needs at least two numbers to search", received=1, remedy="use search=tpe")
    if len(plan.rules.objective) > 1:
        raise ConfigError(
            "search.objective", "cmaes has a single one", received=plan.rules.objective, remedy="use search=tpe"
        )
