"""Send what a store lacks of a run's local record. Done twice, it sends nothing the second time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tokensieve.tracking.entries import DIGEST_CHARACTERS, send_dataset, send_params, send_tags
from tokensieve.tracking.journal import read_told
from tokensieve.tracking.mark import StoreMark
from tokensieve.tracking.mlflow_store import metric_name, upload

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

METRICS_FILE = "metrics.jsonl"
METRICS_PER_BATCH = 1000  # MLflow's limit
Points = dict[int, tuple[float, float]]  # step -> value, unix seconds


def read_points(run_dir: Path) -> dict[str, Points]:
    """Every metric of metrics.jsonl; of a step that was logged twice, the later value counts. null is NaN."""
    curves: dict[str, Points] = {}
    path = run_dir / METRICS_FILE
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.split("\n"):
        try:
            record = json.loads(line)
            step, seconds = int(record["step"]), float(record.get("time") or 0.0)
        except (ValueError, KeyError, TypeError):
            continue  # the line during which the process was killed
        for key, value in record.items():
            if key not in ("step", "time"):
                curves.setdefault(key, {})[step] = math.nan if value is None else float(value), seconds
    return curves


def send_missing(client: MlflowClient, run_id: str, mark: StoreMark) -> None:
    """Bring a run of the store up to the record in `mark.folder`: parameters, tags, datasets, metrics, artefacts.

    Whatever MLflow raises passes through; what was sent until then is kept, and not sent again.
    """
    told = read_told(mark.folder)
    run = client.get_run(run_id)
    send_params(client, run_id, told.params)
    send_tags(client, run_id, told.tags)
    inputs = run.inputs.dataset_inputs if run.inputs is not None else []
    known = {entry.dataset.digest for entry in inputs}
    for dataset in told.datasets.values():
        if dataset["digest"][:DIGEST_CHARACTERS] not in known:
            send_dataset(client, run_id, dataset)
    rows = list(_missing_points(client, run, mark.folder))
    for start in range(0, len(rows), METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=rows[start : start + METRICS_PER_BATCH])
    for path in told.artefacts:
        if not mark.has(path):
            upload(client, run_id, path)
            mark.note_upload(path)


def _missing_points(client: MlflowClient, run: Run, run_dir: Path) -> Iterator[Metric]:
    from mlflow.entities import Metric

    for key, points in read_points(run_dir).items():
        name = metric_name(key)
        stored: dict[int, list[float]] = {}
        if name in run.data.metrics:
            for entry in client.get_metric_history(run.info.run_id, name):
                stored.setdefault(entry.step, []).append(entry.value)
        for step, (value, seconds) in points.items():
            there = stored.get(step, [])
            # An infinite value is null in the file, and whatever the store makes of it.
            if value not in there and not (math.isnan(value) and there):
                yield Metric(name, value, int(seconds * 1000), step)
