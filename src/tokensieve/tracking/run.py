"""The tracker of one run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from tokensieve.errors import CacheError
from tokensieve.tracking.mlflow_run import MlflowRun, Operation
from tokensieve.tracking.mlflow_store import TAG_CHARACTERS, cut, metric_name, upload

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARAM_CHARACTERS = 500  # of older servers; config.yaml among the artefacts has every value whole
ENTITIES_PER_BATCH = 100
DIGEST_CHARACTERS = 36


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted keys and text values, as YAML would spell them.

    >>> flatten({"stm": {"threshold": 2.5, "scorer": None}, "eval": {"tasks": ["a", "b"]}})
    {'stm.threshold': '2.5', 'stm.scorer': 'null', 'eval.tasks': '["a", "b"]'}
    """
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = (
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            )
    return flat


class Tracker:
    """Context of one run: `metrics.jsonl` in `run_dir`, and an MLflow run when `uri` is given.

    Leaving the block ends the run: FINISHED, KILLED after KeyboardInterrupt or SystemExit, else FAILED. Nothing that
    MLflow does raises here. Entering again on the same `run_dir` continues the file and the MLflow run. A resumed
    fit repeats the steps since its checkpoint: of two lines with one step, the later one counts.

    Args:
        uri: MLflow tracking URI (`default_uri(output_dir)`), or None for the local record alone.
        parent_run_id: what `open_sweep` returned; nests the run under the sweep.
        drain_seconds: how long the end of the run may wait for MLflow to take the rest.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        name: str,
        uri: str | None = None,
        experiment: str = "tokensieve",
        parent_run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        drain_seconds: float = 60.0,
    ) -> None:
        self.run_dir = run_dir
        self._drain_seconds = drain_seconds
        self._file: TextIO | None = None
        self._remote: MlflowRun | None = None
        if uri is not None:
            nested = {} if parent_run_id is None else {"mlflow.parentRunId": parent_run_id}
            self._remote = MlflowRun(
                run_dir, name=name, uri=uri, experiment=experiment, tags={**(tags or {}), **nested}
            )

    def __enter__(self) -> Self:
        path = self._path
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            torn = path.is_file() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
            # Line-buffered: a killed run keeps every step but the one that was being written.
            self._file = path.open("a", buffering=1, encoding="utf-8")
            if torn:
                self._file.write("\n")
        except OSError as error:
            raise self._unwritable(error) from error
        if self._remote is not None:
            self._remote.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        killed = kind is not None and issubclass(kind, (KeyboardInterrupt, SystemExit))
        self.finish("FINISHED" if kind is None else "KILLED" if killed else "FAILED")

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record `values` (`phase/quantity` -> number) at optimiser step `step`; NaN is kept, as null in the file."""
        if self._file is None:
            raise RuntimeError("log_metrics outside of the tracker's block")
        now = time.time()
        numbers = {key: float(value) for key, value in values.items()}
        finite = {key: value if math.isfinite(value) else None for key, value in numbers.items()}
        try:
            self._file.write(json.dumps({"step": step, "time": round(now, 3), **finite}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise self._unwritable(error) from error
        if self._remote is not None:
            for key, value in numbers.items():
                self._remote.add((key, value, now, step))

    def log_params(self, config: Mapping[str, Any]) -> None:
        """Log the resolved config, flattened; over 500 characters are cut. A resumed run keeps the first ones."""
        values = {metric_name(key): cut(value, PARAM_CHARACTERS) for key, value in flatten(config).items()}

        def send(client: MlflowClient, run_id: str) -> None:
            from mlflow.entities import Param

            known = client.get_run(run_id).data.params
            fresh = [Param(key, value) for key, value in values.items() if key not in known]
            for start in range(0, len(fresh), ENTITIES_PER_BATCH):
                client.log_batch(run_id, params=fresh[start : start + ENTITIES_PER_BATCH])

        self._submit(send)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags (git commit, `version.<package>`, `stamp.<stage>`); values over 5000 characters are cut."""
        values = [(metric_name(key), cut(str(value), TAG_CHARACTERS)) for key, value in tags.items()]

        def send(client: MlflowClient, run_id: str) -> None:
            from mlflow.entities import RunTag

            for start in range(0, len(values), ENTITIES_PER_BATCH):
                client.log_batch(run_id, tags=[RunTag(*pair) for pair in values[start : start + ENTITIES_PER_BATCH]])

        self._submit(send)

    def log_dataset(self, name: str, digest: str, num_rows: int, source: str, context: str = "training") -> None:
        """Log a dataset input. MLflow keeps 36 characters of the digest; the whole one belongs into a stamp tag."""

        def send(client: MlflowClient, run_id: str) -> None:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            dataset = Dataset(
                name=name[:500],
                digest=digest[:DIGEST_CHARACTERS],
                source_type="local",
                source=json.dumps({"uri": source}),
                profile=json.dumps({"num_rows": num_rows}),
            )
            client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

        self._submit(send)

    def log_artifact(self, path: Path) -> None:
        """Upload a file, or a folder under its own name; it must stay unchanged until the run ends."""
        self._submit(lambda client, run_id: upload(client, run_id, path))

    def finish(self, status: str) -> None:
        """End the run: FINISHED, FAILED or KILLED. The first call counts."""
        if self._file is not None:
            self._file.close()
            self._file = None
            if self._remote is not None:
                self._remote.close(status, self._drain_seconds)

    @property
    def _path(self) -> Path:
        return self.run_dir / "metrics.jsonl"

    def _unwritable(self, error: OSError) -> CacheError:
        remedy = "free disk space or set output_dir, then run again"
        return CacheError(str(self._path), "must be writable", received=error.strerror, remedy=remedy)

    def _submit(self, operation: Operation) -> None:
        if self._remote is not None:
            self._remote.submit(operation)


def read_metrics(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Curves of a run: key -> (step, value) by step. Of a step that was logged twice, the later value counts."""
    curves: dict[str, dict[int, float]] = {}
    path = run_dir / "metrics.jsonl"
    lines: Sequence[str] = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ()
    for line in lines:
        try:
            record = json.loads(line)
            step = int(record["step"])
        except (ValueError, KeyError, TypeError):
            continue  # the line during which the process was killed
        for key, value in record.items():
            if key not in ("step", "time"):
                curves.setdefault(key, {})[step] = math.nan if value is None else float(value)
    return {key: sorted(points.items()) for key, points in curves.items()}
