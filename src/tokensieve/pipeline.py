"""One run, from config to recorded result: builds what the cache lacks, records status, metrics and artefacts."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokensieve.config import RunConfig, identity, to_plain, to_yaml
from tokensieve.evaluations import Evaluations, define_evaluations
from tokensieve.fit import define_fit
from tokensieve.interruption import terminate_as_interrupt
from tokensieve.model import check_attention
from tokensieve.ranks.layout import check_ranks, plan_ranks
from tokensieve.records import EvalResult, RunResult, digest
from tokensieve.run_folder import RunFolder, check_writable, link_file, link_tree, write_atomically, write_outputs
from tokensieve.run_metrics import evaluation_metrics, last_values, mask_metrics
from tokensieve.stages import Stages, define_stages, require_validation
from tokensieve.store import Artefact, Store
from tokensieve.trained_model import record_base
from tokensieve.trial_values import check_trial, measure_trial
from tokensieve.weight_change import measure_weight_change

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage of a dry run. `digest` is None for what depends on a mask that is not computed yet."""

    stage: str
    digest: str | None
    cached: bool


def job_id(config: RunConfig) -> str:
    """64 hex digits: equal for configs that compute the same thing."""
    return digest(identity(config))


def open_store(config: RunConfig) -> Store:
    """The cache below the config's output folder."""
    return Store(Path(config.output_dir) / "cache")


def validate(config: RunConfig) -> None:
    """Raise what can be known before a model loads: missing or empty files, unknown tasks, a folder without a model.

    Raises:
        TokensieveError: the first such fault.
    """
    if config.launcher.name == "local":  # a cluster's nodes have packages of their own
        check_attention(config.model.attention)
    stages = define_stages(config, open_store(config))
    require_validation(stages)
    check_trial(stages)
    check_ranks(config)
    check_writable(Path(config.output_dir))


def plan(config: RunConfig) -> list[StagePlan]:
    """What a run of `config` would build and what it would find. Loads no library."""
    stages = define_stages(config, open_store(config))
    known = [StagePlan(stage, found.digest, found.is_cached) for stage, found in stages.up_to_mask().items()]
    base = [
        StagePlan(f"evaluate base/{name}", found.digest, found.is_cached)
        for name, found in define_evaluations(stages, None).items()
    ]
    masks = [mask for mask in (stages.mask, stages.validation_mask, stages.weights) if mask is not None]
    if not all(mask.is_cached for mask in masks):
        return [*known, *base, StagePlan("fit", None, False), StagePlan("evaluate", None, False)]
    fit = define_fit(stages, Path(os.devnull))
    tuned = define_evaluations(stages, fit).values()
    return [
        *known,
        *base,
        StagePlan("fit", fit.digest, fit.is_cached),
        StagePlan("evaluate", None, all(evaluation.is_cached for evaluation in tuned)),
    ]


def run(
    config: RunConfig,
    run_dir: Path,
    *,
    name: str | None = None,
    job: str | None = None,
    parent_run_id: str | None = None,
) -> RunResult:
    """Run every stage in this process and record it in `run_dir`. Called again on the same folder, it resumes.

    `name` is the run's in tables and stores; the config's own, `run_name`, when it is None. `job`: its id in a sweep,
    which may be older than this program; `job_id` when it is None.

    Raises:
        TokensieveError: a fault of input or environment, or the end of a hopeless trial; KeyboardInterrupt: SIGINT or
        SIGTERM. Both, and any other exception, are recorded as FAILED, PRUNED or KILLED first.
    """
    from tokensieve.tracking import Tracker, arm_first

    check_writable(run_dir)
    record = RunFolder(run_dir, job or job_id(config), name or config.run_name)
    write_atomically(run_dir / "config.yaml", to_yaml(config))
    record.write_status("RUNNING")
    with terminate_as_interrupt():
        try:
            with Tracker(
                run_dir,
                name=arm_first(record.name),
                uri=tracking_uri(config),
                experiment=config.tracking.experiment,
                parent_run_id=parent_run_id,
            ) as tracker:
                result = _run_stages(config, record, tracker)
        except BaseException as error:
            record.write_end(error)
            raise
    record.write_status("FINISHED")
    return result


def tracking_uri(config: RunConfig) -> str | None:
    """Where MLflow keeps the run, or None for the local record alone."""
    from tokensieve.tracking import default_uri

    if config.tracking.backend == "none":
        return None
    return config.tracking.uri or default_uri(config.output_dir)


def _tracked(config: RunConfig) -> dict[str, Any]:
    """The parameters that a store shows: those of evaluation sets are left to the config file, and the arm is named."""
    values = to_plain(config)
    values["eval"]["datasets"] = ", ".join(config.eval.datasets)
    return values | {"arm": config.method}  # a threshold alone does not tell the arms apart


def _run_stages(config: RunConfig, record: RunFolder, tracker: Any) -> RunResult:
    from tokensieve.tracking import git_commit, package_versions

    plan_ranks(config)  # counts the devices of this machine, which need not be the one that planned
    versions, commit = package_versions(), git_commit()
    tracker.set_tags(
        {"job_id": record.job, "git_commit": commit or "none"}
        | {f"version.{name}": value for name, value in versions.items()}
    )
    tracker.log_params(_tracked(config))
    tracker.log_artifact(record.folder / "config.yaml")
    stages = define_stages(config, open_store(config))
    _build_data(stages, record, tracker)
    base_evals = _evaluate(define_evaluations(stages, None), record, " base")
    weights = define_fit(stages, record.folder, tracker.log_metrics)
    curve = _fit(config, weights, record, tracker)
    _write_tokens(stages, record)  # now, because training need not wait for a page
    trained = last_values(curve, config.trainer.evaluate_checkpoint)
    if (change := measure_weight_change(weights.get() / config.trainer.evaluate_checkpoint)) is not None:
        trained["fit/weight_change"] = change
    objectives = measure_trial(stages, weights, record, trained)
    evals = _evaluate(define_evaluations(stages, weights), record)
    scores = evaluation_metrics(base_evals, evals, config.dataset.task)
    scores |= {f"search/{key}": value for key, value in objectives.items()}
    scores |= {key: value for key, value in trained.items() if key == "fit/weight_change"}
    tracker.log_metrics(scores, int(curve[-1]["step"]) if curve else 0)
    made = stages.training_data() | {"fit": weights} | {f"items {name}": items for name, items in stages.items.items()}
    result = RunResult(
        job_id=record.job,
        name=record.name,
        status="FINISHED",
        config=to_plain(config),
        target_task=config.dataset.task or "",
        stamps={stage: found.digest for stage, found in made.items()},
        mask=stages.mask.get().stats,
        base_evals=base_evals,
        evals=evals,
        fit=trained,
        seconds=record.seconds,
        peak_memory_bytes=record.peak_memory,
        versions=versions,
        git_commit=commit,
        objectives=objectives,
    )
    _write_result(config, result, record, tracker)
    return result


def _build_data(stages: Stages, record: RunFolder, tracker: Any) -> None:
    """Everything up to the masks, and what a store and a reader see of it."""
    config = stages.config
    for stage, artefact in stages.training_data().items():
        record.build(stage, artefact)
    source = config.dataset.path or config.dataset.hub_id or f"lab:{config.dataset.lab_family}"
    digest = (stages.train or stages.tokens).digest
    tracker.log_dataset(config.dataset.name, digest, len(stages.tokens.get()), source)
    if stages.validation_mask is not None:
        record.build("mask validation", stages.validation_mask)
    metrics = mask_metrics(stages.mask.get().stats)
    tracker.log_metrics({f"mask/{key}": value for key, value in metrics.items()}, 0)


def _evaluate(evaluations: Evaluations, record: RunFolder, whose: str = "") -> list[EvalResult]:
    """All results of one model: what it says to all tasks at once, then its grades task by task."""
    with record.timed(f"answer{whose}"):
        evaluations.answer()
    return [record.build(f"evaluate{whose}/{name}", found) for name, found in evaluations.items()]


def _fit(config: RunConfig, weights: Artefact[Path], record: RunFolder, tracker: Any) -> list[dict[str, float]]:
    """Train, or take what was trained before, and link it into the run's folder; returns the curve."""
    from tokensieve.trainer import read_curve

    folder = record.build("fit", weights)
    curve = read_curve(folder)
    if not weights.built_here:  # trained earlier, by this job or by one with the same mask: the curve is the same
        for entry in curve:
            tracker.log_metrics(
                {key: value for key, value in entry.items() if key not in ("step", "time")}, int(entry["step"])
            )
    link_tree(folder / config.trainer.evaluate_checkpoint, record.folder / "adapter")
    record_base(config, record.folder)
    shutil.rmtree(record.folder / "checkpoints", ignore_errors=True)
    return curve


def _write_result(config: RunConfig, result: RunResult, record: RunFolder, tracker: Any) -> None:
    """The local record first, then what the store keeps of it."""
    costs = {f"seconds {stage}": value for stage, value in record.seconds.items()}
    costs |= {f"bytes {stage}": float(value) for stage, value in record.peak_memory.items()}
    # One level below `system` MLflow shows metrics in a tab of their own, apart from scores and losses.
    tracker.log_metrics({f"system/{name.replace('/', ' ')}": value for name, value in costs.items()}, 0)
    tracker.set_tags({f"stamp.{stage}": value for stage, value in result.stamps.items()})
    write_outputs(record.folder / "evals", result.evals)
    write_atomically(record.folder / "result.json", result.to_json())
    artefacts = ["result.json", "evals", "tokens.html", *(["adapter"] if config.tracking.log_adapter else [])]
    for path in (record.folder / name for name in artefacts):
        if path.exists():
            tracker.log_artifact(path)


def _write_tokens(stages: Stages, record: RunFolder) -> None:
    """The page that shows which tokens are masked; only where there are perplexities to show."""
    if stages.scores is None:
        return
    from tokensieve.inspection import define_page

    link_file(record.build("page", define_page(stages)), record.folder / "tokens.html")
