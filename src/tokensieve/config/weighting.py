"""Config groups `weight` and `regulariser`: how much each trained token counts, and what holds the model back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Optional

from tokensieve.config.model import LoraConfig
from tokensieve.config.rule import require
from tokensieve.config.training import TrainerConfig

# The fields that each rule reads: the others are no part of a run's identity.
_WEIGHT_FIELDS: dict[str, tuple[str, ...]] = {
    "none": (),
    "dft": (),
    "power": ("alpha",),
    "eaft": ("alpha", "top_k"),
    "profit": ("mode", "threshold"),
    "talr": (),
    "flow": ("level",),
    "rho": ("fraction", "keep", "against", "reference", "reference_revision"),
    "quantile_online": ("fraction",),
}
_REGULARISER_FIELDS: dict[str, tuple[str, ...]] = {
    "none": (),
    "kl": ("coefficient", "estimator", "direction"),
    "l2_sp": ("coefficient",),
    "asft": ("coefficient",),
}


@dataclass(kw_only=True, slots=True)
class WeightConfig:
    """How much each token that `stm` keeps counts: a factor of its NLL, through which no gradient flows."""

    rule: Literal["none", "dft", "power", "eaft", "profit", "talr", "flow", "rho", "quantile_online"] = "none"
    """none: all alike. p is the probability that the model in training gives the token. dft: p (2508.05629). power:
    p^alpha (2510.00526). eaft: (entropy of the top_k / ln top_k)^alpha (2601.02151). profit: 1 where p > threshold,
    else 0 (2601.09195). talr: p^(1/tau), tau the step's median NLL (2509.20758). flow: exp(-NLL / median NLL) under the
    frozen scorer, fixed (2502.02797). rho: 1 for the share of highest NLL - NLL of `reference` (2404.07965), else 0.
    quantile_online: 1 for the share of lowest NLL in each step, else 0. All but talr, flow, rho and quantile_online are
    divided by the number of trained tokens; those four have a mean weight of 1."""
    alpha: float = 1.0
    """Exponent of power and eaft, at least 0: 0 is plain training, 1 with power is dft."""
    top_k: int = 20
    """Tokens of the vocabulary that eaft's entropy is over."""
    mode: Literal["higher", "lower", "middle", "random"] = "higher"
    """profit: which tokens count: p above the threshold, at most the threshold, between the two, or a random draw that
    leaves out the share `threshold`."""
    threshold: float = 0.1
    """Bound of profit on p, in [0, 1): 0.1 is its code's default. STM's 2.5 is 0.4 before the first step."""
    threshold_high: float = 0.9
    """Upper bound on p of profit with mode=middle."""
    level: Literal["sequence", "token"] = "sequence"
    """flow: one weight for each example, by its mean NLL, or one for each token."""
    fraction: float = 0.6
    """Share of trained tokens that rho and quantile_online keep, in (0, 1]; 0.6 is rho's choice."""
    keep: Literal["high", "low"] = "high"
    """rho: keep the highest excess loss, as the paper does, or the lowest."""
    against: Literal["online", "frozen"] = "online"
    """rho: whose NLL is compared with the reference's. online: the model's in training, in each step (Rho-1). frozen:
    the scorer's, once for the whole corpus (Token Cleaning, 2502.01968)."""
    reference: Optional[str] = None
    """rho: the reference scorer, an adapter folder of an earlier run or a model (folder or hub id, same tokenizer)."""
    reference_revision: Optional[str] = None

    def __post_init__(self) -> None:
        require(0 <= self.alpha < math.inf, "weight.alpha", "must be a finite number, at least 0", self.alpha, "use 1")
        require(self.top_k >= 2, "weight.top_k", "must be at least 2 tokens", self.top_k, "20 is the paper's choice")
        require(
            0 <= self.threshold < 1,
            "weight.threshold",
            "must be in [0, 1): a probability",
            self.threshold,
            "try 0.1; a perplexity x is the probability 1/x",
        )
        require(
            self.rule != "profit" or self.mode != "middle" or self.threshold < self.threshold_high <= 1,
            "weight.threshold_high",
            f"must be above weight.threshold={self.threshold:g} and at most 1",
            self.threshold_high,
            "try 0.9",
        )
        require(0 < self.fraction <= 1, "weight.fraction", "must be in (0, 1]", self.fraction, "try 0.6")
        require(
            self.rule != "rho" or bool(self.reference),
            "weight.reference",
            "rho compares with a reference scorer and needs one",
            self.reference,
            "set weight.reference to an adapter folder (outputs/.../adapter) or a model",
        )

    @property
    def needs_scores(self) -> bool:
        """Whether it reads the frozen scorer's NLL of the training data."""
        return self.rule == "flow" or (self.rule == "rho" and self.against == "frozen")

    @property
    def label(self) -> str:
        """In a run's name: `dft`, `power=0.5`, `profit-lower=0.1`, `rho-low=0.6`, ..."""
        number = {"power": self.alpha, "eaft": self.alpha, "profit": self.threshold, "rho": self.fraction}
        number["quantile_online"] = self.fraction
        variants = {
            "profit": self.mode if self.mode != "higher" else "",
            "flow": self.level if self.level != "sequence" else "",
            "rho": "-".join(
                [*(["low"] if self.keep == "low" else []), *(["frozen"] if self.against == "frozen" else [])]
            ),
        }
        name = "-".join(part for part in (self.rule, variants.get(self.rule, "")) if part)
        return f"{name}={number[self.rule]:g}" if self.rule in number else name

    def identity(self) -> dict[str, Any]:
        """The rule and the fields that it reads; empty without a rule."""
        fields = _WEIGHT_FIELDS[self.rule]
        if self.rule == "profit" and self.mode == "middle":
            fields = (*fields, "threshold_high")
        return {"rule": self.rule, **{key: getattr(self, key) for key in fields}} if self.rule != "none" else {}


@dataclass(kw_only=True, slots=True)
class RegulariserConfig:
    """What holds the model near the one it started from."""

    rule: Literal["none", "kl", "l2_sp", "asft"] = "none"
    """none. kl: adds coefficient * KL between the model and the frozen base, over the trained tokens. l2_sp: adds
    coefficient / 2 * |w - w0|^2 (1802.01483). asft: weights p and KL(base || model) (2509.23753)."""
    coefficient: float = 0.05
    """0.05 is ASFT's. With kl, a number below 0 rewards divergence, as the code of arXiv 2501.14315 does."""
    estimator: Literal["full", "k1", "k3"] = "full"
    """kl. full: over the whole vocabulary. k1 and k3: Schulman's estimates of KL(model || base) from the data's token
    alone, biased because the model did not sample it; k1's gradient is that of a smaller NLL, nothing else."""
    direction: Literal["forward", "reverse"] = "forward"
    """kl with estimator=full. forward: KL(base || model), as in ASFT. reverse: KL(model || base)."""

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.coefficient) and (self.coefficient >= 0 or self.rule == "kl"),
            "regulariser.coefficient",
            "must be a finite number, at least 0",
            self.coefficient,
            "try 0.05",
        )

    @property
    def compares(self) -> bool:
        """Whether it needs the predictions of the frozen base."""
        return self.rule in ("kl", "asft")

    @property
    def label(self) -> str:
        """In a run's name: `kl=0.05`, `kl-k3=1e-05`, `l2_sp=0.01`, `asft=0.05`."""
        name = f"kl-{self.divergence}" if self.rule == "kl" and self.divergence != "forward" else self.rule
        return f"{name}={self.coefficient:g}"

    @property
    def divergence(self) -> str:
        """The kind of KL: forward, reverse, k1 or k3."""
        if self.rule == "asft":
            return "forward"
        return self.direction if self.estimator == "full" else self.estimator

    def identity(self) -> dict[str, Any]:
        """The rule and the fields that it reads; empty without a rule."""
        fields = _REGULARISER_FIELDS[self.rule]
        if self.estimator != "full":
            fields = tuple(field for field in fields if field != "direction")
        return {"rule": self.rule, **{key: getattr(self, key) for key in fields}} if self.rule != "none" else {}


def check_weighting(
    weight: WeightConfig, regulariser: RegulariserConfig, lora: LoraConfig, trainer: TrainerConfig
) -> None:
    """Raise a ConfigError for rules that do not go together, or not with this kind of training."""
    require(
        regulariser.rule != "asft" or weight.rule == "none",
        "regulariser",
        "asft brings its own token weights, those of dft",
        f"weight.rule={weight.rule}",
        "set weight=none, or regulariser=kl with the weights that you want",
    )
    require(
        not (regulariser.compares and lora.method == "none" and trainer.strategy == "fsdp"),
        "regulariser",
        f"{regulariser.rule} of full fine-tuning holds a frozen copy of the base, which fsdp does not split",
        "trainer.strategy=fsdp",
        "use lora=r16, whose base is the reference, or trainer=ddp",
    )
    require(
        not (regulariser.rule == "l2_sp" and lora.method != "none" and lora.use_dora),
        "regulariser",
        "l2_sp measures LoRA's update scale * B @ A, which is not DoRA's",
        "lora.use_dora=true",
        "use lora=r16 or lora=none, or regulariser=kl",
    )
