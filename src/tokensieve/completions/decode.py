"""The decoding loop of one batch: a forward pass a token with a key-value cache, rows leave when they finish."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import torch

from tokensieve.completions.sampling import Chosen, TokenChoice
from tokensieve.kv_cache import can_drop_rows, has_plain_layers, make_cache

if TYPE_CHECKING:
    from torch import nn
    from transformers import DynamicCache

# Rows leave the cache when this share of them has finished: copying the rest must pay for itself.
_RELEASE_SHARE: Final = 0.25


class Row:
    """One prompt on its way.

    Attributes:
        at: its number among all prompts.
        prompt: its token ids, at least one.
        room: how many tokens it may get, at least one.
        stream: its random numbers; None under greedy decoding.
        tokens: those it has, without the end token.
        nlls: of `tokens`, nats; empty without statistics.
        entropies: at `tokens`, nats; empty without statistics.
        has_ended: by an end token or a stop string, not for want of room.
        done: no more tokens come.
    """

    __slots__ = ("at", "done", "entropies", "has_ended", "nlls", "prompt", "room", "stream", "tokens")

    def __init__(self, at: int, prompt: Sequence[int], room: int, stream: random.Random | None) -> None:
        self.at, self.prompt, self.room, self.stream = at, prompt, room, stream
        self.tokens: list[int] = []
        self.nlls: list[float] = []
        self.entropies: list[float] = []
        self.has_ended = self.done = False


def decode_batch(
    model: nn.Module,
    rows: list[Row],
    *,
    choice: TokenChoice,
    ends: frozenset[int],
    stops: Callable[[list[int]], bool] | None,
    pad: int,
    on_done: Callable[[], object],
) -> None:
    """Fill `tokens` of B rows. All pads stand on the left, so that the newest column is real in every row.

    Args:
        model: a causal LM in evaluation mode, under inference mode.
        rows: B rows without tokens.
        choice: how a token is chosen.
        ends: tokens that end a row and are not kept.
        stops: whether the newest of these tokens completes a stop string; None: there is none.
        pad: any id; it is masked.
        on_done: called once a row.
    """
    device = next(model.parameters()).device
    width = max(len(row.prompt) for row in rows)
    input_ids = torch.tensor([[pad] * (width - len(row.prompt)) + list(row.prompt) for row in rows], device=device)
    lengths = torch.tensor([len(row.prompt) for row in rows], device=device)
    columns = torch.arange(width + max(row.room for row in rows), device=device)
    seen = columns >= (width - lengths)[:, None]  # bool [B, T to be]: true but at pads
    # Without pads no mask is needed, which lets the attention kernel take its fastest path.
    padded = bool((lengths < width).any())
    positions = (columns[:width] - (width - lengths)[:, None]).clamp(min=0)
    step = _Step(model, make_cache(model))
    logits = step(input_ids, positions, seen[:, :width] if padded else None)
    alive = rows
    while True:
        chosen = choice.choose(logits, [row.stream for row in alive])
        _append(alive, chosen, ends, stops, on_done)
        running = [at for at, row in enumerate(alive) if not row.done]
        if not running:
            return
        next_ids = chosen.ids
        if step.can_drop_rows and len(running) <= len(alive) * (1 - _RELEASE_SHARE):
            keep = torch.tensor(running, device=device)
            alive, next_ids, seen, lengths = [alive[at] for at in running], next_ids[keep], seen[keep], lengths[keep]
            step.keep_rows(keep)
        width += 1
        lengths = lengths + 1
        logits = step(next_ids[:, None], (lengths - 1)[:, None], seen[:, :width] if padded else None)


def _append(
    rows: list[Row],
    chosen: Chosen,
    ends: frozenset[int],
    stops: Callable[[list[int]], bool] | None,
    on_done: Callable[[], object],
) -> None:
    """Give each running row its token, and mark those that end with it."""
    for at, (row, token) in enumerate(zip(rows, chosen.ids.tolist(), strict=True)):
        if row.done:
            continue
        if token in ends:
            row.done = row.has_ended = True
        else:
            row.tokens.append(token)
            if chosen.nlls is not None and chosen.entropies is not None:
                row.nlls.append(chosen.nlls[at])
                row.entropies.append(chosen.entropies[at])
            row.has_ended = stops is not None and stops(row.tokens)
            row.done = row.has_ended or len(row.tokens) >= row.room
        if row.done:
            on_done()


class _Step:
    """One forward pass over new columns, with what must be kept between passes."""

    def __init__(self, model: nn.Module, cache: DynamicCache) -> None:
        self.model = model
        self.cache = cache
        inner: Any = getattr(model, "get_base_model", lambda: model)()  # within PEFT
        accepted = inspect.signature(inner.forward).parameters
        self.options: dict[str, Any] = {"use_cache": True, "return_dict": True}
        if "logits_to_keep" in accepted:
            self.options["logits_to_keep"] = 1
        self.can_drop_rows = can_drop_rows(cache)
        self.takes_positions = "position_ids" in accepted
        self.cache_name = "past_key_values" if "past_key_values" in accepted else "cache_params"  # the latter: Mamba
        # With plain layers alone, a ready mask of the one new column spares the model's own mask making; linear biases
        # (ALiBi, in Falcon-RW) are made from the mask of all columns.
        plain = inner.config._attn_implementation == "sdpa" and has_plain_layers(cache)
        self.takes_ready_mask = plain and not getattr(inner.config, "alibi", False)

    def __call__(self, input_ids: torch.Tensor, positions: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        """Feed input_ids [B, T new] at `positions`; return the logits of what comes next, [B, V]."""
        mask = seen
        if seen is not None and input_ids.shape[1] == 1 and self.takes_ready_mask:
            mask = seen[:, None, None, :]
        elif input_ids.shape[1] == 1 and self.cache_name == "cache_params":
            mask = None  # there are no columns to look back at, and the state has no pad in it
        options = {"position_ids": positions, **self.options} if self.takes_positions else self.options
        out = self.model(input_ids=input_ids, attention_mask=mask, **{self.cache_name: self.cache}, **options)
        logits: torch.Tensor = out.logits[:, -1]
        return logits

    def keep_rows(self, keep: torch.Tensor) -> None:
        """Let the other rows go."""
        self.cache.batch_select_indices(keep)
