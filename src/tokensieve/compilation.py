"""torch.compile of a model's layers, where this machine has a compiler."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tokensieve.errors import ConfigError
from tokensieve.model import first_line

# Variants of one layer's code that may be compiled: an evaluation and a training one, for a few shapes and dtypes.
_VARIANTS = 64


def check_compiler(device: torch.device) -> None:
    """Compile a line of code on `device`.

    Raises:
        ConfigError: it does not compile, for want of a C++ compiler (CPU) or of Triton (GPU).
    """
    from torch._inductor.utils import fresh_cache

    def probe(values: torch.Tensor) -> torch.Tensor:
        return torch.sin(values) + 1

    try:
        with fresh_cache():  # else one that was found earlier would answer
            torch.compile(probe)(torch.zeros(8, device=device))
    except Exception as error:  # whatever layer of the compiler fails
        raise ConfigError(
            "trainer.compile",
            "needs a C++ compiler on this machine" if device.type == "cpu" else "needs Triton and a C compiler",
            received=f"{type(error).__name__}: {first_line(error)}"[:300],
            remedy="install g++, or set trainer.compile=false"
            if device.type == "cpu"
            else "install triton and gcc, or set trainer.compile=false",
        ) from error
    finally:
        torch.compiler.reset()


def compile_layers(model: nn.Module) -> int:
    """Compile the layers of `model` in place, one code for all of a kind; returns how many. Nothing is run yet.

    Parameters keep their names, and what a layer does keeps its result up to rounding; dropout draws other masks. A
    family that names no layers is compiled as a whole.
    """
    causal: Any = model.get_base_model() if hasattr(model, "peft_config") else model  # type: ignore[operator]
    kinds = set(getattr(causal, "_no_split_modules", None) or ())
    decoder = causal.get_decoder()
    layers = [module for module in decoder.modules() if type(module).__name__ in kinds] or [decoder]
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)
    for layer in layers:
        layer.compile(dynamic=True)
    return len(layers)
