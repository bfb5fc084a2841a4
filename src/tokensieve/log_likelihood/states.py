"""The hidden states that predict a batch of continuations. A context that several of them share is computed once."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from tokensieve.kv_cache import can_drop_rows, make_cache

if TYPE_CHECKING:
    from torch import nn
    from transformers import DynamicCache

_PAD: Final = 0  # any id will do: it is masked


class Request(NamedTuple):
    """Number `at` of the requests: the context that the model is to see, and what it is to predict; neither empty."""

    at: int
    context: tuple[int, ...]
    continuation: Sequence[int]


def predicting_states(model: nn.Module, decoder: nn.Module, batch: list[Request]) -> torch.Tensor:
    """Hidden states [K, D] whose logits predict the K continuation tokens of the batch, request after request."""
    device = next(decoder.parameters()).device
    takes_positions = "position_ids" in inspect.signature(decoder.forward).parameters
    if takes_positions and len({request.context for request in batch}) < len(batch):
        cache = make_cache(model)
        if can_drop_rows(cache):
            return _shared_states(decoder, cache, batch, device)
    return _plain_states(decoder, batch, device)


def _plain_states(decoder: nn.Module, batch: list[Request], device: torch.device) -> torch.Tensor:
    """One pass over whole rows."""
    rows = [[*request.context, *request.continuation[:-1]] for request in batch]
    input_ids, mask = _pad_right(rows, device)
    hidden_BTD = decoder(input_ids=input_ids, attention_mask=mask, use_cache=False).last_hidden_state
    starts = [len(request.context) - 1 for request in batch]
    return torch.cat(
        [
            hidden_BTD[row, start : start + len(request.continuation)]
            for row, (start, request) in enumerate(zip(starts, batch, strict=True))
        ]
    )


def _shared_states(decoder: nn.Module, cache: DynamicCache, batch: list[Request], device: torch.device) -> torch.Tensor:
    """A pass over each context, padded on the left, then one over the continuations, padded on the right.

    A continuation's first token is predicted by its context's last state, so that those of one token are done then.
    """
    slots = {context: slot for slot, context in enumerate(dict.fromkeys(request.context for request in batch))}
    width = max(map(len, slots))
    input_ids = torch.tensor([[_PAD] * (width - len(ids)) + list(ids) for ids in slots], device=device)
    lengths = torch.tensor([len(ids) for ids in slots], device=device)
    seen = (torch.arange(width, device=device) >= (width - lengths)[:, None]).long()
    positions = (torch.arange(width, device=device) - (width - lengths)[:, None]).clamp(min=0)
    options: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
    context_states = decoder(
        input_ids=input_ids, attention_mask=seen, position_ids=positions, **options
    ).last_hidden_state[:, -1]
    longer = [request for request in batch if len(request.continuation) > 1]
    later: dict[int, torch.Tensor] = {}
    if longer:
        owners = torch.tensor([slots[request.context] for request in longer], device=device)
        cache.batch_select_indices(owners)
        tails, tail_mask = _pad_right([request.continuation[:-1] for request in longer], device)
        positions = lengths[owners][:, None] + torch.arange(tails.shape[1], device=device)
        hidden_BTD = decoder(
            input_ids=tails,
            attention_mask=torch.cat([seen[owners], tail_mask], dim=1),
            # of a pad only: a position beyond the model's table would be an error there
            position_ids=torch.where(tail_mask.bool(), positions, 0),
            **options,
        ).last_hidden_state
        later = {
            request.at: states[: len(request.continuation) - 1]
            for request, states in zip(longer, hidden_BTD, strict=True)
        }
    parts = []
    for request in batch:
        parts.append(context_states[slots[request.context]][None])
        if request.at in later:
            parts.append(later[request.at])
    return torch.cat(parts)


def _pad_right(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows padded on the right, int64 [B, T], and their mask."""
    width = max(len(row) for row in rows)
    padded = [[*row, *[_PAD] * (width - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return torch.tensor(padded, device=device), torch.tensor(mask, device=device)
