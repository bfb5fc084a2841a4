"""From printed arms to checked runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tokensieve.config import RunConfig
from tokensieve.reproduce.expected import ExpectedRow
from tokensieve.reproduce.experiment import Experiment, Setup
from tokensieve.sweep.compose import key_of

Compose = Callable[[Sequence[str]], RunConfig]
Place = tuple[str, str, str]  # arm, model, trained_on


def place_of(row: ExpectedRow) -> Place:
    """The arm, model and training data of a row."""
    return row.arm, row.model, row.trained_on


def compose_arms(
    experiment: Experiment, setup: Setup, compose: Compose, extra: Sequence[str] = ()
) -> dict[Place, list[RunConfig]]:
    """The checked runs of every arm that overrides express, one a seed.

    Raises:
        ConfigError: an arm that does not compose.
    """
    seeds = list_seeds(setup, extra)
    plain = [override for override in extra if key_of(override) != "seed"]
    known: dict[tuple[str, ...], list[RunConfig]] = {}  # in the lab, all models of a paper are one
    found: dict[Place, list[RunConfig]] = {}
    for arm, model, trained_on in experiment.places():
        overrides = setup.overrides(arm, model, trained_on)
        if overrides is None:
            continue
        chosen = tuple(overrides)
        if chosen not in known:
            known[chosen] = [compose([*overrides, *plain, f"seed={seed}"]) for seed in seeds]
        found[arm, model, trained_on] = known[chosen]
    return found


def list_seeds(setup: Setup, extra: Sequence[str] = ()) -> list[str]:
    """The seeds of the last `seed=1,2,3` among the setup's commands and overrides."""
    words = [word for text in (*setup.commands, *extra) for word in text.split() if word.startswith("seed=")]
    return words[-1].removeprefix("seed=").split(",") if words else ["1"]
