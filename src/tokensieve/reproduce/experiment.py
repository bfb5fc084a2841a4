"""One folder of `experiments/`: what a table claims, and which overrides make each of its arms."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from tokensieve.errors import ConfigError, DataError
from tokensieve.reproduce.expected import BASE, ExpectedRow, read_expected

FILE: Final = "experiment.yaml"
EXPECTED: Final = "expected.csv"
Scale = Literal["paper", "lab"]
_TEXTS: Final = ("id", "title", "paper", "table", "kind", "why")


@dataclass(frozen=True, slots=True)
class Setup:
    """How a table is run at one scale: overrides by printed name.

    `first`: commands before all others, each run once a seed, which stands in them as `$seed`: models that the others
    start from or compare with. `commands`: what is typed then, one line each. `cannot`: arms that cannot be run at
    this scale, and why. `starts_from`: arm -> the arm whose trained model it starts from; its changes are measured
    against what that one started from. `tasks`: printed data -> our task, where an arm has several targets.
    """

    first: tuple[str, ...]
    commands: tuple[str, ...]
    fixed: tuple[str, ...]
    models: Mapping[str, tuple[str, ...]]
    trained_on: Mapping[str, tuple[str, ...]]
    arms: Mapping[str, tuple[str, ...]]
    cannot: Mapping[str, str]
    starts_from: Mapping[str, str]
    tasks: Mapping[str, str]

    def overrides(self, arm: str, model: str, trained_on: str) -> list[str] | None:
        """Overrides of one arm, None where the setup has no such arm, model or data."""
        parts = (self.models.get(model), self.trained_on.get(trained_on), self.arms.get(arm))
        if any(part is None for part in parts):
            return None
        return [*self.fixed, *(override for part in parts for override in part or ())]


@dataclass(frozen=True)
class Experiment:
    """One table or figure.

    `kind` train: its arms are fits; mask: they end before the fit. `comparable`, `why`: whether today's numbers can be
    set beside the printed ones at all, and what differs. `obstacles`: rows that are another quantity, matched by their
    columns, with a reason. `imports`: the row (arm, model,
    trained_on) whose released perplexities `--data` reads.
    """

    folder: Path
    id: str
    title: str
    paper: str
    table: str
    kind: Literal["train", "mask"]
    comparable: bool
    why: str
    paper_setup: Setup
    lab_setup: Setup
    datasets: Mapping[str, str]
    obstacles: Sequence[Mapping[str, Any]] = ()
    imports: Mapping[str, str] | None = None

    @cached_property
    def expected(self) -> list[ExpectedRow]:
        return read_expected(self.folder / EXPECTED)

    @property
    def cannot(self) -> Mapping[str, str]:
        """Printed arms that no override expresses, at any scale."""
        return self.paper_setup.cannot

    def setup(self, scale: Scale) -> Setup:
        return self.paper_setup if scale == "paper" else self.lab_setup

    def places(self) -> list[tuple[str, str, str]]:
        """(arm, model, trained_on) of every printed arm but the base, once."""
        return list(dict.fromkeys((row.arm, row.model, row.trained_on) for row in self.expected if row.arm != BASE))

    def obstacle(self, row: ExpectedRow) -> str:
        """Why the row cannot be compared at paper scale; empty when it can."""
        if not self.comparable:
            return self.why
        for entry in self.obstacles:
            columns = {key: value for key, value in entry.items() if key != "why"}
            if all(
                getattr(row, key) in (value if isinstance(value, list) else [value]) for key, value in columns.items()
            ):
                return str(entry["why"])
        return ""


def experiments_folder() -> Path:
    """`experiments/` here or of the checkout.

    Raises:
        ConfigError: there is none.
    """
    candidates = [Path.cwd() / "experiments", Path(__file__).resolve().parents[3] / "experiments"]
    found = next((path for path in candidates if path.is_dir()), None)
    if found is None:
        raise ConfigError(
            "experiments",
            "the folder of tables must be here",
            received=str(candidates[0]),
            remedy="run from the root of the checkout",
        )
    return found


def list_experiments() -> list[Experiment]:
    """All experiments, by name."""
    return [read_experiment(path.parent) for path in sorted(experiments_folder().glob(f"*/{FILE}"))]


def find_experiment(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        ConfigError: there is none; the message names near ones.
    """
    names = [path.parent.name for path in sorted(experiments_folder().glob(f"*/{FILE}"))]
    if name in names:
        return read_experiment(experiments_folder() / name)
    near = [known for known in names if known.startswith(name)] if name else []
    near += [known for known in difflib.get_close_matches(name, names, n=3, cutoff=0.5) if known not in near]
    raise ConfigError(
        "reproduce",
        "no such table",
        received=name,
        remedy=f"did you mean {' or '.join(near)}?" if near else "tokensieve reproduce --list shows all",
    )


def read_experiment(folder: Path) -> Experiment:
    """The experiment that `folder` describes; its expected.csv is read when asked for.

    Raises:
        DataError: experiment.yaml cannot be read, or lacks a key.
    """
    import yaml  # type: ignore[import-untyped]

    path = folder / FILE
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise TypeError("not a mapping")
        return _build(folder, values)
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError, ValueError) as error:
        received = f"no key {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise DataError(str(path), "must describe an experiment", received=received) from error


def _build(folder: Path, values: Mapping[str, Any]) -> Experiment:
    texts: dict[str, Any] = {key: str(values[key]).strip() for key in _TEXTS}
    if texts["id"] != folder.name:
        raise ValueError(f"id {texts['id']} in the folder {folder.name}")
    if texts["kind"] not in ("train", "mask"):
        raise ValueError(f"kind {texts['kind']}, not train or mask")
    lab = {"models": {name: [] for name in values["models"]}} | (values.get("lab") or {})
    return Experiment(
        folder=folder,
        **texts,
        comparable=bool(values["comparable"]),
        paper_setup=_setup(values, values.get("first_paper") or (), values["command_paper"]),
        lab_setup=_setup(lab, values.get("first_lab") or (), values["command_lab"]),
        datasets={str(key): str(name) for key, name in values["datasets"].items()},
        obstacles=tuple(values.get("obstacles") or ()),
        imports=values.get("imports"),
    )


def _setup(values: Mapping[str, Any], first: Sequence[str], commands: Sequence[str]) -> Setup:
    def texts(key: str) -> dict[str, str]:
        return {str(name): str(text) for name, text in (values.get(key) or {}).items()}

    def overrides(key: str) -> dict[str, tuple[str, ...]]:
        return {str(name): tuple(map(str, entries or ())) for name, entries in (values.get(key) or {}).items()}

    return Setup(
        first=tuple(map(str, first)),
        commands=tuple(map(str, commands)),
        fixed=tuple(map(str, values.get("fixed") or ())),
        models=overrides("models"),
        trained_on=overrides("trained_on"),
        arms=overrides("arms"),
        cannot=texts("cannot"),
        starts_from=texts("starts_from"),
        tasks=texts("tasks"),
    )
