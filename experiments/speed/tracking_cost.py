"""What tracking takes of a run that steps every 10 ms: MLflow's SQLite store and the local record, against neither.

    python experiments/speed/tracking_cost.py [--quick] [--out FILE]

The step is a sleep, so that whatever processor time the process uses is the tracker's, its background thread included.
Windows of 10 s of steps with and without `log_metrics` take turns within one run. What a window has left to send is
sent in the quiet time behind it, which is part of the measurement: no window pays for another. The store must hold the
last value in the end.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from timing import VoidRatio, pin, read_options, summarise, write_result

from tokensieve.tracking.mlflow_run import FLUSH_SECONDS

STEP_SECONDS, STEPS = 0.01, 1000
QUIET_SECONDS = FLUSH_SECONDS + 0.5  # the tracker sends once in it
TARGET = 0.01
WAIT_SECONDS = 60
KEYS = ("train/nll", "train/lr", "train/grad_norm", "train/tokens_per_second")


def run_window(tracker: Any, first_step: int) -> float:
    """Processor seconds of `STEPS` steps, logged if there is a tracker, and of the quiet time, by the steps' own."""
    start, start_cpu = time.perf_counter(), time.process_time()
    for step in range(first_step, first_step + STEPS):
        time.sleep(STEP_SECONDS)
        if tracker is not None:
            tracker.log_metrics(dict.fromkeys(KEYS, float(step)), step)
    seconds = time.perf_counter() - start
    time.sleep(QUIET_SECONDS)
    return (time.process_time() - start_cpu) / seconds


def await_first_value(run: Path, uri: str) -> None:
    """Return when the store is made, the run opened and its first value in it, which takes seconds of its own."""
    from mlflow import MlflowClient

    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        time.sleep(1.0)
        if (run / "mlflow_run_id").is_file():
            known = MlflowClient(uri).get_run((run / "mlflow_run_id").read_text().strip())
            if KEYS[0] in known.data.metrics:
                return
    raise VoidRatio(f"the store did not take a value within {WAIT_SECONDS} s")


def measure(repeats: int) -> dict[str, Any]:
    from mlflow import MlflowClient

    from tokensieve.tracking import Tracker, default_uri

    with tempfile.TemporaryDirectory() as folder:
        uri = default_uri(folder)
        with Tracker(Path(folder) / "run", name="bench", uri=uri) as tracker:
            tracker.log_metrics(dict.fromkeys(KEYS, 0.0), 0)
            await_first_value(Path(folder) / "run", uri)
            run_window(tracker, 1)  # in which a run may send a burst
            logged, idle = [], []
            for number in range(1, repeats + 1):
                logged.append(run_window(tracker, number * STEPS + 1))
                idle.append(run_window(None, 0))
        run_id = (Path(folder) / "run" / "mlflow_run_id").read_text().strip()
        stored = MlflowClient(uri).get_run(run_id).data.metrics["train/nll"]
        if stored != (repeats + 1) * STEPS:
            raise VoidRatio(f"the store's last value is {stored}, not {(repeats + 1) * STEPS}: the share is void")
    shares = [with_tracker - without for with_tracker, without in zip(logged, idle, strict=True)]
    return {"share_of_step": summarise(shares)}


def main() -> None:
    options = read_options(__doc__)
    pin(options.threads)
    try:
        row = measure(options.repeats)
    except VoidRatio as error:
        row = {"void": str(error)}
    write_result({"work": "tracking", "threads": options.threads, "rows": [row]}, options.out)


if __name__ == "__main__":
    main()
