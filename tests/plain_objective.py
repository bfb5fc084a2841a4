"""The slow formulation of every weight rule and divergence: full logits, Python numbers, a loop over tokens."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tiny_checkpoint import tiny_model
from tiny_fit import attach_lora
from torch import nn

from tokensieve.module import MaskedLMModule
from tokensieve.objective import score_parts
from tokensieve.records import Batch
from tokensieve.regulariser import Regulariser
from tokensieve.token_weights import TokenWeighting


def tuned_model(base: nn.Module | None = None, **changes: Any) -> nn.Module:
    """A model with an adapter that has moved away from its base."""
    model: Any = attach_lora(base or tiny_model(), **changes)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.2, generator=generator)
            if "magnitude" in name:
                value.mul_(1.2)
    return model


def make_batch(seed: int = 0, rows: int = 4, width: int = 13) -> Batch:
    """Rows of different lengths and kept counts, one of which trains nothing; with a reference's NLL."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 320, (rows, width), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    mask[2, 5:] = 0
    weights = (torch.rand(rows, width, generator=generator) < 0.5).float() * mask
    weights[:, 0] = 0
    weights[3] = 0
    reference = 6 * torch.rand(rows, width, generator=generator)
    return Batch(ids, mask, weights, float(weights.sum()), 5, None, reference)


def step_sums(module: MaskedLMModule, parts: list[Batch]) -> torch.Tensor:
    """The sums of an optimiser step, as training adds them up."""
    assert module.objective is not None
    if module.objective.weighting.is_stepwise:
        parts = module.objective.weigh_step(*score_parts(module, parts), torch.device("cpu"))
    return torch.stack([module(part) for part in parts]).sum(0)


@dataclass
class Token:
    """A trained token: its loss with its gradients, and what the rules read of it."""

    nll: torch.Tensor
    log_p: torch.Tensor  # [V], with gradients
    log_q: torch.Tensor  # [V], of the frozen base
    target: int
    weight: float
    reference: float

    @property
    def loss(self) -> float:
        return float(self.nll.detach())

    def entropy(self, top_k: int) -> float:
        probabilities = sorted((math.exp(value) for value in self.log_p.detach().tolist()), reverse=True)[:top_k]
        total = sum(probabilities)
        return -sum(p / total * math.log(p / total) for p in probabilities)

    def divergence(self, kind: str) -> torch.Tensor:
        p, q = self.log_p, self.log_q
        if kind == "k1":
            return p[self.target] - q[self.target]
        if kind == "k3":
            ratio = q[self.target].exp() / p[self.target].exp()
            return ratio - 1 - ratio.log()
        if kind == "forward":
            return F.kl_div(p, q, reduction="sum", log_target=True)
        return F.kl_div(q, p, reduction="sum", log_target=True)


def trained_tokens(model: nn.Module, base: nn.Module, batch: Batch) -> list[Token]:
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.float()
    with torch.no_grad():
        plain = base(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.float()
    found = []
    for row in range(len(batch.input_ids)):
        for t in range(1, batch.input_ids.shape[1]):
            if batch.weights[row, t] > 0:
                log_p, log_q = (each[row, t - 1].log_softmax(-1) for each in (logits, plain))
                target = int(batch.input_ids[row, t])
                reference = float(batch.reference_nll[row, t]) if batch.reference_nll is not None else 0.0
                found.append(Token(-log_p[target], log_p, log_q, target, float(batch.weights[row, t]), reference))
    return found


def plain_weights(rule: TokenWeighting, tokens: list[Token]) -> list[float]:
    """A weight a token, by the papers' formulas; all but `profit` with mode=random, which is drawn."""
    losses = [token.loss for token in tokens]
    p = [math.exp(-loss) for loss in losses]
    if rule.rule == "dft":
        return p
    if rule.rule == "power":
        return [value**rule.alpha for value in p]
    if rule.rule == "eaft":
        return [(token.entropy(rule.top_k) / math.log(rule.top_k)) ** rule.alpha for token in tokens]
    if rule.rule == "profit":
        inside = {
            "higher": lambda value: value > rule.threshold,
            "lower": lambda value: not value > rule.threshold,
            "middle": lambda value: rule.threshold < value <= rule.threshold_high,
        }[rule.mode]
        return [float(inside(value)) for value in p]
    if rule.rule == "talr":
        tau = statistics.median(losses)
        raw = [value ** (1 / tau) for value in p]
        return [len(raw) * value / sum(raw) for value in raw]
    if rule.rule == "none":
        return [1.0] * len(tokens)
    sign = 1.0
    if rule.rule == "rho":
        losses = [token.loss - token.reference for token in tokens]
        sign = -1.0 if rule.keep == "high" else 1.0
    number = max(1, round(rule.fraction * len(losses)))
    chosen = sorted(range(len(losses)), key=lambda place: sign * losses[place])[:number]
    return [len(losses) / number if place in chosen else 0.0 for place in range(len(losses))]


def plain_step_loss(
    rule: TokenWeighting, penalty: Regulariser, model: nn.Module, base: nn.Module, batch: Batch
) -> torch.Tensor:
    tokens = trained_tokens(model, base, batch)
    total = torch.zeros(())
    for token, weight in zip(tokens, plain_weights(rule, tokens), strict=True):
        total = total + weight * token.weight * token.nll
        if penalty.compares:
            total = total + penalty.coefficient * token.divergence(penalty.divergence)
    return total / batch.step_weight
