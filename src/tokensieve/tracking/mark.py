"""How much of a record each store has: `tracking.json` in the folder of a run or a sweep."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

MARK_FILE = "tracking.json"


@dataclass(slots=True)
class StoreMark:
    """What the store at `uri` has of one folder's record.

    `record` names the record in the store before `run_id` is known here, so that a run that was created just before
    its process died is found again. `uploaded`: artefact -> signature of what was sent.
    """

    folder: Path
    uri: str
    experiment: str
    record: str = field(default_factory=lambda: uuid.uuid4().hex)
    run_id: str | None = None
    parent_run_id: str | None = None
    is_complete: bool = False
    uploaded: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, uri: str, experiment: str) -> StoreMark | None:
        """The mark that an earlier session left, or None."""
        entry = _read_all(folder).get(_key(uri, experiment))
        if not isinstance(entry, dict):
            return None
        known = {item.name for item in fields(cls)} - {"folder", "uri", "experiment"}
        try:
            return cls(folder, uri, experiment, **{key: value for key, value in entry.items() if key in known})
        except TypeError:
            return None

    def save(self) -> None:
        """Write the mark beside those of other stores. A folder that cannot be written costs the mark alone."""
        values = asdict(self)
        for key in ("folder", "uri", "experiment"):
            values.pop(key)
        marks = _read_all(self.folder) | {_key(self.uri, self.experiment): values}
        path = self.folder / MARK_FILE
        aside = path.with_name(f"{path.name}.partial")
        with contextlib.suppress(OSError):
            aside.write_text(json.dumps(marks, indent=1), encoding="utf-8")
            os.replace(aside, path)

    def has(self, path: Path) -> bool:
        """Whether a file or folder was sent as it is now."""
        return self.uploaded.get(str(path)) == signature(path)

    def note_upload(self, path: Path) -> None:
        self.uploaded[str(path)] = signature(path)
        self.save()


def _key(uri: str, experiment: str) -> str:
    return f"{uri}#{experiment}"


def _read_all(folder: Path) -> dict[str, Mapping[str, object]]:
    try:
        values = json.loads((folder / MARK_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def signature(path: Path) -> str:
    """Sizes and times of a file, or of all files of a folder: changes when they are written again."""
    files = sorted(entry for entry in path.rglob("*") if entry.is_file()) if path.is_dir() else [path]
    with contextlib.suppress(OSError):
        return ";".join(f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files)
    return ""
