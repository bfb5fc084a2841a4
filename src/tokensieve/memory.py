"""What happens when a pass does not fit into memory: how many rows the next attempt takes, or the error."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence

import torch

from tokensieve.errors import TrainingError

log = logging.getLogger(__name__)


class StepOutOfMemory(TrainingError):
    """A micro-batch of a sharded fit that does not fit into memory. `rows` is its size: a smaller one may."""

    rows: int = 0


def lower_limit(passes: Sequence[tuple[int, int]], error: torch.OutOfMemoryError, step: int, *, sharded: bool) -> int:
    """Examples of the passes with which step `step` is tried again, that failed with `passes`.

    Of each, `passes` has its examples and the tokens of the longest.

    Raises:
        StepOutOfMemory: of a sharded model, whose ranks wait for each other inside the failed pass, so that only a new
        start can make it smaller. TrainingError: a single example does not fit.
    """
    rows = max(examples for examples, _ in passes)
    reason = str(error).split("\n")[0]
    if rows == 1:
        raise TrainingError(
            f"step {step}",
            "a single example must fit into memory",
            received=f"{max(tokens for _, tokens in passes)} tokens: {reason}",
            remedy="set trainer.gradient_checkpointing=true, lower model.max_length, or use trainer=fsdp",
        ) from error
    smaller = (rows + 1) // 2
    if sharded:
        failure = StepOutOfMemory(
            f"step {step}",
            "a micro-batch must fit into memory",
            received=f"{rows} examples: {reason}",
            remedy=f"set trainer.micro_batch_size={smaller}, or lower trainer.batch_tokens where it is set",
        )
        failure.rows = rows
        raise failure from error
    log.warning(
        "step %d does not fit into memory with %d examples a pass: repeated with %d, the same examples and denominator",
        step,
        rows,
        smaller,
    )
    return smaller


def free_memory() -> None:
    """Give back what a failed attempt held. Call it outside the handler, whose traceback still refers to it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
