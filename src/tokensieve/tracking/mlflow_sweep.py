"""The parent run of a sweep, and what a parent does for children that cannot."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tokensieve.tracking.mark import StoreMark, signature
from tokensieve.tracking.mlflow_store import (
    RUN_ID_FILE,
    TAG_CHARACTERS,
    attempt,
    connect,
    cut,
    metric_name,
    open_run,
    upload,
    warn,
)
from tokensieve.tracking.mlflow_view import link_report, publish_view, read_axes


def prepare_store(uri: str, experiment: str = "tokensieve") -> bool:
    """Make the database and the experiment; False, after one warning, where that fails."""
    return attempt(lambda: connect(uri, experiment), lambda error: warn(uri, error))


def open_sweep(
    uri: str,
    name: str,
    *,
    experiment: str = "tokensieve",
    tags: Mapping[str, str] | None = None,
    parent_run_id: str | None = None,
) -> str | None:
    """Start the parent run of a sweep and return its id; reopens `parent_run_id` on resume where the store has it.

    Call before any child starts. None, after one warning, where MLflow fails: children then run without a parent.
    """
    opened: list[str] = []

    def start() -> None:
        client, experiment_id = connect(uri, experiment)
        opened.append(open_run(client, experiment_id, name, tags=tags or {}, run_id=parent_run_id))

    attempt(start, lambda error: warn(uri, error))
    return opened[0] if opened else None


def close_sweep(
    uri: str,
    parent_run_id: str | None,
    status: str,
    *,
    artefacts: Sequence[Path] = (),
    metrics: Mapping[str, float] | None = None,
    note: str | None = None,
    experiment: str = "tokensieve",
    folder: Path | None = None,
) -> None:
    """End the parent run: FINISHED, FAILED or KILLED; `note` (Markdown) is what MLflow shows on its page.

    The note begins with a link to charts of this sweep's runs alone, over the axes that the manifest in `folder` names.
    Does nothing when `parent_run_id` is None. Warns once about what could not be sent. In `folder`, the sweep's, it
    notes whether the store has all of it.
    """
    if parent_run_id is None:
        return
    failures: list[Exception] = []
    attempt(
        lambda: _end(uri, experiment, parent_run_id, status, artefacts, metrics or {}, note, folder, failures),
        failures.append,
    )
    if folder is not None:
        mark = StoreMark.read(folder, uri, experiment) or StoreMark(folder, uri, experiment)
        mark.run_id, mark.is_complete = parent_run_id, not failures
        if not failures:
            mark.uploaded |= {str(path): signature(path) for path in artefacts}
        mark.save()
    if failures:
        warn(uri, failures[0])


def _end(
    uri: str,
    experiment: str,
    run_id: str,
    status: str,
    artefacts: Sequence[Path],
    metrics: Mapping[str, float],
    note: str | None,
    folder: Path | None,
    failures: list[Exception],
) -> None:
    from mlflow.entities import Metric

    client, experiment_id = connect(uri, experiment)
    now = int(time.time() * 1000)
    if metrics:
        rows = [Metric(metric_name(key), value, now, 0) for key, value in metrics.items()]
        attempt(lambda: client.log_batch(run_id, metrics=rows), failures.append)
    for path in artefacts:  # a missing artefact must not leave the run RUNNING
        attempt(partial(upload, client, run_id, path), failures.append)
    addresses = {"Report": link_report(experiment_id, run_id, artefacts)}
    if folder is not None:
        title, axes = "Charts: this sweep in parallel coordinates", read_axes(folder)

        def publish() -> None:
            addresses[title] = publish_view(client, experiment_id, run_id, axes)

        attempt(publish, failures.append)
    if note:
        links = " · ".join(f"[{title}]({address})" for title, address in addresses.items() if address)
        note = f"{links}\n\n{note}" if links else note
        text = cut(note, TAG_CHARACTERS, "\n\n(cut; the report among the artefacts has all of it)")
        attempt(lambda: client.set_tag(run_id, "mlflow.note.content", text), failures.append)
    client.set_terminated(run_id, status)


def end_run(uri: str, run_dir: Path, status: str, *, experiment: str = "tokensieve") -> bool:
    """Set the status of a run whose process died without setting it (killed for memory, power lost).

    False, after one warning, where MLflow fails.
    """
    if status == "PRUNED":  # set by the job itself, in MLflow's terms
        return True
    file = run_dir / RUN_ID_FILE
    return not file.is_file() or attempt(
        lambda: connect(uri, experiment)[0].set_terminated(file.read_text().strip(), status),
        lambda error: warn(uri, error),
    )


def count_incomplete(folder: Path, uri: str, experiment: str = "tokensieve") -> int:
    """Runs of the sweep in `folder` whose whole record the store is not known to have."""
    marks = [StoreMark.read(status.parent, uri, experiment) for status in folder.glob("jobs/*/status.json")]
    return sum(mark is None or not mark.is_complete for mark in marks)
