"""The report as one HTML page: no request leaves it, it prints, and it reads on a phone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokensieve.report.arms import Arm
from tokensieve.report.axis import choose_axis
from tokensieve.report.figure import to_svg
from tokensieve.report.findings import findings
from tokensieve.report.forgetting import TITLES, ForgettingStudy, cells, explain_predictions
from tokensieve.report.load import Run, Sweep
from tokensieve.report.plots import draw_curves, draw_quantity, forgetting, kept_share, target_score
from tokensieve.report.search_page import search_section
from tokensieve.report.standing import describe_to_come, unfinished
from tokensieve.report.table import change_cell, columns, common_n, explain, score_cell

TEMPLATES = Path(__file__).parent
FULL_COLOUR_POINTS = 30.0  # a change of this size has the full colour of the matrix
_BASE_LINE = "Dashed: the base model, with its interval."
_LOSS, _GAIN = (213, 94, 0), (0, 114, 178)  # Okabe-Ito vermilion and blue


def render_page(sweep: Sweep, arms: Sequence[Arm], study: ForgettingStudy | None = None) -> str:
    """HTML text of the report; works without a single finished run."""
    study = study or ForgettingStudy()
    shown = columns(arms)
    rows = [(arm, [column.cell(arm) for column in shown]) for arm in arms]
    return render(
        "page.html.j2",
        sweep=sweep,
        done=sum(run.result is not None for run in sweep.runs),
        findings=list(findings(arms)),
        titles=[column.title for column in shown],
        rows=rows,
        notes=explain(sweep, arms),
        failed=unfinished(sweep),
        to_come=describe_to_come(sweep),
        search=search_section(sweep),
        figures=list(_figures(arms)),
        matrix=_matrix(arms),
        predictor_titles=TITLES,
        predictors=[cells(prediction) for prediction in study.predictions],
        predictor_notes=explain_predictions(study),
        runs=[_run_row(run) for run in sweep.runs],
        settings=_settings(sweep),
        provenance=_provenance(sweep),
    )


def render(template: str, **values: Any) -> str:
    """A template of this folder, with everything that is not marked safe escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def _figures(arms: Sequence[Arm]) -> Iterator[tuple[str, str]]:
    """(inline SVG, caption)"""
    from markupsafe import Markup

    trained = [arm for arm in arms if not arm.is_base]
    if not trained:
        return
    axis = choose_axis(arms).title or "arm"
    forgets = any(arm.other_tasks for arm in trained)
    counted = f"Bars: 95 % intervals; {common_n(arms) or 'n: see the table.'}"
    tokens = {round(number) for arm in trained if math.isfinite(number := arm.details.get("response_tokens", math.nan))}
    of_tokens = f", of {tokens.pop():,}; counted, so without an interval" if len(tokens) == 1 else ""
    lost = "mean change of the tasks that were not trained for. Below the dashed line is lost."
    plots = [
        ("target", draw_quantity(arms, target_score, "target score, %"),
         f"Target score by {axis}. {_BASE_LINE} {counted}"),
        ("others", draw_quantity(arms, forgetting, "other tasks, points vs base") if forgets else None,
         f"Forgetting by {axis}: {lost} {counted}"),
        ("kept", draw_quantity(arms, kept_share, "kept, % of response tokens"),
         f"Share of response tokens trained{of_tokens}."),
        ("train", draw_curves(arms, "train/nll", "training NLL, nats"),
         "Training loss over the kept tokens, smoothed. Arms average over different tokens: levels do not compare."),
        ("val", draw_curves(arms, "val/nll", "validation NLL, nats"),
         "Validation loss over all response tokens, masked ones too: levels compare; masked arms do not train for it."),
    ]  # fmt: skip
    for name, figure, caption in plots:
        if figure is not None:
            yield Markup(to_svg(figure, caption, name)), caption


def _matrix(arms: Sequence[Arm]) -> dict[str, Any]:
    """Change of every arm on every task, in points, with the base's scores at the top."""
    tasks: dict[str, str] = {}
    for arm in arms:
        tasks |= {task: change.metric for task, change in arm.tasks.items() if task not in tasks}
    rows = []
    for arm in arms:
        cells = [_cell(arm, task) for task in tasks]
        rows.append({"label": arm.label, "is_base": arm.is_base, "cells": cells})
    items = {task: max(arm.tasks[task].num_items for arm in arms if task in arm.tasks) for task in tasks}
    heads = [(task, metric, items[task]) for task, metric in tasks.items()]
    return {
        "heads": heads,
        "rows": rows,
        "targets": {arm.target_task for arm in arms},
        "full": f"{FULL_COLOUR_POINTS:g}",
    }


def _cell(arm: Arm, task: str) -> dict[str, str]:
    one = arm.tasks.get(task)
    if one is None:
        return {"number": "", "bracket": "", "colour": "transparent", "title": ""}
    score = score_cell(one.score)
    number, bracket = score if arm.is_base else change_cell(one.change)
    title = f"{arm.label}, {task} {one.metric}: score {' '.join(score)} %, n = {one.num_items}"
    colour = "transparent" if arm.is_base else _colour(one.change.value)
    return {"number": number, "bracket": bracket, "colour": colour, "title": title}


def _colour(points: float) -> str:
    """
    >>> _colour(-30.0), _colour(math.nan)
    ('rgb(226, 142, 76)', 'transparent')
    """
    if not math.isfinite(points):
        return "transparent"
    strength = 0.7 * min(1.0, abs(points) / FULL_COLOUR_POINTS)
    mixed = [round(255 + (part - 255) * strength) for part in (_LOSS if points < 0 else _GAIN)]
    return f"rgb({', '.join(map(str, mixed))})"


def _run_row(run: Run) -> dict[str, Any]:
    result = run.result
    peak = max(result.peak_memory_bytes.values(), default=0) if result else 0
    return {
        "name": run.name,
        "state": run.state,
        "note": "the same training as another row" if run.same_as else "added as a control" if run.control else "",
        "kept": f"{100 * result.mask.kept_fraction:.1f}" if result and result.mask else "",
        "dropped": str(result.mask.dropped_examples) if result and result.mask else "",
        "seconds": f"{math.fsum(result.seconds.values()):.1f}" if result else "",
        "memory": f"{peak / 2**30:.2f}" if peak else "",
        "folder": str(run.folder),
        "job_id": run.job_id[:8],
    }


def _settings(sweep: Sweep) -> list[tuple[str, str]]:
    """The config that all finished runs share, flattened."""
    from tokensieve.tracking.run import flatten

    flat = [flatten(run.result.config) for run in sweep.runs if run.result is not None]
    if not flat:
        return []
    return [(key, value) for key, value in flat[0].items() if all(other.get(key) == value for other in flat)]


def _provenance(sweep: Sweep) -> list[tuple[str, str]]:
    """Versions, commit and stamps that made the runs; a value that differs between runs is shown as such."""
    results = [run.result for run in sweep.runs if run.result is not None and run.same_as is None]
    values: dict[str, set[str]] = {}
    for result in results:
        sources: tuple[Mapping[str, Any], ...] = (
            {"git commit": result.git_commit or "none"},
            result.versions,
            {f"stamp {stage}": digest[:12] for stage, digest in result.stamps.items()},
            {
                f"decoding {entry.task}": json.dumps({"version": entry.version, **entry.decoding})
                for entry in result.evals
            },
        )
        for source in sources:
            for key, value in source.items():
                values.setdefault(key, set()).add(str(value))
    return [(key, one.copy().pop() if len(one) == 1 else f"{len(one)} different") for key, one in values.items()]
