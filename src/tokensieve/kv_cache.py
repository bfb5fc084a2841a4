"""A key-value cache that grows in steps: the library's own copies all of itself at every token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

if TYPE_CHECKING:
    from torch import nn

_SPARE_COLUMNS: Final = 32


class RoomyLayer(DynamicLayer):
    """Keys and values [B, heads, T, D] as views of larger tensors; new columns are written into the spare room."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rooms: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._rooms is None or self._rooms[0].shape[-2] < end:
            self._grow(key_states, value_states, start, end + max(_SPARE_COLUMNS, end // 4))
        assert self._rooms is not None
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, start:end] = states
        self.keys, self.values = (room[:, :, :end] for room in self._rooms)
        return self.keys, self.values

    def _grow(self, key_states: torch.Tensor, value_states: torch.Tensor, filled: int, columns: int) -> None:
        rooms = []
        for states, old in ((key_states, self.keys), (value_states, self.values)):
            room = states.new_empty(*states.shape[:2], columns, states.shape[-1])
            if old is not None and filled:
                room[:, :, :filled] = old
            rooms.append(room)
        self._rooms = rooms[0], rooms[1]

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows, in their order; they move up in the room that there is, where it has rows enough."""
        if self._rooms is None:
            return
        length, num = self.get_seq_length(), len(indices)
        if num > len(self._rooms[0]):  # rows are repeated
            keys, values = (room.index_select(0, indices) for room in self._rooms)
        else:
            for room in self._rooms:
                room[:num, :, :length] = room[:, :, :length].index_select(0, indices)
            keys, values = (room[:num] for room in self._rooms)
        self._rooms = keys, values
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]


def make_cache(model: nn.Module) -> DynamicCache:
    """A cache for `model`: roomy where its layers attend to everything, the library's own for all other kinds."""
    config: Any = model.config
    cache = DynamicCache(config=config.get_text_config(decoder=True))
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def has_plain_layers(cache: DynamicCache) -> bool:
    """Whether every layer attends to every earlier column."""
    return all(type(layer) in (DynamicLayer, RoomyLayer) for layer in cache.layers)


def can_drop_rows(cache: DynamicCache) -> bool:
    """Whether every layer can let rows go; the recurrent ones cannot, though the hybrids among them offer to."""
    return all(
        hasattr(layer, "batch_select_indices") and not isinstance(layer, LinearAttentionCacheLayerMixin)
        for layer in cache.layers
    )
