"""The split of a causal model into its decoder and its output head, so that logits are made only where needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from tokensieve.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

# Config keys by which families multiply their logits.
_FACTORS: Final = ("logit_scale", "lm_head_multiplier", "output_multiplier")
# Config keys by which families soft-cap them: Gemma's, RecurrentGemma's, xLSTM's.
_SOFT_CAPS: Final = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
# Families that multiply by logits_scaling, where Granite divides.
_MULTIPLIES_SCALING: Final = frozenset({"hyperclovax"})
# Of the largest logit: what half precision loses, and far less than a scale or a soft cap changes.
_PROBE_TOLERANCE: Final = 0.03


@dataclass(frozen=True, slots=True)
class OutputHead:
    """The map from hidden states to logits: `softcap(scale * (hidden @ weight.T + bias))`.

    `scale` multiplies (Cohere's logit_scale, Falcon-H1's lm_head_multiplier; the inverse of Granite's logits_scaling);
    `softcap` c maps logits to c * tanh(logits / c) (Gemma 2).
    """

    weight: torch.Tensor  # [V, D]
    bias: torch.Tensor | None  # [V]
    scale: float = 1.0
    softcap: float | None = None
    wide_weight: torch.Tensor | None = None  # `weight` in float32, where it was made ahead of many products


def split_head(model: nn.Module) -> tuple[nn.Module, OutputHead]:
    """The decoder (token ids -> hidden states [B, T, D]) and the output head of a causal model, adapter included.

    Raises:
        ConfigError: a model whose head is not a plain linear layer.
    """
    import torch

    causal = _unwrap(model)
    head = causal.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if not isinstance(weight, torch.Tensor) or hasattr(head, "lora_A"):
        raise ConfigError(
            "lora.target_modules",
            "must leave the output head a plain linear layer",
            received=type(head).__name__,
            remedy="use lora.target_modules=all-linear, which leaves the head alone",
        )
    config = causal.config.get_text_config()
    softcap = next((float(cap) for key in _SOFT_CAPS if (cap := getattr(config, key, None))), None)
    return causal.get_decoder(), OutputHead(weight, getattr(head, "bias", None), _scale(config), softcap)


def widen(head: OutputHead) -> OutputHead:
    """For many products without gradient: on CPU, half-precision weights are converted once, not for each of them."""
    if head.weight.is_cuda or head.weight.element_size() == 4:
        return head
    return replace(head, wide_weight=head.weight.float())


def check_head(model: nn.Module) -> None:
    """Make sure that `split_head` and the model's own forward pass turn the same hidden states into the same logits.

    The decoder is not run: made-up states take its place, small ones and ones that show a soft cap. Models whose
    forward pass takes no such stand-in are not checked.

    Raises:
        ConfigError: they do not, because the family does to its logits what is not known here.
    """
    import torch

    from tokensieve.loss import compute_logits

    causal = _unwrap(model)
    try:
        decoder, head = split_head(model)
    except ConfigError:
        return  # those who need the head hear of it; texts can be generated without
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2, head.weight.shape[1], generator=generator) * torch.tensor([[1.0], [30.0]])
    hidden = states.to(head.weight)
    with torch.no_grad():
        found = _forward_with_states(causal, decoder, hidden)
        if found is None:
            return
        expected = compute_logits(hidden, head)
    difference = (found.float() - expected).abs().amax(-1)
    if not bool((difference <= _PROBE_TOLERANCE * expected.abs().amax(-1)).all()):
        raise ConfigError(
            "model.path",
            "must scale or cap its logits in a way that is known here",
            received=f"{type(causal).__name__}, whose logits differ by up to {float(difference.max()):.3g}",
            remedy="use a model of another family; its scoring and training would be wrong",
        )


def _forward_with_states(causal: Any, decoder: nn.Module, hidden_KD: torch.Tensor) -> torch.Tensor | None:
    """The model's logits [K, V] for these hidden states; None where its forward pass needs more of its decoder."""
    import torch
    from transformers.modeling_outputs import MoeModelOutputWithPast

    class States(MoeModelOutputWithPast):
        """Nothing but hidden states, whatever is asked for."""

        def __getattr__(self, name: str) -> None:
            if name.startswith("__"):
                raise AttributeError(name)

    output = States(last_hidden_state=hidden_KD[None])
    ids = torch.zeros(1, len(hidden_KD), dtype=torch.long, device=hidden_KD.device)
    own = decoder.__dict__.get("forward")
    decoder.forward = lambda *args, **kwargs: output
    try:
        logits: torch.Tensor = causal(input_ids=ids, use_cache=False).logits[0]
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return None
    finally:
        del decoder.forward
        if own is not None:
            decoder.forward = own
    return logits


def _scale(config: Any) -> float:
    """What the config multiplies logits by; None and absent keys are 1."""
    factor = 1.0
    for key in _FACTORS:
        factor *= float(getattr(config, key, None) or 1.0)
    scaling = float(getattr(config, "logits_scaling", None) or 1.0)
    return factor * scaling if config.model_type in _MULTIPLIES_SCALING else factor / scaling


def _unwrap(model: Any) -> Any:
    """The causal model within PEFT, or `model`."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
