"""A key-value cache that grows in steps, and whose rows come and go; the library's copies all of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

if TYPE_CHECKING:
    from torch import nn

_SPARE_COLUMNS: Final = 32


class RoomyLayer(DynamicLayer):
    """Keys and values [B, heads, T, D] as views of larger tensors: new columns are written into the spare room."""

    keys: torch.Tensor  # None before the first update
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rooms: tuple[torch.Tensor, torch.Tensor] | None = None
        self._first = 0  # column of the rooms at which the keys begin

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self._first + self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._rooms is None or self._rooms[0].shape[-2] < end:
            length = end - self._first
            self._move(key_states, value_states, len(key_states), length + max(_SPARE_COLUMNS, length // 4))
            start, end = start - self._first, length
            self._first = 0
        assert self._rooms is not None
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room[: len(states), :, start:end] = states
        self._show(len(key_states), end)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows, in their order; they move up in the room that there is, where it has rows enough."""
        if self._rooms is None:
            return
        length = self.get_seq_length()
        if len(indices) > len(self._rooms[0]):  # rows are repeated
            keys, values = (room[:, :, self._first :].index_select(0, indices) for room in self._rooms)
            self._rooms, self._first = (keys, values), 0
        else:
            for room, rows in zip(self._rooms, (self.keys, self.values), strict=True):
                room[: len(indices), :, self._first : self._first + length] = rows.index_select(0, indices)
        self._show(len(indices), self._first + length)

    def keep_rows(self, num: int, sources: torch.Tensor, targets: torch.Tensor) -> None:
        """Keep the first `num` rows, after the rows `sources` took the places `targets` among them."""
        assert self._rooms is not None
        if len(sources):
            for room in self._rooms:  # whole rows with their spare columns: in one piece, they are copied faster
                room.index_copy_(0, targets, room.index_select(0, sources))
        self._show(num, self._first + self.get_seq_length())

    def append_rows(self, other: RoomyLayer) -> None:
        """Take in the rows of another cache of no more columns, aligned at the newest column."""
        assert self._rooms is not None
        num, more = len(self.keys), len(other.keys)
        if len(self._rooms[0]) < num + more:
            self._move(self.keys, self.values, num + more, self.get_seq_length() + _SPARE_COLUMNS)
            self._first, end = 0, self.get_seq_length()
        else:
            end = self._first + self.get_seq_length()
        start = end - other.get_seq_length()
        for room, states in zip(self._rooms, (other.keys, other.values), strict=True):
            room[num : num + more, :, self._first : start] = 0  # masked, but what lies there must be a number
            room[num : num + more, :, start:end] = states
        self._show(num + more, end)

    def drop_columns(self, num: int) -> None:
        """Forget the first columns."""
        end = self._first + self.get_seq_length()
        self._first += num
        self._show(len(self.keys), end)

    def _show(self, num: int, end: int) -> None:
        assert self._rooms is not None
        self.keys, self.values = (room[:num, :, self._first : end] for room in self._rooms)

    def _move(self, key_states: torch.Tensor, value_states: torch.Tensor, rows: int, columns: int) -> None:
        """What is filled, to the beginning of new rooms."""
        rooms = []
        for states, old in ((key_states, self.keys), (value_states, self.values)):
            room = states.new_empty(rows, states.shape[1], columns, states.shape[-1])
            if old is not None and old.numel():
                room[: len(old), :, : old.shape[-2]] = old
            rooms.append(room)
        self._rooms = rooms[0], rooms[1]


def make_cache(model: nn.Module) -> DynamicCache:
    """A cache for `model`: roomy where its layers attend to everything, the library's own for all other kinds."""
    config: Any = model.config
    cache = DynamicCache(config=config.get_text_config(decoder=True))
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def is_roomy(cache: DynamicCache) -> bool:
    """Whether every layer attends to every earlier column, so that rows and columns may come and go."""
    return bool(cache.layers) and all(type(layer) is RoomyLayer for layer in cache.layers)


def can_drop_rows(cache: DynamicCache) -> bool:
    """Whether every layer can let rows go; the recurrent ones cannot, though the hybrids among them offer to."""
    return all(
        hasattr(layer, "batch_select_indices") and not isinstance(layer, LinearAttentionCacheLayerMixin)
        for layer in cache.layers
    )
