"""A run's folder: status.json at every change of stage, per-item outputs, files written whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokensieve.errors import CacheError, TokensieveError, TrialPruned
from tokensieve.records import EvalResult
from tokensieve.store import Artefact
from tokensieve.write_faults import cannot_write, output_refused, write_fault

log = logging.getLogger(__name__)


@dataclass(slots=True)
class RunFolder:
    """The status and the clock of one run. `build` makes an artefact under a stage's name and times it."""

    folder: Path
    job: str
    name: str
    stage: str = "start"
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory: dict[str, int] = field(default_factory=dict)
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    artefacts: dict[str, str] = field(default_factory=dict)  # stage -> kind/digest of what was asked of the cache

    def write_status(self, status: str, error: BaseException | None = None) -> None:
        fault = None
        if error is not None:
            text = "".join(traceback.format_exception(error))
            fault = {"type": type(error).__name__, "message": str(error), "traceback": text}
        ended = datetime.now(UTC).isoformat() if status != "RUNNING" else None
        values = {
            "status": status,
            "job_id": self.job,
            "name": self.name,
            "stage": self.stage,
            "error": fault,
            "started": self.started,
            "ended": ended,
            "artefacts": self.artefacts,
        }
        write_atomically(self.folder / "status.json", json.dumps(values, indent=1))

    def write_end(self, error: BaseException) -> None:
        """The status of a run that `error` ended: KILLED, PRUNED, or FAILED with the error.

        Raises:
            CacheError: in place of an error that says in a library's words that nothing can be written.
        """
        if isinstance(error, KeyboardInterrupt):
            status, fault = "KILLED", None
        else:
            status, fault = "PRUNED" if isinstance(error, TrialPruned) else "FAILED", error
        try:
            self.write_status(status, fault)
        except CacheError as unwritten:  # what ended the run matters more than that it is not recorded
            log.warning("%s", unwritten)
        if isinstance(error, Exception) and not isinstance(error, TokensieveError):
            reason = write_fault(error, self.folder)
            if reason is not None:
                raise cannot_write(self.folder, reason) from error

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        self.stage = stage
        self.write_status("RUNNING")
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
            self.peak_memory[stage] = _peak_memory_bytes()

    def build(self, stage: str, artefact: Artefact[Any]) -> Any:
        self.artefacts[stage] = f"{artefact.stamp.stage}/{artefact.digest}"
        with self.timed(stage):
            value = artefact.get()
        log.info("%s %s (%.1f s)", stage, "built" if artefact.built_here else "cached", self.seconds[stage])
        return value


def check_writable(folder: Path) -> None:
    """Raise CacheError unless `folder` exists, or can be made, and can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}-{threading.get_ident()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise output_refused(folder, error) from error


def write_outputs(folder: Path, evals: Sequence[EvalResult]) -> None:
    """Per item: `id`, `score` and `output` (the generated text), one Arrow file a task: `pyarrow.feather` reads it.

    Raises:
        CacheError: it cannot be written.
    """
    import pyarrow as pa
    from pyarrow import feather

    folder.mkdir(exist_ok=True)
    for result in evals:
        texts = [text.encode("utf-8", "replace").decode() for text in result.outputs or [""] * result.num_items]
        columns = {"id": pa.array(result.item_ids, pa.string()), "score": pa.array(result.item_scores, pa.float64())}
        path = folder / f"{result.task}.arrow"
        aside = path.with_name(f"{path.name}.partial")
        try:
            feather.write_feather(pa.table(columns | {"output": pa.array(texts, pa.string())}), str(aside))
            os.replace(aside, path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise cannot_write(path, error.strerror or str(error)) from error


def write_atomically(path: Path, text: str) -> None:
    """Write aside, flush to disk, rename: a reader sees the old text or the new one.

    Raises:
        CacheError: nothing can be written there; the old text stays.
    """
    aside = path.with_name(f"{path.name}.partial")
    try:
        with aside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise cannot_write(path, error.strerror or str(error)) from error


def link_tree(source: Path, target: Path) -> None:
    """Put cached weights into the run's folder: hard links where the file system has them, else copies."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=link_file)


def link_file(source: Path | str, target: Path | str) -> None:
    """Make `target` the cached file `source`, as `link_tree` does; what was there is replaced.

    Raises:
        CacheError: nothing can be written there.
    """
    target = Path(target)
    try:
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
    except OSError as error:
        raise cannot_write(target, error.strerror or str(error)) from error


def _peak_memory_bytes() -> int:
    """Peak of the process so far: of the accelerator where one is in use, else resident memory."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
