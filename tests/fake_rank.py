"""A rank that only behaves as its order's digest says: `fake_rank.py ORDER.json`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from tokensieve.errors import TrainingError
from tokensieve.ranks.__main__ import _die_with
from tokensieve.ranks.order import EventLog, FitOrder, write_error


def main(order: FitOrder) -> int:
    rank = int(os.environ["RANK"])
    folder = Path(order.folder)
    (folder / f"pid-{rank}").write_text(str(os.getpid()))
    threading.Thread(target=_die_with, args=(os.getppid(), order.owner), daemon=True).start()
    events = EventLog(Path(order.reports), rank)
    if order.digest == "memory" and rank == 1:
        error = TrainingError("step 4", "loss must be finite", received=order.rows_limit, remedy="lower it")
        if order.rows_limit is None:
            from tokensieve.memory import StepOutOfMemory

            error = StepOutOfMemory("step 3", "a micro-batch must fit into memory", received="8 examples")
            error.rows = 8
        write_error(Path(order.reports), rank, error)
        return 1
    events.metrics({"train/nll": 1.5}, 1)
    if order.digest == "die" and rank == 1:
        print("about to die", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)  # as a rank that waits for another
    return 0


if __name__ == "__main__":
    sys.exit(main(FitOrder.read(Path(sys.argv[1]))))
