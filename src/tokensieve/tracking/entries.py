"""Parameters, tags and datasets in MLflow's limits, and how they are sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tokensieve.tracking.mlflow_store import TAG_CHARACTERS, cut, metric_name

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARAM_CHARACTERS = 500  # of older servers; config.yaml among the artefacts has every value whole
ENTITIES_PER_BATCH = 100
DIGEST_CHARACTERS = 36


def send_params(client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
    """Log parameters; those that the run has keep their value, because MLflow lets none change."""
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    values = {metric_name(key): cut(value, PARAM_CHARACTERS) for key, value in params.items()}
    fresh = [Param(key, value) for key, value in values.items() if key not in known]
    for start in range(0, len(fresh), ENTITIES_PER_BATCH):
        client.log_batch(run_id, params=fresh[start : start + ENTITIES_PER_BATCH])


def send_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags, over earlier values."""
    from mlflow.entities import RunTag

    values = [RunTag(metric_name(key), cut(value, TAG_CHARACTERS)) for key, value in tags.items()]
    for start in range(0, len(values), ENTITIES_PER_BATCH):
        client.log_batch(run_id, tags=values[start : start + ENTITIES_PER_BATCH])


def send_dataset(client: MlflowClient, run_id: str, told: Mapping[str, Any]) -> None:
    """Log a dataset input: name, digest, num_rows, source, context. MLflow keeps 36 characters of the digest."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=told["name"][:500],
        digest=told["digest"][:DIGEST_CHARACTERS],
        source_type="local",
        source=json.dumps({"uri": told["source"]}),
        profile=json.dumps({"num_rows": told["num_rows"]}),
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", told["context"])])])
