"""A sweep's own view of MLflow's charts: parallel coordinates over what was swept, and the columns that matter.

MLflow keeps a shared view of an experiment as JSON in one of the experiment's tags, and shows it where the address
names the tag. A version of MLflow that reads it no more shows its ordinary charts.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG_PREFIX = "mlflow.sharedViewState."
MAX_CHARACTERS = 5000  # of an experiment's tag
_SECTION = "this-sweep"
# Metric -> the title of its chart, which has room for so much.
_METRICS = {
    "mask/kept_fraction": "kept share",
    "summary/target_score": "target score",
    "summary/bwt_points": "other tasks, pts",
}
_MAX_PARAMS = 4  # more axes are drawn over each other
_IN_ARM = ("stm", "weight", "regulariser")  # groups that the parameter `arm` spells out
_WORKFLOW = "workflowType=machine_learning"  # the page's other face has traces and judges in the place of runs
_RUNS_READ = 200  # for what they hold
_RUNS_DRAWN = 500


def read_axes(folder: Path) -> tuple[str, ...]:
    """The swept keys of the sweep in `folder`; none where its manifest cannot be read."""
    try:
        axes = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))["axes"]
        return tuple(map(str, axes))
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def publish_view(client: MlflowClient, experiment_id: str, run_id: str, axes: Sequence[str]) -> str | None:
    """Keep the view of the runs below `run_id`; the address of its charts below the server's, None without runs."""
    wanted = f"tags.`mlflow.parentRunId` = '{run_id}'"
    runs = client.search_runs([experiment_id], wanted, max_results=_RUNS_READ)
    params: dict[str, set[str]] = {}
    for run in runs:
        for key, value in run.data.params.items():
            params.setdefault(key, set()).add(value)
    metrics = {key for run in runs for key in run.data.metrics}
    if not runs:
        return None
    view = draw_view(run_id, list(_shown(axes, params)), [key for key in _METRICS if key in metrics])
    text = json.dumps(view, separators=(",", ":"))
    if len(text) > MAX_CHARACTERS:
        return None
    client.set_experiment_tag(experiment_id, f"{TAG_PREFIX}{run_id}", text)
    return f"#/experiments/{experiment_id}/runs?{_WORKFLOW}&compareRunsMode=CHART&viewStateShareKey={run_id}"


def link_report(experiment_id: str, run_id: str, artefacts: Sequence[Path]) -> str | None:
    """The address of the HTML report among the run's artefacts; None where it is not among them."""
    name = next((path.name for path in artefacts if path.suffix == ".html"), None)
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/{name}?{_WORKFLOW}" if name is not None else None


def draw_view(run_id: str, params: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    """The view as MLflow's page stores it: charts of `params` and `metrics`, the runs of one sweep alone."""
    common = {"deleted": False, "isGenerated": False, "metricSectionId": _SECTION, "runsCountToCompare": _RUNS_DRAWN}
    charts: list[dict[str, Any]] = []
    if len(params) + len(metrics) > 1:
        chosen = {"selectedParams": list(params), "selectedMetrics": list(metrics), "showAllRuns": True}
        title = {"displayName": "Swept values and what came of them"}
        charts.append({"type": "PARALLEL", "uuid": "parallel", **common, **title, **chosen})
    for key in metrics:
        charts.append({"type": "BAR", "uuid": f"bar-{key}", **common, "metricKey": key, "displayName": _METRICS[key]})
    if len(metrics) == len(_METRICS):
        ends = {name: {"key": key, "type": "METRIC"} for name, key in zip(("xaxis", "yaxis"), metrics[1:], strict=True)}
        charts.append({"type": "SCATTER", "uuid": "target-forgetting", **common, **ends})
    section = {"uuid": _SECTION, "name": "This sweep", "display": True, "isReordered": False, "deleted": False}
    columns = [*(f"params.`{key}`" for key in params), *(f"metrics.`{key}`" for key in metrics)]
    return {
        "searchFilter": f'tags.`mlflow.parentRunId` = "{run_id}"',
        # Not by time: then MLflow puts the sweep's own run above, folded, and the charts have nothing to draw.
        "orderByKey": "metrics.`mask/kept_fraction`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": charts,
        "compareRunSections": [{**section, "isGenerated": False}],
        "isAccordionReordered": True,  # keeps this section above those that MLflow makes of the metrics' names
    }


def _shown(axes: Sequence[str], params: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Parameters, each with the values it takes, that stand for the swept keys: those with most values, where there are
    too many. The arm stands for the rules of tokens: of a control that masks nothing the threshold says nothing."""
    names = []
    for key in axes:
        is_rule = key.partition(".")[0] in _IN_ARM
        names += ["arm"] if is_rule else [key, f"{key}.name", f"{key}.rule"]
    known = [name for name in dict.fromkeys(names or ["arm"]) if name in params]
    most = sorted(known, key=lambda name: (name == "arm", len(params[name])), reverse=True)[:_MAX_PARAMS]
    yield from (name for name in known if name in most)
