"""What a fit leaves: `last/` and `best/`, the weights as PEFT or transformers save them, and the curve."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tokensieve.collectives import rank
from tokensieve.module import MaskedLMModule

CURVE_FILE = "curve.jsonl"


def write_result(module: MaskedLMModule, curve: Sequence[Mapping[str, float]], best_file: Path, folder: Path) -> None:
    """Write `last/`, `best/` and the curve into `folder`, from rank 0. All ranks of a sharded model must call it."""
    model: Any = module.model
    if module.sharded:
        _write_sharded(module, best_file, folder)
    elif rank() == 0:
        model.save_pretrained(str(folder / "last"))
        if best_file.is_file():
            best = torch.load(best_file, map_location="cpu", weights_only=True)
            parameters = dict(model.named_parameters())
            with torch.no_grad():
                for name, value in best.items():
                    parameters[name].copy_(value)
        model.save_pretrained(str(folder / "best"))
    if rank() == 0:
        with (folder / CURVE_FILE).open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(entry) + "\n" for entry in curve)


def _write_sharded(module: MaskedLMModule, best_file: Path, folder: Path) -> None:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    model: Any = module.model
    is_adapter = hasattr(model, "peft_config")  # then the frozen base stays where it is
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=is_adapter)
    state: dict[str, Any] = get_model_state_dict(model, options=options)  # whole on rank 0, empty elsewhere
    if rank() != 0:
        return
    model.save_pretrained(str(folder / "last"), state_dict=_tie(model, state))
    if best_file.is_file():
        state |= torch.load(best_file, map_location="cpu", weights_only=True)
    model.save_pretrained(str(folder / "best"), state_dict=_tie(model, state))


def _tie(model: Any, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`state` with one tensor for the names of one parameter, which were gathered apart: it is then saved once."""
    first: dict[int, str] = {}
    tied = dict(state)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in tied:
            tied[name] = tied[first.setdefault(id(parameter), name)]
    return tied


def read_curve(folder: Path) -> list[dict[str, float]]:
    """The metrics of a finished fit, one dict a record, in order; `step` counts optimiser steps from 1."""
    with (folder / CURVE_FILE).open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]
