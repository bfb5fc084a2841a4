"""The next token of each row: greedy or drawn, and how surprised the model was by it."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch


class Chosen(NamedTuple):
    """What one step gives to B rows."""

    ids: torch.Tensor  # int64 [B], where the logits are
    nlls: list[float] | None  # nats, under the untempered distribution
    entropies: list[float] | None  # nats, of the untempered distribution


def open_stream(seed: int, prompt_ids: Sequence[int], sample: int) -> random.Random:
    """The random numbers of one completion, one a token: the same in any batch, in any process.

    >>> open_stream(0, [5, 6], 1).random() == open_stream(0, [5, 6], 1).random()
    True
    """
    state = hashlib.blake2b(f"{seed}/{sample}/".encode(), digest_size=16)
    state.update(array("q", prompt_ids).tobytes())
    return random.Random(int.from_bytes(state.digest()))


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """How the next token is chosen from logits.

    Attributes:
        temperature: of the rows that have a stream; 0 is greedy, as all others are: of equal best logits the lowest id
            wins.
        top_p: nucleus mass in (0, 1]. The nucleus is the smallest set of the likeliest tokens, after the temperature,
            that reaches this mass; tokens as likely as its last one belong to it.
        with_statistics: whether NLL and entropy are computed, in float32.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    with_statistics: bool = False

    def choose(self, logits: torch.Tensor, streams: Sequence[random.Random | None]) -> Chosen:
        """Choose one token a row from logits [B, V]. A row's stream gives one number a step; greedy rows have none."""
        ids = logits.max(dim=-1).indices  # the first of equals; on a processor three times as fast as argmax
        drawn = [at for at, stream in enumerate(streams) if stream is not None] if self.temperature > 0 else []
        if drawn:
            draws = [stream.random() for stream in streams if stream is not None]
            rows = torch.tensor(drawn, device=logits.device)
            ids[rows] = _draw(_temper(logits[rows], self.temperature, self.top_p), draws)
        if not self.with_statistics:
            return Chosen(ids, None, None)
        log_probs = logits.float().log_softmax(dim=-1)
        nlls = -log_probs.gather(-1, ids[:, None])[:, 0]
        entropies = torch.special.entr(log_probs.exp()).sum(dim=-1)
        return Chosen(ids, nlls.tolist(), entropies.tolist())


def _temper(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Probabilities float32 [B, V] after temperature and nucleus, not normalised again after the nucleus."""
    logits = logits.float()
    # Subtracting the best first keeps a tiny temperature from overflowing.
    probs = ((logits - logits.amax(dim=-1, keepdim=True)) / temperature).softmax(dim=-1)
    if top_p < 1:
        ranked = probs.sort(dim=-1, descending=True).values
        before = ranked.cumsum(dim=-1) - ranked  # mass of the likelier tokens
        num_kept = (before < top_p).sum(dim=-1, keepdim=True).clamp(min=1)
        probs = probs.where(probs >= ranked.gather(-1, num_kept - 1), 0.0)
    return probs


def _draw(probs: torch.Tensor, draws: list[float]) -> torch.Tensor:
    """The token of each row, int64 [B], at which the running sum over ids passes the row's number in [0, 1).

    The sum runs over ids, not over ranks: rounding swaps the ranks of tokens that are nearly as likely as each other,
    which would change many texts with the shape of the batch.
    """
    exact = torch.float32 if probs.device.type == "mps" else torch.float64
    mass = probs.to(exact).cumsum(dim=-1)
    total = mass[:, -1:].contiguous()
    wanted = torch.tensor(draws, dtype=exact, device=probs.device)[:, None] * total
    # The last token of any probability bounds the choice, should the product round to the total.
    found = torch.minimum(torch.searchsorted(mass, wanted, right=True), torch.searchsorted(mass, total))
    return found[:, 0].clamp(max=probs.shape[-1] - 1)  # logits that are not numbers must not end in a wild index
