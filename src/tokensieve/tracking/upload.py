"""Bring the local record of a run, or of a sweep as a whole, into a store after the fact."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.errors import CacheError
from tokensieve.tracking.mark import StoreMark
from tokensieve.tracking.mlflow_store import (
    PARENT_TAG,
    RUN_ID_FILE,
    TAG_CHARACTERS,
    attempt,
    connect,
    cut,
    open_run,
    reason_of,
    upload,
)
from tokensieve.tracking.replay import send_missing

if TYPE_CHECKING:
    from mlflow import MlflowClient

_STATES = {"FINISHED": "FINISHED", "FAILED": "FAILED"}  # any other is KILLED in MLflow's terms


class Uploader:
    """A connection to one store for many records.

    Raises:
        CacheError: the store cannot be reached, or refuses.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri, self.experiment = uri, experiment
        self._client: MlflowClient
        self._experiment_id = ""
        self._checked(self._connect)

    def is_complete(self, folder: Path, parent_run_id: str | None = None) -> bool:
        """Whether the store has the whole record, under this parent."""
        mark = StoreMark.read(folder, self.uri, self.experiment)
        return mark is not None and mark.is_complete and (parent_run_id in (None, mark.parent_run_id))

    def send_run(self, folder: Path, status: Mapping[str, Any], parent_run_id: str | None = None) -> str:
        """Send what the store lacks of a run that is over; its id there. `status`: what status.json says."""
        mark = self._mark(folder, parent_run_id)

        def send() -> None:
            tags = {} if parent_run_id is None else {PARENT_TAG: parent_run_id}
            run_id = self._open(mark, str(status.get("name") or folder.name), tags, status.get("started"))
            send_missing(self._client, run_id, mark)
            self._end(run_id, str(status.get("status")), status.get("ended"))

        self._checked(send)
        return self._settle(mark)

    def send_sweep(self, folder: Path, manifest: Mapping[str, Any], artefacts: Sequence[Path], note: str | None) -> str:
        """Make, or bring up to date, the parent run of a sweep; its id. It ends as the manifest's jobs did."""
        mark = self._mark(folder, None)
        mark.run_id = mark.run_id or manifest.get("mlflow_parent_run_id")

        def send() -> None:
            run_id = self._open(mark, str(manifest.get("name") or folder.name), {}, manifest.get("created"))
            for path in artefacts:
                if path.exists() and not mark.has(path):
                    upload(self._client, run_id, path)
                    mark.note_upload(path)
            if note:
                self._client.set_tag(run_id, "mlflow.note.content", cut(note, TAG_CHARACTERS))
            states = {str(job["state"]) for job in manifest["jobs"]}
            over = states <= {"FINISHED", "SKIPPED", "PRUNED"}
            self._end(run_id, "FINISHED" if over else "FAILED" if "FAILED" in states else "KILLED", None)

        self._checked(send)
        return self._settle(mark)

    def _mark(self, folder: Path, parent_run_id: str | None) -> StoreMark:
        found = StoreMark.read(folder, self.uri, self.experiment)
        mark = found or StoreMark(folder, self.uri, self.experiment)
        if found is None and (folder / RUN_ID_FILE).is_file():  # used where this store has it
            mark.run_id = (folder / RUN_ID_FILE).read_text(encoding="utf-8").strip() or None
        mark.parent_run_id, mark.is_complete = parent_run_id or mark.parent_run_id, False
        mark.save()  # before the store hears of it: the record's name must survive this process
        return mark

    def _open(self, mark: StoreMark, name: str, tags: Mapping[str, str], started: object) -> str:
        mark.run_id = open_run(
            self._client,
            self._experiment_id,
            name,
            tags=tags,
            run_id=mark.run_id,
            record=mark.record,
            may_exist=True,
            start_milliseconds=_milliseconds(started),
        )
        mark.save()
        return mark.run_id

    def _end(self, run_id: str, status: str, ended: object) -> None:
        self._client.set_terminated(run_id, _STATES.get(status, "KILLED"), end_time=_milliseconds(ended))

    def _settle(self, mark: StoreMark) -> str:
        mark.is_complete = True
        mark.save()
        assert mark.run_id is not None
        return mark.run_id

    def _connect(self) -> None:
        self._client, self._experiment_id = connect(self.uri, self.experiment)

    def _checked(self, action: Any) -> None:
        failures: list[Exception] = []
        if not attempt(action, failures.append):
            remedy = "start the server or correct tracking.uri, and run tokensieve sync again: it continues"
            raise CacheError(self.uri, "MLflow must answer", received=reason_of(failures[0]), remedy=remedy)


def _milliseconds(text: object) -> int | None:
    """Unix milliseconds of an ISO 8601 time."""
    try:
        return int(datetime.fromisoformat(str(text)).timestamp() * 1000)
    except ValueError:
        return None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is none, or half of one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
