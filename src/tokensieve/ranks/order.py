"""What a rank is told to fit, and what it tells back: JSON lines of metrics and log messages, and its error."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tokensieve import errors
from tokensieve.errors import TokensieveError

EVENTS_FILE = "events.jsonl"


@dataclass(frozen=True, slots=True)
class FitOrder:
    """One fit. All inputs are in the cache already. `owner`: the job's process, which ranks outlive by a second
    at most."""

    config: str  # YAML
    cache: str
    folder: str  # where rank 0 writes the result
    checkpoints: str
    digest: str
    reports: str  # folder of events and errors
    owner: int
    rows_limit: int | None = None

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> FitOrder:
        return cls(**json.loads(path.read_text(encoding="utf-8")))


class EventLog(logging.Handler):
    """Appends a rank's metrics and log messages to the events of the group, a line at once."""

    def __init__(self, folder: Path, rank: int) -> None:
        super().__init__(logging.INFO if rank == 0 else logging.WARNING)
        self._rank = rank
        self._target = os.open(folder / EVENTS_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        if self._rank == 0:
            self._append({"step": step, "values": dict(values)})

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        self._append({"level": record.levelno, "message": f"rank {self._rank}: {message}" if self._rank else message})

    def _append(self, event: Mapping[str, object]) -> None:
        os.write(self._target, (json.dumps(event) + "\n").encode())


class EventReader:
    """Reads the complete lines that are new since the last call."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / EVENTS_FILE
        self._read = 0

    def new(self) -> Iterator[dict[str, object]]:
        if not self._path.is_file():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._read)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                yield json.loads(line)


@dataclass(frozen=True, slots=True)
class RankError:
    """The error of one rank. `error` None: not one of ours, and `text` is its one line. `rows`: see StepOutOfMemory."""

    rank: int
    error: TokensieveError | None
    text: str
    rows: int | None


def write_error(folder: Path, rank: int, error: BaseException) -> None:
    """Leave `error` for the process that started the ranks."""
    values: dict[str, object] = {"type": None, "text": f"{type(error).__name__}: {error}".split("\n")[0][:500]}
    if isinstance(error, TokensieveError):
        values["type"], values["rows"] = type(error).__name__, getattr(error, "rows", None)
        values["arguments"] = [error.subject, error.rule, _plain(error.received), error.remedy]
    aside = folder / f"error-{rank}.partial"
    aside.write_text(json.dumps(values), encoding="utf-8")
    os.replace(aside, folder / f"error-{rank}.json")


def _plain(received: object) -> object:
    return received if received is None or isinstance(received, (str, int, float)) else str(received)


def read_error(folder: Path) -> RankError | None:
    """The first error that a rank left: a rank fails in turn when another is gone, and leaves a later one."""
    files = sorted(folder.glob("error-*.json"), key=lambda path: path.stat().st_mtime_ns)
    if not files:
        return None
    rank = int(files[0].stem.removeprefix("error-"))
    values = json.loads(files[0].read_text(encoding="utf-8"))
    if values["type"] is None:
        return RankError(rank, None, values["text"], None)
    subject, rule, received, remedy = values["arguments"]
    kind = getattr(errors, values["type"], errors.TrainingError)
    error = kind(subject, rule, received=received, remedy=remedy)
    return RankError(rank, error, values["text"], values["rows"])
