"""Soft and online token weights: what each published rule multiplies a trained token's NLL by.

Notation: p = probability that the model in training gives the token, nll = -ln p, sg = stop-gradient. Every weight
here is a constant of its step: gradients flow through the NLL alone, as in the papers. A step's loss is
`sum(weight * nll) / Z` over the tokens that the hard mask keeps. Z is the step's number of trained tokens (of its
response tokens with loss.normalise=response), whatever the weights, as in DFT, ProFit and EAFT; a rule that its paper
divides by its own sum is scaled to a mean weight of 1 over the step's trained tokens, which with that Z is the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

_POINTWISE = frozenset({"dft", "power", "eaft", "profit"})
_STEPWISE = frozenset({"talr", "rho", "quantile_online"})
# A median NLL below this, of a step whose tokens are all but certain, would divide by zero.
_LEAST_TEMPERATURE = 1e-8


def weigh_power(nll_K: torch.Tensor, alpha: float) -> torch.Tensor:
    """`sg(p)^alpha` (Beyond Log-Likelihood, arXiv 2510.00526). Z counts trained tokens.

    Its gradient is that of the paper's f_alpha = (1 - p^alpha) / alpha, at every alpha > 0; alpha 0 is the NLL, and
    alpha 1 is DFT (arXiv 2508.05629, equation 9: sg(p) * nll, with the gradient of -p).

    >>> weigh_power(torch.tensor([0.0, math.log(4.0)]), 0.5).tolist()
    [1.0, 0.5]
    """
    return torch.exp(-alpha * nll_K)


def weigh_eaft(entropy_K: torch.Tensor, top_k: int, alpha: float) -> torch.Tensor:
    """`sg(H / ln k)^alpha` (EAFT, arXiv 2601.02151): the entropy of the k likeliest tokens, renormalised, in [0, 1].

    Z counts trained tokens. LLaMA-Factory divides by 3.0 (k = 20), axolotl by 1: at alpha 1 its weights are 3 times
    these.

    >>> weigh_eaft(torch.tensor([math.log(20.0), 0.0]), 20, 1.0).tolist()
    [1.0, 0.0]
    """
    return (entropy_K / math.log(top_k)).clamp(0, 1) ** alpha


def select_profit(nll_K: torch.Tensor, mode: str, low: float, high: float, seed: int) -> torch.Tensor:
    """Weights 0 or 1 of ProFit (arXiv 2601.09195), by the online p. Z counts trained tokens, those of weight 0 too.

    higher: sg(p) > low. lower: the rest. middle: low < sg(p) <= high. random: a draw that masks each token with
    probability `low`, a function of `seed` and the tokens' order.

    >>> nll = -torch.tensor([0.05, 0.1, 0.5, 0.95]).log()
    >>> select_profit(nll, "higher", 0.2, 0.9, 0).tolist(), select_profit(nll, "middle", 0.2, 0.9, 0).tolist()
    ([0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0])
    """
    if mode == "random":
        draw = torch.rand(nll_K.shape, dtype=torch.float32, generator=torch.Generator().manual_seed(seed))
        return (draw >= low).float().to(nll_K.device)
    p = torch.exp(-nll_K)
    if mode == "lower":
        return (p <= low).float()
    above = p > low
    return (above & (p <= high) if mode == "middle" else above).float()


def weigh_talr(nll_K: torch.Tensor, all_nll: torch.Tensor) -> torch.Tensor:
    """`sg(p)^(1/tau)` = exp(-nll / tau) with tau the median NLL of the step's trained tokens (TALR, arXiv 2509.20758).

    The minimiser of `sum(w * nll) + tau * sum(w * ln w)` over weights that sum to 1: the paper's Z is the sum of the
    weights over the step, so they are scaled to mean 1 over `all_nll`, the whole step's values.

    >>> weigh_talr(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 2.0])).sum().item()
    2.0
    """
    tau = max(float(_median(all_nll)), _LEAST_TEMPERATURE)
    return _to_mean_one(torch.exp(-nll_K / tau), torch.exp(-all_nll / tau))


def select_lowest(values_K: torch.Tensor, all_values: torch.Tensor, fraction: float) -> torch.Tensor:
    """The `fraction` of the step's tokens with the lowest value, ties at the border included; at least one.

    quantile_online: of the online NLL, the online form of a quantile mask. rho: of the excess loss (see `excess_loss`).
    Z is the number of selected tokens (Rho-1's N * k %): weights are scaled to mean 1 over the step.

    >>> values = torch.tensor([3.0, 1.0, 2.0, 4.0])
    >>> select_lowest(values, values, 0.5).tolist()
    [0.0, 2.0, 2.0, 0.0]
    """
    rank = max(1, round(fraction * len(all_values)))
    border = all_values.sort().values[rank - 1]
    return _to_mean_one((values_K <= border).float(), (all_values <= border).float())


def excess_loss(nll_K: torch.Tensor, reference_nll_K: torch.Tensor, keep: str) -> torch.Tensor:
    """What `select_lowest` orders for rho (Rho-1, arXiv 2404.07965, equation 3: nll - nll_ref, the highest are kept).

    keep=high is the paper's sign, so that the difference is negated; keep=low protects what the reference finds hard.
    """
    excess = nll_K - reference_nll_K
    return -excess if keep == "high" else excess


def _median(values: torch.Tensor) -> torch.Tensor:
    """Mean of the two middle values: torch.median takes the lower one, and torch.quantile has a limit of size."""
    ordered = values.sort().values
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _to_mean_one(own_K: torch.Tensor, everywhere: torch.Tensor) -> torch.Tensor:
    return own_K * float(len(everywhere) / everywhere.double().sum())


@dataclass(frozen=True, slots=True)
class TokenWeighting:
    """An online rule and the values it reads; `none` weighs every trained token alike.

    Pointwise rules need a token's own prediction alone. Stepwise ones need that of all tokens of the step, on all
    ranks: the step is scored once, without gradients, before it is trained.
    """

    rule: str = "none"
    alpha: float = 1.0
    top_k: int = 20
    mode: str = "higher"
    threshold: float = 0.1
    threshold_high: float = 0.9
    fraction: float = 0.6
    keep: str = "high"

    @property
    def is_stepwise(self) -> bool:
        return self.rule in _STEPWISE

    @property
    def entropy_top_k(self) -> int | None:
        """Of how many of the likeliest tokens the entropy is needed; None: it is not."""
        return self.top_k if self.rule == "eaft" else None

    def weigh(self, nll_K: torch.Tensor, entropy_K: torch.Tensor | None, seed: int) -> torch.Tensor | None:
        """Weights of a micro-batch's trained tokens by a pointwise rule, without gradient; None: all are 1."""
        if self.rule not in _POINTWISE:
            return None
        with torch.no_grad():
            if self.rule == "eaft":
                assert entropy_K is not None
                return weigh_eaft(entropy_K, self.top_k, self.alpha)
            if self.rule == "profit":
                return select_profit(nll_K, self.mode, self.threshold, self.threshold_high, seed)
            return weigh_power(nll_K, 1.0 if self.rule == "dft" else self.alpha)

    def value(self, nll_K: torch.Tensor, reference_nll_K: torch.Tensor | None) -> torch.Tensor:
        """What a stepwise rule compares over the step."""
        if self.rule != "rho":
            return nll_K
        assert reference_nll_K is not None
        return excess_loss(nll_K, reference_nll_K, self.keep)

    def weigh_step(self, values_K: torch.Tensor, all_values: torch.Tensor) -> torch.Tensor:
        """Weights of the tokens with `values_K`, of a step whose values over all ranks are `all_values`."""
        if len(all_values) == 0:
            return values_K
        if self.rule == "talr":
            return weigh_talr(values_K, all_values)
        return select_lowest(values_K, all_values, self.fraction)
