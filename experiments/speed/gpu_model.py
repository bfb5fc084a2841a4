"""What gpu.py trains: a Llama of a given shape with random weights, its adapter, and records without a data library."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from synthetic import Row
from torch import nn


def _llama3_8b() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    )  # fmt: skip


def _tiny() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=176, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip


SHAPES: dict[str, Callable[[], Any]] = {"llama3_8b": _llama3_8b, "tiny": _tiny}


class Rows:
    """Columns as the records hold them, without the datasets library, which a bare GPU machine may lack."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, key: str | Sequence[int]) -> Any:
        if isinstance(key, str):
            return self._columns[key]
        return {name: [values[number] for number in key] for name, values in self._columns.items()}


def make_records(rows: Sequence[Row]) -> tuple[Any, Any]:
    """The package's own records of the rows and their mask."""
    from tokensieve.records import MaskStats, Stamp, TokenisedCorpus, TokenMask

    names = [str(number) for number in range(len(rows))]
    tokens: Any = Rows(
        {"id": names, "input_ids": [row.ids for row in rows], "is_response": [row.is_response for row in rows]}
    )
    keep: Any = Rows({"id": names, "keep": [row.keep for row in rows]})
    stats = MaskStats(len(rows), 0, 1, 1, math.nan, 1.0)
    return TokenisedCorpus(tokens, Stamp("tokens", {})), TokenMask(keep, stats, Stamp("mask", {}))


def build(config: Any, device: str) -> Any:
    """Random bfloat16 weights, made on the device; logits spread as a trained model's."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        model.model.norm.weight.mul_(2)
    model.config.use_cache = False
    return model.eval()


@contextmanager
def adapted(base: Any, rank: int) -> Iterator[tuple[Any, Callable[[], None]]]:
    """The base with a fresh adapter on every linear layer, taken off again, and what puts it back to its start."""
    from tokensieve.adapter import attach_adapter

    model: Any = attach_adapter(
        base, method="lora", rank=rank, alpha=32.0, dropout=0.0, target_modules="all-linear",
        use_dora=False, use_rslora=False, seed=0, gradient_checkpointing=False,
    )  # fmt: skip
    start = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}

    def restore() -> None:
        with torch.no_grad():
            for name, value in model.named_parameters():
                if name in start:
                    value.copy_(start[name])
                    value.grad = None

    try:
        yield model, restore
    finally:
        model.unload()


def quantise(model: Any, device: str) -> None:
    """Hold every linear layer but the head in 4-bit NormalFloat, in place.

    Raises:
        ImportError: bitsandbytes is missing.
    """
    import bitsandbytes as bnb

    for module in list(model.model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                layer = bnb.nn.Linear4bit(
                    child.in_features, child.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
                )
                layer.weight = bnb.nn.Params4bit(child.weight.data.cpu(), requires_grad=False, quant_type="nf4")
                setattr(module, name, layer.to(device))
    model.is_loaded_in_4bit = True
