"""The decoding loop: a forward pass a token; rows leave when they finish, and others take their places."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from tokensieve.completions.batch import Batch, Row, can_grow
from tokensieve.completions.sampling import Chosen, TokenChoice

if TYPE_CHECKING:
    from torch import nn

# Rows come in when this share of the places is free: prompts should not be read one at a time.
_REFILL_SHARE: Final = 0.25
# Most tokens of prompts in one pass: enough to keep a device busy, and few enough for the caches of a processor.
_READ_TOKENS: Final = 2048


class Decoder:
    """Fills `tokens` of rows, up to `batch_size` at a time.

    Where the cache allows it (every layer attends to every column) rows come in as places become free; else all rows of
    a batch end before the next begins.

    Args:
        model: a causal LM.
        rows: rows without tokens; neighbours had better have prompts of similar length.
        batch_size: rows decoded at once, >= 1.
        choice: how a token is chosen.
        ends: tokens that end a row and are not kept.
        stops: whether a row's newest token completes one of its stop strings.
        pad: any id; it is masked.
    """

    def __init__(
        self,
        model: nn.Module,
        rows: Iterable[Row],
        *,
        batch_size: int,
        choice: TokenChoice,
        ends: frozenset[int],
        stops: Callable[[Row], bool],
        pad: int,
    ) -> None:
        self._model, self._waiting, self._places = model, iter(rows), batch_size
        self._choice, self._ends, self._stops, self._pad = choice, ends, stops, pad
        self._device = next(model.parameters()).device
        self._can_grow = can_grow(model)
        self._batch: Batch | None = None
        self._held: Row | None = None  # taken from those that wait, and put back

    def advance(self, on_done: Callable[[], object]) -> list[Row]:
        """Decode until places are free for others, or all is done, and return the rows that left; none at the end.

        The model is in evaluation mode, under inference mode; `on_done` is called for each row that finishes.
        """
        done: list[Row] = []
        if self._batch is None or self._can_grow:
            self._admit(done, on_done)
        batch = self._batch
        while batch is not None and batch.rows:
            free = self._places - len(batch.rows)
            if done and self._can_grow and self._is_waiting() and free >= self._places * _REFILL_SHARE:
                return done
            chosen = self._choice.choose(batch.feed(), [row.stream for row in batch.rows])
            _append(batch.rows, chosen, self._ends, self._stops, on_done)
            batch.next_ids = chosen.ids
            done += batch.release()
        self._batch = None
        return done

    def _admit(self, done: list[Row], on_done: Callable[[], object]) -> None:
        """Read the prompts of as many rows as there are places for, and give each its first token."""
        while new := self._take(self._places - (len(self._batch.rows) if self._batch is not None else 0)):
            added = Batch(self._model, new, self._device)
            chosen = self._choice.choose(added.read(self._pad), [row.stream for row in new])
            _append(new, chosen, self._ends, self._stops, on_done)
            added.next_ids = chosen.ids
            if self._batch is None or not self._batch.rows:
                self._batch = added
            else:
                self._batch = self._batch.join(added)
            done += self._batch.release()
            if not self._can_grow:
                return

    def _is_waiting(self) -> bool:
        if self._held is None:
            self._held = next(self._waiting, None)
        return self._held is not None

    def _take(self, free: int) -> list[Row]:
        """The next rows whose prompts are read in one pass, at most `free`."""
        taken: list[Row] = []
        longest = 0
        while len(taken) < free:
            row = self._held or next(self._waiting, None)
            self._held = None
            if row is None:
                break
            longest = max(longest, len(row.prompt))
            if taken and self._can_grow and longest * (len(taken) + 1) > _READ_TOKENS:
                self._held = row
                break
            taken.append(row)
        return taken


def _append(
    rows: list[Row],
    chosen: Chosen,
    ends: frozenset[int],
    stops: Callable[[Row], bool],
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
            row.has_ended = stops(row)
            row.done = row.has_ended or len(row.tokens) >= row.room
        if row.done:
            on_done()
