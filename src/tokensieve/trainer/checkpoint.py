"""Where an interrupted fit goes on: a file, or for sharded state a folder, that is complete or absent."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tokensieve.collectives import rank

LAST_CHECKPOINT = "last.ckpt"
_META_FILE = "meta.pt"  # Lightning's name for what is not sharded
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """A checkpoint of the same fit, and the optimiser steps that it has behind it."""

    path: str
    step: int


def find_checkpoint(checkpoint: Path, fit_digest: str) -> ResumePoint | None:
    """The checkpoint to continue; None when there is none of this fit. One of another fit is removed."""
    previous = _previous(checkpoint)
    if not checkpoint.exists() and previous.exists():  # killed between the two renames of `write_aside`
        checkpoint = previous
    if not checkpoint.exists():
        return None
    try:
        file = checkpoint / _META_FILE if checkpoint.is_dir() else checkpoint
        saved = torch.load(file, map_location="cpu", weights_only=False, mmap=True)
        owner, step = saved["callbacks"]["FitRecorder"]["fit"], int(saved["global_step"])
    except Exception as error:  # whatever a damaged pickle raises, the fit can start over
        log.warning("checkpoint %s cannot be read (%s): the fit starts over", checkpoint, error)
        owner, step = None, 0
    if owner != fit_digest:
        if rank() == 0:
            shutil.rmtree(checkpoint.parent, ignore_errors=True)
        return None
    return ResumePoint(str(checkpoint), step)


def make_whole(checkpoint_folder: Path) -> None:
    """Turn a sharded checkpoint into the file that a fit without FSDP reads. One process calls it, before the fit."""
    target = checkpoint_folder / LAST_CHECKPOINT
    shards = target if target.exists() else _previous(target)
    if not shards.is_dir():
        return
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    parts = checkpoint_folder / "parts.partial"
    try:
        dcp_to_torch_save(shards, parts)
        saved = torch.load(shards / _META_FILE, map_location="cpu", weights_only=False)
        state = torch.load(parts, map_location="cpu", weights_only=False)
    except (Exception, CheckpointException) as error:  # whatever damaged shards raise, the fit can start over
        log.warning("checkpoint %s cannot be read (%s): the fit starts over", shards, error)
        shutil.rmtree(checkpoint_folder)
        return
    saved["state_dict"] = state.pop("state_dict")
    saved["optimizer_states"] = [number_parameters(state[name]) for name in sorted(state)]
    write_aside(target, lambda path: torch.save(saved, path))
    parts.unlink()


def number_parameters(state: Mapping[str, Any]) -> dict[str, Any]:
    """Optimiser state by parameter name, as distributed checkpoints have it, by number, as optimisers do."""
    names = [name for group in state["param_groups"] for name in group["params"]]
    numbers = {name: number for number, name in enumerate(names)}
    groups = [group | {"params": [numbers[name] for name in group["params"]]} for group in state["param_groups"]]
    return {"state": {numbers[name]: value for name, value in state["state"].items()}, "param_groups": groups}


def write_aside(target: Path, write: Callable[[Path], Any]) -> None:
    """`write(path)` beside `target`, then rename: a killed process leaves the old state or the new one, never half.

    All ranks call it with the same path; `write` ends only when all of them are done, and rank 0 renames.
    """
    aside = target.with_suffix(".partial")
    if rank() == 0:
        target.parent.mkdir(parents=True, exist_ok=True)
        if aside.is_dir():
            shutil.rmtree(aside)
    try:
        write(aside)
    except BaseException:
        if rank() == 0 and aside.is_file():  # of a full disk, which it would keep full
            aside.unlink()
        raise
    if rank() != 0:
        return
    if not aside.is_dir() and not target.is_dir():
        os.replace(aside, target)
        return
    previous = _previous(target)  # folders cannot be replaced in one step: `find_checkpoint` knows the step between
    _remove(previous)
    if target.exists():
        os.replace(target, previous)
    os.replace(aside, target)
    _remove(previous)


def _previous(checkpoint: Path) -> Path:
    return checkpoint.with_suffix(".previous")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
