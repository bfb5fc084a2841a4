"""Penalties that hold a model near the one it started from: KL to the frozen reference, L2 to its weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from tokensieve.collectives import gather
from tokensieve.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from tokensieve.loss import Divergence


def divergence_k1(log_p_KV: torch.Tensor, log_q_KV: torch.Tensor, targets_K: torch.Tensor) -> torch.Tensor:
    """`ln p(x) - ln q(x)`, p in training, q the reference (Schulman's k1). Unbiased for KL(p || q) where p drew x.

    Here x is the data's token, so it is a biased estimate; its gradient is that of a smaller NLL term, nothing else.
    """
    return _at(log_p_KV, targets_K) - _at(log_q_KV, targets_K)


def divergence_k3(log_p_KV: torch.Tensor, log_q_KV: torch.Tensor, targets_K: torch.Tensor) -> torch.Tensor:
    """`r - 1 - ln r` with r = q(x) / p(x) (Schulman's k3): at least 0, on the data's tokens a biased KL(p || q).

    What the code of arXiv 2501.14315 uses, there with the opposite sign and off by one position.
    """
    log_ratio = _at(log_q_KV, targets_K) - _at(log_p_KV, targets_K)
    return torch.exp(log_ratio) - 1 - log_ratio


def divergence_forward(log_p_KV: torch.Tensor, log_q_KV: torch.Tensor, targets_K: torch.Tensor) -> torch.Tensor:
    """KL(q || p) over the whole vocabulary, of the reference q to p in training (ASFT, arXiv 2509.23753)."""
    return (torch.exp(log_q_KV) * (log_q_KV - log_p_KV)).sum(-1)


def divergence_reverse(log_p_KV: torch.Tensor, log_q_KV: torch.Tensor, targets_K: torch.Tensor) -> torch.Tensor:
    """KL(p || q) over the whole vocabulary, which k1 and k3 estimate."""
    return (torch.exp(log_p_KV) * (log_p_KV - log_q_KV)).sum(-1)


def _at(log_probabilities_KV: torch.Tensor, targets_K: torch.Tensor) -> torch.Tensor:
    return log_probabilities_KV.gather(-1, targets_K[:, None])[:, 0]


DIVERGENCES: Final[Mapping[str, Divergence]] = {
    "k1": divergence_k1,
    "k3": divergence_k3,
    "forward": divergence_forward,
    "reverse": divergence_reverse,
}


@dataclass(frozen=True, slots=True)
class Regulariser:
    """A penalty and its size. `divergence`: a name of DIVERGENCES, for the rules kl and asft.

    kl adds `coefficient * sum of the divergence over the step's trained tokens / Z`, with the loss's own Z: it is exact
    under accumulation and over ranks. asft is the same on top of DFT's weights. l2_sp does not depend on data and is
    added once a step.
    """

    rule: str = "none"
    coefficient: float = 0.0
    divergence: str = "forward"

    @property
    def compares(self) -> bool:
        """Whether it needs the frozen reference's predictions."""
        return self.rule in ("kl", "asft")


@contextlib.contextmanager
def as_reference(model: nn.Module) -> Iterator[nn.Module]:
    """The frozen base within a model with an adapter: adapter off, no dropout, no gradients."""
    adapter: Any = model.base_model  # PEFT's tuner; its model's own disable_adapter inspects every layer first
    in_training = [module for module in model.modules() if module.training]
    for module in in_training:
        module.training = False
    adapter.disable_adapter_layers()
    try:
        with torch.no_grad():
            yield model
    finally:
        adapter.enable_adapter_layers()
        for module in in_training:
            module.training = True


def copy_anchor(model: nn.Module) -> dict[str, torch.Tensor]:
    """The values that `l2_sp` measures from, of a model whose weights are trained themselves; none with an adapter.

    An adapter starts at a zero update, so the update is the distance. Of a sharded model: this rank's shards.
    """
    if hasattr(model, "peft_config"):
        return {}
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def add_l2_sp_gradients(model: nn.Module, coefficient: float, anchor: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Add the gradient of `coefficient / 2 * |w - w0|^2` (L2-SP, arXiv 1802.01483, equation 2) to the step's gradients.

    w0 are the weights at the start. With LoRA, w - w0 is the update scale * B @ A of each layer, whose norm needs no
    more than r x r products. Returns `|w - w0|^2`, a float64 scalar. Every rank adds the whole, after gradients are
    summed over ranks; all ranks of a sharded model must call it.

    Raises:
        ConfigError: an adapter whose update is not scale * B @ A.
    """
    if hasattr(model, "peft_config"):
        squares = [_update_square(name, module) for name, module in model.named_modules() if hasattr(module, "lora_A")]
        total = torch.stack([square for parts in squares for square in parts]).sum()
        (0.5 * coefficient * total).backward()
        return total.detach().double()
    total = torch.zeros((), dtype=torch.float64)
    for name, value in model.named_parameters():
        if name not in anchor:
            continue
        difference = value.detach() - anchor[name].to(value.device)
        total += gather(difference.float().square().sum()).double().cpu()
        gradient = (coefficient * difference).to(value.dtype)
        value.grad = gradient if value.grad is None else value.grad + gradient
    return total


def _update_square(name: str, module: Any) -> Iterator[torch.Tensor]:
    """`|scale * B @ A|^2` of each adapter of a layer: scale^2 * trace(B'B AA')."""
    for adapter in module.active_adapters:
        if adapter not in module.lora_A or module.use_dora.get(adapter, False) or hasattr(module, "parameter_name"):
            raise ConfigError(
                "regulariser",
                "l2_sp needs plain LoRA updates of linear layers, scale * B @ A",
                received=f"{type(module).__name__} at {name}",
                remedy="set lora.use_dora=false and name linear layers in lora.target_modules, or use regulariser=kl",
            )
        a_RI, b_OR = (gather(part[adapter].weight).float() for part in (module.lora_A, module.lora_B))
        with torch.autocast(a_RI.device.type, enabled=False):
            square = ((b_OR.T @ b_OR) * (a_RI @ a_RI.T)).sum()
        yield module.scaling[adapter] ** 2 * square
