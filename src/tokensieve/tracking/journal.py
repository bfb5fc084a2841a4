"""What a run told its tracker beside metrics: `tracked.jsonl` in its folder, whether or not a store took it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokensieve.write_faults import cannot_write

JOURNAL_FILE = "tracked.jsonl"


@dataclass(slots=True)
class Told:
    """All that a run told, in the words of the last time: parameters, tags, datasets, artefacts."""

    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)  # digest -> name, num_rows, source, context
    artefacts: dict[Path, None] = field(default_factory=dict)


def note(run_dir: Path, kind: str, value: Mapping[str, Any] | str) -> None:
    """Append one line; a resumed run says many things again.

    Raises:
        CacheError: the folder cannot be written.
    """
    path = run_dir / JOURNAL_FILE
    try:
        # A line of its own each time: what a killed process left of its last one ends here.
        with path.open("a", encoding="utf-8") as stream:
            stream.write(("\n" if _is_torn(path) else "") + json.dumps({kind: value}, ensure_ascii=False) + "\n")
    except OSError as error:
        raise cannot_write(path, error.strerror or str(error)) from error


def read_told(run_dir: Path) -> Told:
    """Everything that was told, also by earlier sessions of the run. Parameters keep their first value, as in MLflow.

    Artefacts are listed where they still exist, in the order in which they were told first.
    """
    told = Told()
    for line in _lines(run_dir / JOURNAL_FILE):
        for kind, value in line.items():
            if kind == "params":
                told.params = {**value, **told.params}
            elif kind == "tags":
                told.tags |= value
            elif kind == "dataset":
                told.datasets[value["digest"]] = value
            elif kind == "artefact":
                path = run_dir / value
                if path.exists():
                    told.artefacts[path] = None
    return told


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.split("\n"):  # not splitlines(), for which a U+2028 in a value ends a line, too
        try:
            values = json.loads(line)
        except ValueError:
            continue  # the line during which the process was killed
        if isinstance(values, dict):
            yield values


def _is_torn(path: Path) -> bool:
    if not path.stat().st_size:
        return False
    with path.open("rb") as stream:
        stream.seek(-1, 2)
        return stream.read(1) != b"\n"
