"""What an optimiser step minimises where it is not the plain NLL: online token weights, and a regulariser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch

from tokensieve.collectives import gather_over_ranks
from tokensieve.head import OutputHead, split_head
from tokensieve.loss import ReferenceStates, token_nll, token_terms
from tokensieve.records import Batch
from tokensieve.regulariser import DIVERGENCES, Regulariser, add_l2_sp_gradients, as_reference, copy_anchor
from tokensieve.token_weights import TokenWeighting

if TYPE_CHECKING:
    from torch import nn

# (decoder, batch) -> hidden states [B, T, D].
Encode = Callable[["nn.Module", Batch], torch.Tensor]

# What `Objective.sums` adds up, in its order; `loss` alone has gradients.
SUMS: Final = ("loss", "nll", "weight", "divergence", "tokens")


@dataclass(slots=True)
class Objective:
    """`sum(weight * nll) / Z + coefficient * sum(divergence) / Z`, over a step's trained tokens, and `l2_sp` beside it.

    `weight` is the batch's own (a hard mask, or frozen weights) times the online rule's. Z is the batch's `step_weight`
    for both sums. `reference` is the frozen model to compare with; None where it is the model with its adapter off.
    """

    weighting: TokenWeighting
    regulariser: Regulariser
    reference: nn.Module | None = None
    _anchor: dict[str, torch.Tensor] = field(default_factory=dict)

    def remember_start(self, model: nn.Module) -> None:
        """Keep what the penalty measures from. To be called before a checkpoint is loaded into `model`."""
        if self.regulariser.rule == "l2_sp" and not self._anchor:
            self._anchor = copy_anchor(model)

    def sums(self, model: nn.Module, batch: Batch, encode: Encode) -> torch.Tensor:
        """The parts of a step's sums that a micro-batch makes up, [5] in the order of SUMS: loss and NLL over Z."""
        reference_hidden, reference_head = None, None
        if self.regulariser.compares:
            reference_hidden, reference_head = self._encode_reference(model, batch, encode)
        decoder, head = split_head(model)
        hidden = encode(decoder, batch)
        kept = batch.weights[:, 1:].nonzero(as_tuple=True)
        if kept[0].numel() == 0:  # a zero with a gradient path keeps ranks in step
            return torch.cat([(hidden.sum() * 0.0)[None], hidden.new_zeros(len(SUMS) - 1)]).float()
        reference = None
        if reference_hidden is not None and reference_head is not None:
            divergence = DIVERGENCES[self.regulariser.divergence]
            reference = ReferenceStates(reference_hidden[:, :-1][kept], reference_head, divergence)
        terms = token_terms(
            hidden[:, :-1][kept],
            head,
            batch.input_ids[:, 1:][kept],
            entropy_top_k=self.weighting.entropy_top_k,
            reference=reference,
        )
        weight = batch.weights[:, 1:][kept]
        if self.weighting.is_stepwise:
            assert batch.online_weights is not None, "the step must be scored and weighed first"
            online: torch.Tensor | None = batch.online_weights[:, 1:][kept]
        else:
            online = self.weighting.weigh(terms.nll.detach(), terms.entropy, batch.seed)
        weight = weight if online is None else weight * online
        loss = (terms.nll * weight).sum()
        if reference is not None:
            loss = loss + self.regulariser.coefficient * terms.divergence.sum()
        counts = [weight.sum(), terms.divergence.detach().sum(), weight.new_tensor(len(weight))]
        return torch.stack([loss / batch.step_weight, terms.nll.detach().sum() / batch.step_weight, *counts])

    def _encode_reference(self, model: nn.Module, batch: Batch, encode: Encode) -> tuple[torch.Tensor, OutputHead]:
        if self.reference is not None:
            decoder, head = split_head(self.reference)
            with torch.no_grad():
                return encode(decoder, batch), head
        with as_reference(model):
            decoder, head = split_head(model)
            return encode(decoder, batch), head

    def score(self, model: nn.Module, batch: Batch, encode: Encode) -> torch.Tensor:
        """The values of a micro-batch's trained tokens, [K], that a stepwise rule compares over the step."""
        decoder, head = split_head(model)
        hidden = encode(decoder, batch)
        kept = batch.weights[:, 1:].nonzero(as_tuple=True)
        if kept[0].numel() == 0:
            return hidden.new_zeros(0, dtype=torch.float32)
        nll = token_nll(hidden[:, :-1][kept], head, batch.input_ids[:, 1:][kept])
        reference = batch.reference_nll[:, 1:][kept] if batch.reference_nll is not None else None
        return self.weighting.value(nll, reference)

    def weigh_step(self, parts: Sequence[Batch], values: Sequence[torch.Tensor], device: torch.device) -> list[Batch]:
        """`parts`, this rank's micro-batches of a step, with the weights that follow from all ranks' `values`.

        All ranks must call it, also those without micro-batches, whose `device` the others cannot tell.
        """
        own = torch.cat([torch.zeros(0, dtype=torch.float32, device=device), *values])
        weights = self.weighting.weigh_step(own, gather_over_ranks(own)).split([len(value) for value in values])
        weighed = []
        for part, weight_K in zip(parts, weights, strict=True):
            online = torch.zeros_like(part.weights)
            online[:, 1:][part.weights[:, 1:].nonzero(as_tuple=True)] = weight_K
            weighed.append(part._replace(online_weights=online))
        return weighed

    def penalise(self, model: nn.Module) -> dict[str, float]:
        """Add the gradients of what does not depend on data, once a step; its value as a metric."""
        if self.regulariser.rule != "l2_sp":
            return {}
        square = add_l2_sp_gradients(model, self.regulariser.coefficient, self._anchor)
        return {"train/l2_sp": float(square)}

    def metrics(self, sums: Sequence[float]) -> dict[str, float]:
        """Of a whole step: `train/nll` is unweighted, `train/loss` what is minimised (but for `l2_sp`)."""
        loss, nll, weight, divergence, tokens = sums
        values = {"train/loss": loss, "train/nll": nll, "train/mean_weight": weight / tokens}
        return values | ({"train/kl": divergence / tokens} if self.regulariser.compares else {})


def score_parts(module: nn.Module, parts: Sequence[Batch]) -> tuple[Sequence[Batch], list[torch.Tensor]]:
    """`parts` as they are, and `Objective.score` of each by `module`, under the dropout that it is trained with."""
    values = []
    with torch.no_grad():
        for part in parts:
            torch.manual_seed(part.seed)
            values.append(module(part, score=True))
    return parts, values
