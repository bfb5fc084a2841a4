"""Rows that are decoded together: one forward pass a token, and what must be kept between passes."""

from __future__ import annotations

import inspect
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import torch

from tokensieve.kv_cache import can_drop_rows, is_roomy, make_cache

if TYPE_CHECKING:
    from torch import nn
    from transformers import DynamicCache

# Rows leave when this share of them has finished. In a roomy cache only as many rows move as leave; in the others all
# that stay are copied.
_ROOMY_RELEASE_SHARE: Final = 0.04
_RELEASE_SHARE: Final = 0.25


class Row:
    """One prompt on its way.

    Attributes:
        at: its number among all prompts.
        prompt: its token ids, at least one.
        room: how many tokens it may get, at least one.
        stop: strings that end it.
        stream: its random numbers; None under greedy decoding.
        tokens: those it has, without the end token.
        nlls: of `tokens`, nats; empty without statistics.
        entropies: at `tokens`, nats; empty without statistics.
        has_ended: by an end token or a stop string, not for want of room.
        done: no more tokens come.
    """

    __slots__ = ("at", "done", "entropies", "has_ended", "nlls", "prompt", "room", "stop", "stream", "tokens")

    def __init__(
        self, at: int, prompt: Sequence[int], room: int, stop: tuple[str, ...], stream: random.Random | None
    ) -> None:
        self.at, self.prompt, self.room, self.stop, self.stream = at, prompt, room, stop, stream
        self.tokens: list[int] = []
        self.nlls: list[float] = []
        self.entropies: list[float] = []
        self.has_ended = self.done = False


class Batch:
    """B rows in one cache. All pads stand on the left, so that the newest column is real in every row.

    Attributes:
        rows: in the order of the cache.
        next_ids: int64 [B], each row's newest token, which the cache lacks.
    """

    def __init__(self, model: nn.Module, rows: Sequence[Row], device: torch.device) -> None:
        self.rows = list(rows)
        self.next_ids = torch.zeros(len(rows), dtype=torch.int64, device=device)
        self._device = device
        self._step = _Step(model, make_cache(model))
        self._width = max(len(row.prompt) for row in rows)  # columns of the cache, once the prompts are read
        self._pads = [self._width - len(row.prompt) for row in rows]
        self._measure()

    def read(self, pad: int) -> torch.Tensor:
        """Logits [B, V] of what follows the prompts; `pad` is any id."""
        ids = [[pad] * num + list(row.prompt) for num, row in zip(self._pads, self.rows, strict=True)]
        positions = (torch.arange(self._width, device=self._device) - self._starts[:, None]).clamp(min=0)
        return self._step(torch.tensor(ids, device=self._device), positions, self._see())

    def feed(self) -> torch.Tensor:
        """Logits [B, V] of what follows `next_ids`."""
        self._width += 1
        # A row that is done stays for a while; its place must not run past what the model has positions for.
        positions = torch.minimum(self._width - 1 - self._starts, self._ends)
        return self._step(self.next_ids[:, None], positions[:, None], self._see())

    def release(self) -> list[Row]:
        """Let the finished rows go where that pays, and return them."""
        running = [at for at, row in enumerate(self.rows) if not row.done]
        num = len(running)
        least = len(self.rows) * (_ROOMY_RELEASE_SHARE if self._step.is_roomy else _RELEASE_SHARE)
        if num == len(self.rows) or (num and (len(self.rows) - num < least or not self._step.can_drop_rows)):
            return []
        finished = [row for row in self.rows if row.done]
        # Rows at the end take the places of those that leave: the others need not move.
        kept = list(range(num))
        holes = [at for at in kept if self.rows[at].done]
        for hole, source in zip(holes, running[num - len(holes) :], strict=True):
            kept[hole] = source
        self.rows = [self.rows[at] for at in kept]
        if num:
            index = torch.tensor(kept, device=self._device)
            self._step.keep_rows(index, torch.tensor(holes, dtype=torch.int64, device=self._device))
            self.next_ids = self.next_ids[index]
            self._pads = [self._pads[at] for at in kept]
            self._settle()
        return finished

    def join(self, other: Batch) -> Batch:
        """One batch of the rows of both, which are not to be used any more."""
        wide, narrow = (self, other) if self._width >= other._width else (other, self)
        wide._take_in(narrow)
        return wide

    def _take_in(self, other: Batch) -> None:
        """Go on with the rows of another batch as well, which is no wider."""
        shift = self._width - other._width
        self._step.append_rows(other._step)
        self.rows += other.rows
        self._pads += [num + shift for num in other._pads]
        self.next_ids = torch.cat([self.next_ids, other.next_ids])
        self._settle()

    def _settle(self) -> None:
        """Forget columns that are a pad in every row."""
        spare = min(self._pads)
        if spare and self._step.is_roomy:
            self._step.drop_columns(spare)
            self._width -= spare
            self._pads = [num - spare for num in self._pads]
        self._measure()

    def _measure(self) -> None:
        """Where each row starts, the last position that it may come to, and which columns it will see."""
        self._starts = torch.tensor(self._pads, device=self._device)
        self._ends = torch.tensor([len(row.prompt) + row.room - 1 for row in self.rows], device=self._device)
        last = self._width + max(row.room - len(row.tokens) for row in self.rows)
        # Without pads no mask is needed, which lets the attention kernel take its fastest path.
        seen = torch.arange(last, device=self._device) >= self._starts[:, None]
        self._seen = seen if any(self._pads) else None

    def _see(self) -> torch.Tensor | None:
        return None if self._seen is None else self._seen[:, : self._width]


def can_grow(model: nn.Module) -> bool:
    """Whether rows may come into a batch of this model while others are decoded."""
    return _Step(model, make_cache(model)).is_roomy


class _Step:
    """A forward pass over new columns, and the cache of those before."""

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
        # Linear biases (ALiBi, in Falcon-RW) are made from the mask of all columns.
        has_alibi = bool(getattr(inner.config, "alibi", False))
        self.is_roomy = is_roomy(cache) and self.takes_positions and not has_alibi
        # With plain layers alone, a ready mask of the one new column spares the model's own mask making.
        self.takes_ready_mask = inner.config._attn_implementation == "sdpa" and is_roomy(cache) and not has_alibi

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

    def keep_rows(self, index: torch.Tensor, moved: torch.Tensor) -> None:
        """Keep the rows `index`, of which only those for the places `moved` change theirs."""
        if not self.is_roomy:
            self.cache.batch_select_indices(index)
            return
        for layer in self._layers():
            layer.keep_rows(len(index), index[moved], moved)

    def append_rows(self, other: _Step) -> None:
        """Take in another's rows."""
        for layer, added in zip(self._layers(), other._layers(), strict=True):
            layer.append_rows(added)

    def drop_columns(self, num: int) -> None:
        """Forget the first columns."""
        for layer in self._layers():
            layer.drop_columns(num)

    def _layers(self) -> Any:
        return self.cache.layers
