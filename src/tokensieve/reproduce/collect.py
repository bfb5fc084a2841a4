"""The numbers of a table's rows: out of finished runs, out of masks, out of released perplexities."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tokensieve.config import RunConfig, to_run_config
from tokensieve.errors import ConfigError, TokensieveError
from tokensieve.records import RunResult
from tokensieve.reproduce.arms import Compose, Place, compose_arms, place_of
from tokensieve.reproduce.expected import BASE, ExpectedRow
from tokensieve.reproduce.experiment import Experiment, Scale, Setup
from tokensieve.reproduce.measured import measure_other_tasks, measure_runs, measure_stages
from tokensieve.reproduce.verdict import Measured
from tokensieve.sweep.job_identity import fingerprint

log = logging.getLogger(__name__)


def measure_arms(
    experiment: Experiment, scale: Scale, configs: Mapping[Place, Sequence[RunConfig]], output_dir: Path
) -> dict[ExpectedRow, Measured | None]:
    """Each row's number out of the finished runs below `output_dir`; None where a run is missing."""
    results = read_results(output_dir)
    runs = {
        place: [found for config in seeds if (found := results.get(fingerprint(config))) is not None]
        for place, seeds in configs.items()
    }
    setup = experiment.setup(scale)
    for place in [place for place in runs if place[0] in setup.starts_from]:
        before = [found for other, found in runs.items() if other[:2] == (setup.starts_from[place[0]], place[1])]
        runs[place] = _against_first_base(runs[place], [result for found in before for result in found])
    measured: dict[ExpectedRow, Measured | None] = {}
    for row in experiment.expected:
        if row.arm == BASE:  # any run of the model has measured it
            own = [found for (_, model, _), found in runs.items() if model == row.model and found]
            candidates = [measure_runs(row, found[:1], experiment.datasets) for found in own]
            measured[row] = next((found for found in candidates if found is not None), None)
            continue
        mine = runs.get(place_of(row), [])
        if scale == "lab" and row.metric == "bwt":
            trained = {task for name in row.trained_on.split("+") if (task := setup.tasks.get(name)) is not None}
            measured[row] = measure_other_tasks(mine, trained)
        elif scale == "lab" and mine and row.metric in ("ti", "accuracy"):
            measured[row] = measure_runs(row, mine, {row.dataset: setup.tasks.get(row.dataset, mine[0].target_task)})
        else:
            measured[row] = measure_runs(row, mine, experiment.datasets)
    return measured


def read_results(output_dir: Path) -> dict[str, RunResult]:
    """Every finished run below `output_dir` by the fingerprint of its config; of several the latest."""
    paths = [*output_dir.glob("runs/*/result.json"), *output_dir.glob("sweeps/*/jobs/*/result.json")]
    found, faults = {}, []
    for path in sorted(paths, key=lambda path: path.stat().st_mtime):
        try:
            result = RunResult.from_json(path.read_text(encoding="utf-8"))
            found[fingerprint(to_run_config(dict(result.config)))] = result
        except Exception as error:  # of an older version, or cut off: not a run of this table
            faults.append(f"{path}: {' '.join(str(error).split())[:200] or type(error).__name__}")
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        log.warning("results that cannot be read are left out: %s%s", faults[0], more)
    return found


def _against_first_base(results: Sequence[RunResult], before: Sequence[RunResult]) -> list[RunResult]:
    """`results` with the base scores that the run before of the same seed had: of the model before any training."""
    bases = {result.config["seed"]: result.base_evals for result in before}
    return [
        replace(result, base_evals=bases[result.config["seed"]]) for result in results if result.config["seed"] in bases
    ]


def measure_released(
    experiment: Experiment, compose: Compose, extra: Sequence[str], data: Path
) -> dict[ExpectedRow, Measured | None]:
    """The rows that the authors' perplexities in `data` stand for; no model is loaded.

    Raises:
        ConfigError: no such file, or the table has no such row.
    """
    if experiment.imports is None:
        raise ConfigError("--data", "no released perplexities belong to this table", received=str(data))
    if not data.is_file():
        raise ConfigError("--data", "must be an existing file", received=str(data), remedy="check the path")
    source = ["dataset=pretokenised", f"dataset.path={data}", "stm=imported", f"stm.scores_path={data}", "eval=target"]
    place = tuple(experiment.imports[key] for key in ("arm", "model", "trained_on"))
    arms = experiment.paper_setup.arms
    found: dict[ExpectedRow, Measured | None] = {}
    for arm in dict.fromkeys(row.arm for row in experiment.expected):
        rows = [row for row in experiment.expected if row.arm == arm and (row.model, row.trained_on) == place[1:]]
        borders = [override for override in arms.get(arm, ()) if override.startswith("stm.threshold=")]
        if rows and (borders or arm == place[0]):
            found |= _measure(compose([*source, *borders, *extra]), rows)
    return found


def measure_masks(
    experiment: Experiment, setup: Setup, compose: Compose, extra: Sequence[str], *, run: bool
) -> tuple[dict[ExpectedRow, Measured | None], int]:
    """The rows of a table that ends before the fit, with the model's own scores, and how many arms failed.

    Nothing is measured unless `run`. An arm that fails costs its own rows; its fault is logged.
    """
    found: dict[ExpectedRow, Measured | None] = {}
    failed = 0
    for place, configs in compose_arms(experiment, setup, compose, extra).items():
        rows = [row for row in experiment.expected if place_of(row) == place]
        try:
            found |= _measure(configs[0], rows) if run else {}
        except TokensieveError as error:
            failed += 1
            log.warning("%s: %s", ", ".join(place), error)
    return found, failed


def _measure(config: RunConfig, rows: Sequence[ExpectedRow]) -> dict[ExpectedRow, Measured | None]:
    from tokensieve.pipeline import open_store
    from tokensieve.stages import define_stages

    stages = define_stages(config, open_store(config))
    clean = stages.corpora.get("dataset")
    metrics = {row.metric for row in rows}
    num_rows = len(clean.get()) if clean is not None and "num_examples" in metrics else None
    values = measure_stages(stages, metrics, num_rows)
    return {row: values.get(row.metric) for row in rows}
