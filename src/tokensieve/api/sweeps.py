"""`load_sweep`: a sweep as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.errors import DataError, SweepError
from tokensieve.report.load import Run, Sweep, read_sweep

if TYPE_CHECKING:
    import pandas as pd

LATEST = "latest"
_ARRAYS = ["item_ids", "item_scores", "base_item_scores"]


@dataclass(frozen=True)
class LoadedSweep:
    """The runs of a sweep, finished or not. Tables are made when they are first asked for, and kept."""

    sweep: Sweep

    @property
    def folder(self) -> Path:
        return self.sweep.folder

    @property
    def name(self) -> str:
        return self.sweep.name

    @property
    def command(self) -> str:
        """That started it; empty for a single run."""
        return self.sweep.command

    @property
    def axes(self) -> Mapping[str, tuple[str, ...]]:
        """Swept key -> its values, as they were written."""
        return self.sweep.axes

    @property
    def runs(self) -> tuple[Run, ...]:
        """One for each job and name, with its state, its error and, where finished, its result."""
        return self.sweep.runs

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row for each run and task, with scores in [0, 1], changes in points against the base, and intervals.

        A run without a result has one row, with its state and its error. Columns: see `tokensieve.report.load_sweep`;
        the scores of items are in `items`.
        """
        from tokensieve.report.frame import sweep_frame

        return sweep_frame(self.sweep).drop(columns=_ARRAYS, errors="ignore")

    @cached_property
    def items(self) -> pd.DataFrame:
        """One row for each run, task and item: run, label, arm, seed, task, item, score, base_score."""
        from tokensieve.report.long_tables import tabulate_items

        return tabulate_items(self.sweep)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row for each run, metric and optimiser step: run, label, arm, seed, metric, step, value."""
        from tokensieve.report.long_tables import tabulate_curves

        return tabulate_curves(self.sweep)

    @cached_property
    def arms(self) -> pd.DataFrame:
        """One row for each arm, seeds taken together, the base model first: what `tokensieve report` prints."""
        import pandas as pd

        from tokensieve.report.arms import build_arms
        from tokensieve.report.frame import arm_row

        return pd.DataFrame([arm_row(arm) for arm in build_arms(self.sweep)])

    @cached_property
    def predictors(self) -> pd.DataFrame:
        """One row a run: what was known of it before it trained, and the points that it forgot.

        Empty for fewer than five different masks. Columns: see `tokensieve.report.predictors.PREDICTORS`.
        """
        from tokensieve.report.arms import build_arms
        from tokensieve.report.forgetting import study_forgetting, tabulate_predictors

        return tabulate_predictors(study_forgetting(self.sweep, build_arms(self.sweep)))

    def compare(self, reference: str, *arms: str, tasks: Sequence[str] | None = None) -> pd.DataFrame:
        """Paired tests of arms against a reference, on the items that both answered; p-values as they are and Holm's.

        Args:
            reference: an arm as `frame` labels it, or `base`.
            arms: those compared with it; none: every other arm.
            tasks: only these; None: all that both have.

        Raises:
            DataError: no such arm, none that finished, or results that cannot be paired.
        """
        import pandas as pd

        from tokensieve.compare import compare, find_arm
        from tokensieve.report.labels import group_label

        labels = dict.fromkeys(group_label(run, self.runs) for run in self.runs if run.result is not None)
        chosen = [reference, *(arms or (label for label in labels if label != reference))]
        found = [find_arm(name, lambda: self.folder) for name in chosen]
        rows, _ = compare(found, tasks=tasks)
        return pd.DataFrame([_flat(asdict(row)) for row in rows])


def load_sweep(path: str | Path = LATEST, *, output_dir: str | Path = "outputs") -> LoadedSweep:
    """Read a sweep's folder, or a single run's.

    Args:
        path: the folder; `latest`: the newest sweep of `output_dir`.
        output_dir: where sweeps are, as `output_dir` of the run.

    Raises:
        DataError: there is no sweep, or its manifest is damaged.
    """
    if str(path) == LATEST and not Path(path).is_dir():
        from tokensieve.sweep.manifest import latest_sweep

        try:
            path = latest_sweep(Path(output_dir).expanduser() / "sweeps")
        except SweepError as error:
            raise DataError(
                str(Path(output_dir) / "sweeps"),
                "must hold a sweep",
                received="none",
                remedy="run one (python train.py -m ...), or give its folder, or the output_dir that it had",
            ) from error
    return LoadedSweep(read_sweep(Path(path).expanduser()))


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Intervals become three columns."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, tuple):
            flat |= {key: value[0], f"{key}_low": value[1], f"{key}_high": value[2]}
        else:
            flat[key] = value
    return flat
