"""Everything that a job will import: once by the fork server, so that no job pays for it again; or at once by a run.

Imports only: a thread pool or an accelerator that is used before a fork is broken after it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
import warnings
from collections.abc import Iterator

from tokensieve.sweep.fork_server import FORK_SERVER

# What cannot be imported here fails in the job that needs it, with a traceback in that job's log.
MODULES = (
    "torch",
    "transformers",
    "peft",
    "lightning.pytorch",
    "datasets",
    "pandas",
    "scipy.stats",
    "jinja2",
    "tokensieve.pipeline",
    "tokensieve.model",
    "tokensieve.dataset",
    "tokensieve.tokenise",
    "tokensieve.score",
    "tokensieve.mask",
    "tokensieve.loader",
    "tokensieve.module",
    "tokensieve.trainer",
    "tokensieve.generate",
    "tokensieve.evaluate",
    "tokensieve.inspection",
    "tokensieve.tracking",
)


def preload(*, tracks: bool = True) -> None:
    """Import `MODULES`, silently: what a library says at import belongs to no job's log, nor on the terminal.

    `tracks`: MLflow, too.
    """
    gc.disable()  # imports leave hardly any garbage, and looking for it took 1.1 of their 6.9 seconds
    with warnings.catch_warnings(), _silent():
        warnings.simplefilter("ignore")
        for name in MODULES:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        if tracks:
            with contextlib.suppress(Exception):
                from tokensieve import tracking

                tracking.preload()
    gc.freeze()  # a collection would otherwise go through all of it, and in a job copy every page that it shares
    gc.enable()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Descriptors 1 and 2 on the null device, because some libraries print from C or keep their own streams."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    kept = []
    for number in (1, 2):
        with contextlib.suppress(OSError):  # one that was closed stays closed
            kept.append((number, os.dup(number)))
    try:
        for number, _ in kept:
            os.dup2(nothing, number)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)
        os.close(nothing)


if os.environ.get(FORK_SERVER) == "1":  # not where a tool imports every module
    preload()
