"""One MLflow run, fed by a background thread: the training loop never waits for it."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tokensieve.tracking.mark import StoreMark
from tokensieve.tracking.mlflow_store import (
    PARENT_TAG,
    RUN_ID_FILE,
    SQLITE,
    attempt,
    connect,
    metric_name,
    open_run,
    preload,
    warn,
)
from tokensieve.tracking.replay import METRICS_PER_BATCH, send_missing

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

MetricRow = tuple[str, float, float, int]  # key, value, unix seconds, step
Operation = Callable[["MlflowClient", str], object]  # gets the client and the run's id

# Sending costs about 7 ms of Python, and 0.1 ms for each value. So that it stays below 1 % of a run that steps every
# 10 ms, a key sends some points at once and five a second after them. What comes faster waits, for quiet moments or the
# end of the run, so that a short run, or the replay of a curve, arrives whole. metrics.jsonl has every step.
FLUSH_SECONDS = 5.0
POINTS_AT_ONCE = 5.0
POINTS_PER_SECOND = 5.0
WAITING_POINTS = 500  # of each key
WAITING_PER_FLUSH = 20  # of all keys
MAX_FAILURES = 3
SILENT_SECONDS = 15.0  # for a server that has not answered once by the end of a run


def _entities(rows: Sequence[MetricRow]) -> list[Metric]:
    from mlflow.entities import Metric

    return [Metric(metric_name(key), value, int(seconds * 1000), step) for key, value, seconds, step in rows]


def _send(rows: Sequence[MetricRow], client: MlflowClient, run_id: str) -> None:
    client.log_batch(run_id, metrics=_entities(rows))


class MlflowRun:
    """Runs every operation, in order, on its own thread; gives up after `MAX_FAILURES` failures in a row.

    The id is kept in `run_dir/mlflow_run_id`, so that a resumed job continues its run. At the end, what the store
    lacks of the local record (it failed, or an earlier session was killed) is sent once more; `tracking.json` says
    whether the store has all of it.
    """

    def __init__(self, run_dir: Path, *, name: str, uri: str, experiment: str, tags: Mapping[str, str]) -> None:
        self.uri = uri
        self._run_dir, self._name, self._experiment, self._tags = run_dir, name, experiment, tags
        self._queue: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
        self._credit: dict[str, tuple[float, float]] = {}  # key -> (points it may send, at this time)
        self._held_back: dict[str, MetricRow] = {}
        self._num_waiting: Counter[str] = Counter()  # key -> points that were ever put into `_waiting`
        self._waiting: deque[MetricRow] = deque()
        self._rows: deque[MetricRow] = deque()
        self._pending: list[MetricRow] = []
        found = StoreMark.read(run_dir, uri, experiment)
        self._mark = found or StoreMark(run_dir, uri, experiment)
        # What an earlier session left unsent: it was killed, or the store failed it.
        self._is_resumed, self._has_gaps = found is not None, found is not None and not found.is_complete
        self._failures, self._warned = 0, False
        self._status = "FAILED"
        self._client: MlflowClient | None = None
        self._run_id: str | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def start(self) -> None:
        self._mark.is_complete, self._mark.parent_run_id = False, self._tags.get(PARENT_TAG)
        self._mark.save()
        # Imports belong to the calling thread: two threads importing at once can see half-made modules.
        attempt(lambda: preload(self.uri), self._fail)
        self._thread.start()

    def submit(self, operation: Operation) -> None:
        self._queue.put(operation)

    def note_upload(self, path: Path) -> None:
        """Called on the thread, after an artefact was sent."""
        self._mark.note_upload(path)

    def add(self, row: MetricRow) -> None:
        """Queue one value, thinned where values come too fast; the first ones and the last always arrive."""
        key, seconds = row[0], time.monotonic()  # not the row's own time: the system's clock may jump
        credit, since = self._credit.get(key, (POINTS_AT_ONCE, seconds))
        credit = min(POINTS_AT_ONCE, credit + (seconds - since) * POINTS_PER_SECOND)
        is_sent = credit >= 1
        self._credit[key] = credit - is_sent, seconds
        if is_sent:
            self._rows.append(row)  # not the queue: that would wake the thread at every step
        elif self._num_waiting[key] < WAITING_POINTS:
            self._num_waiting[key] += 1
            self._waiting.append(row)
        else:
            self._held_back[key] = row
            return
        self._held_back.pop(key, None)

    def close(self, status: str, timeout: float) -> None:
        """Send the rest and end the run; leaves it to itself after `timeout` seconds, sooner if it never answered."""
        self._status = status
        self._move(self._waiting, self._rows, WAITING_POINTS * len(self._num_waiting))
        self._rows.extend(self._held_back.values())
        self._queue.put(None)
        is_file = self.uri.startswith(SQLITE)  # which answers, once its tables are made
        limit = timeout if is_file else min(timeout, SILENT_SECONDS)
        self._thread.join(limit)
        if self._client is not None:
            self._thread.join(timeout - limit)
            limit = timeout
        if self._thread.is_alive():
            self._fail(TimeoutError(f"not done {limit:g} s after the run ended"))

    def _work(self) -> None:
        next_flush = time.monotonic() + FLUSH_SECONDS
        self._note_gap(self._attempt(self._open))
        while True:
            try:
                item = self._queue.get(timeout=max(0.0, next_flush - time.monotonic()))
            except queue.Empty:
                self._flush()
                next_flush = time.monotonic() + FLUSH_SECONDS
                continue
            if item is None:
                break
            self._note_gap(self._operate(item))
        self._flush()
        while self._pending and self._client is not None and self._failures < MAX_FAILURES:
            self._flush()
        self._failures = min(self._failures, MAX_FAILURES - 1)  # a last word, even to a store that failed before
        if self._has_gaps or self._pending:
            self._has_gaps = not self._fill_gaps()
            self._failures = min(self._failures, MAX_FAILURES - 1)
        ended = self._operate(lambda client, run_id: client.set_terminated(run_id, self._status))
        self._mark.is_complete = ended and not self._has_gaps
        self._mark.save()

    def _note_gap(self, worked: bool) -> None:
        self._has_gaps = self._has_gaps or not worked

    def _fill_gaps(self) -> bool:
        if self._client is None and not self._attempt(self._open):
            return False
        return self._operate(lambda client, run_id: send_missing(client, run_id, self._mark))

    def _open(self) -> None:
        client, experiment_id = connect(self.uri, self._experiment)
        file = self._run_dir / RUN_ID_FILE
        known = file.read_text().strip() if file.is_file() else None
        self._run_id = self._mark.run_id = open_run(
            client,
            experiment_id,
            self._name,
            tags=self._tags,
            run_id=self._mark.run_id or known or None,
            record=self._mark.record,
            may_exist=self._is_resumed,
        )
        self._client = client
        self._mark.save()
        file.write_text(self._run_id + "\n")

    def _flush(self) -> None:
        self._move(self._rows, self._pending, len(self._rows))
        self._move(self._waiting, self._pending, WAITING_PER_FLUSH)
        while self._pending and self._failures < MAX_FAILURES:
            rows = self._pending[:METRICS_PER_BATCH]
            if not self._operate(partial(_send, rows)):
                return  # kept for the next interval
            del self._pending[: len(rows)]

    @staticmethod
    def _move(source: deque[MetricRow], target: deque[MetricRow] | list[MetricRow], most: int) -> None:
        for _ in range(most):
            try:
                target.append(source.popleft())
            except IndexError:  # empty, or emptied by the other thread
                return

    def _operate(self, operation: Operation) -> bool:
        client, run_id = self._client, self._run_id
        if client is None or run_id is None or self._failures >= MAX_FAILURES:
            return False
        return self._attempt(lambda: operation(client, run_id))

    def _attempt(self, action: Callable[[], object]) -> bool:
        worked = attempt(action, self._fail)
        if worked:
            self._failures = 0
        return worked

    def _fail(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            keeps = f"the run goes on, and {self._run_dir} holds its whole record, which `tokensieve sync` sends"
            warn(self.uri, error, keeps)
        self._failures += 1
