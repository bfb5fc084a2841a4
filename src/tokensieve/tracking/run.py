"""The tracker of one run."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from tokensieve.errors import CacheError, TrialPruned
from tokensieve.tracking.entries import send_dataset, send_params, send_tags
from tokensieve.tracking.journal import note
from tokensieve.tracking.mlflow_run import MlflowRun, Operation
from tokensieve.tracking.mlflow_store import PARENT_TAG, upload
from tokensieve.tracking.replay import METRICS_FILE, read_points

if TYPE_CHECKING:
    from mlflow import MlflowClient


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
    """Context of one run: `metrics.jsonl` and `tracked.jsonl` in `run_dir`, and an MLflow run when `uri` is given.

    Leaving the block ends the run: FINISHED, KILLED after KeyboardInterrupt or SystemExit, or for a
    pruned trial, else FAILED. Nothing that
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
        self._told_early = dict(tags or {})
        self._file: TextIO | None = None
        self._remote: MlflowRun | None = None
        if uri is not None:
            nested = {} if parent_run_id is None else {PARENT_TAG: parent_run_id}
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
        if self._told_early:
            note(self.run_dir, "tags", self._told_early)
        if self._remote is not None:
            self._remote.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # MLflow knows no state of its own for a pruned trial; Optuna's users find it as KILLED.
        killed = kind is not None and issubclass(kind, (KeyboardInterrupt, SystemExit, TrialPruned))
        if isinstance(error, TrialPruned):
            self.set_tags({"state": "PRUNED", "pruned": str(error)})
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
        params = flatten(config)
        note(self.run_dir, "params", params)
        self._submit(lambda client, run_id: send_params(client, run_id, params))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags (git commit, `version.<package>`, `stamp.<stage>`); values over 5000 characters are cut."""
        texts = {key: str(value) for key, value in tags.items()}
        note(self.run_dir, "tags", texts)
        self._submit(lambda client, run_id: send_tags(client, run_id, texts))

    def log_dataset(self, name: str, digest: str, num_rows: int, source: str, context: str = "training") -> None:
        """Log a dataset input. MLflow keeps 36 characters of the digest; the whole one belongs into a stamp tag."""
        told = {"name": name, "digest": digest, "num_rows": num_rows, "source": source, "context": context}
        note(self.run_dir, "dataset", told)
        self._submit(lambda client, run_id: send_dataset(client, run_id, told))

    def log_artifact(self, path: Path) -> None:
        """Upload a file, or a folder under its own name; it must stay unchanged until the run ends."""
        inside = path.is_relative_to(self.run_dir)
        note(self.run_dir, "artefact", str(path.relative_to(self.run_dir) if inside else path.absolute()))

        def send(client: MlflowClient, run_id: str) -> None:
            upload(client, run_id, path)
            assert self._remote is not None
            self._remote.note_upload(path)

        self._submit(send)

    def finish(self, status: str) -> None:
        """End the run: FINISHED, FAILED or KILLED. The first call counts."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # of a line that a full disk did not take: that was raised then
                self._file.close()
            self._file = None
            if self._remote is not None:
                self._remote.close(status, self._drain_seconds)

    @property
    def _path(self) -> Path:
        return self.run_dir / METRICS_FILE

    def _unwritable(self, error: OSError) -> CacheError:
        remedy = "free disk space or set output_dir, then run again"
        return CacheError(str(self._path), "must be writable", received=error.strerror, remedy=remedy)

    def _submit(self, operation: Operation) -> None:
        if self._remote is not None:
            self._remote.submit(operation)


def read_metrics(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Curves of a run: key -> (step, value) by step. Of a step that was logged twice, the later value counts."""
    curves = read_points(run_dir)
    return {key: sorted((step, value) for step, (value, _) in points.items()) for key, points in curves.items()}
