"""Scaled dot product attention of one row that holds several examples: each attends to itself, by a call of its own.

It costs what the examples cost alone. One call over the whole row under a block-diagonal mask costs the square of the
row's length, nearly all of it for pairs that are masked out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

# As model.attention names it to transformers, which looks for "sdpa" in it to find the families that can use it.
BY_EXAMPLE: Final = "sdpa_by_example"


def attend_by_example(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    example_lengths: Sequence[int] | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention [B, T, heads, D] of `query`, `key` and `value` [B, heads, T, D].

    With `example_lengths`, whose sum is T, of a single row: the mask is not read, and a `sliding_window` counts within
    each example. Without, all rows attend as the mask says.
    """
    if example_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    found = []
    queries, keys, values = (states.split(list(example_lengths), dim=2) for states in (query, key, value))
    for length, q, k, v in zip(example_lengths, queries, keys, values, strict=True):
        window = None
        if sliding_window is not None and length > sliding_window:
            window = _window_mask(length, sliding_window, query.device)
        found.append(sdpa_attention_forward(module, q, k, v, window, **options)[0])
    return torch.cat(found, dim=1), None


def _window_mask(length: int, window: int, device: torch.device) -> torch.Tensor:
    """Which of `length` keys each query attends to, bool [1, 1, T, T]: itself and the `window - 1` before it."""
    places = torch.arange(length, device=device)
    distance = places[:, None] - places[None, :]
    return ((distance >= 0) & (distance < window))[None, None]


AttentionInterface.register(BY_EXAMPLE, torch.compiler.disable(attend_by_example))
AttentionMaskInterface.register(BY_EXAMPLE, sdpa_mask)
