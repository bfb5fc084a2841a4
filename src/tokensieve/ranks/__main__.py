"""One rank of a job's torchrun group: `python -m tokensieve.ranks ORDER.json`. It fits, and does nothing else."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from pathlib import Path

import psutil

from tokensieve.ranks.order import EventLog, FitOrder, write_error
from tokensieve.ranks.work import fit_order

_WATCH_SECONDS = 1.0


def main(path: Path) -> int:
    """Returns 0; a process that failed exits with 1 and leaves its error to the one that started it."""
    order, rank, parent = FitOrder.read(path), int(os.environ["RANK"]), os.getppid()
    threading.Thread(target=_die_with, args=(parent, order.owner), name="owner watch", daemon=True).start()
    events = EventLog(Path(order.reports), rank)
    logger = logging.getLogger("tokensieve")
    logger.setLevel(logging.INFO)
    logger.addHandler(events)
    try:
        fit_order(order, events.metrics)
    except BaseException as error:  # also torch's CheckpointException
        traceback.print_exc()
        write_error(Path(order.reports), rank, error)
        sys.stderr.flush()
        os._exit(1)  # an orderly end would wait for ranks that wait for this one
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
    return 0


def _die_with(parent: int, owner: int) -> None:
    """End this process when torchrun or the job is gone: nobody would stop it, or read its result."""
    while os.getppid() == parent and _is_running(owner):
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def _is_running(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
