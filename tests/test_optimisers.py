"""The optimisers of the schema, and 4-bit bases: what they hold, and that they train."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from test_fit import train
from tiny_checkpoint import save_tiny
from torch import nn

from tokensieve import pipeline
from tokensieve.cli import compose
from tokensieve.errors import ConfigError
from tokensieve.model import load_base
from tokensieve.optimisers import build_optimiser

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")


def step(name: str, size: int = 8192) -> tuple[torch.Tensor, torch.optim.Optimizer]:
    """Two steps down the slope of a parabola; returns the weights, which start at 1."""
    weights = nn.Parameter(torch.ones(size))
    optimiser = build_optimiser(name, [weights], 0.1, 0.0, (0.9, 0.999))
    for _ in range(2):
        optimiser.zero_grad()
        (weights**2).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return weights.detach(), optimiser


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "paged_adamw_32bit"])
def test_adam_steps_by_the_learning_rate(name: str) -> None:
    weights, _ = step(name)
    torch.testing.assert_close(weights, torch.full_like(weights, 0.8), rtol=0, atol=5e-3)


def test_eight_bit_optimiser_holds_a_byte_a_weight_and_moment() -> None:
    _, optimiser = step("adamw_8bit")
    (state,) = optimiser.state.values()
    assert {state[key].dtype for key in ("state1", "state2")} == {torch.uint8}


def test_paged_optimiser_is_paged() -> None:
    _, optimiser = step("paged_adamw_32bit")
    settings: Any = optimiser
    assert settings.is_paged


@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw_32bit"])
def test_optimisers_of_bitsandbytes_fit(tmp_path: Path, name: str) -> None:
    nll = [entry["train/nll"] for entry in train(tmp_path, dropout=0.0, optimiser=name) if "train/nll" in entry]
    assert nll[-1] < nll[0]


def test_missing_bitsandbytes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"^optim\.name: adamw_8bit needs bitsandbytes.*optim=adamw"):
        step("adamw_8bit")


@pytest.mark.parametrize("double", [False, True])
def test_nf4_constants_are_quantised_on_request(tmp_path: Path, double: bool) -> None:
    folder = save_tiny(tmp_path / "wide", hidden_size=64, intermediate_size=128)
    model = load_base(
        str(folder), None, dtype="float32", attention="auto", device=CPU, quantise="nf4", double_quantise=double
    )
    states: list[Any] = [
        value.quant_state for value in model.parameters() if getattr(value, "quant_state", None) is not None
    ]
    assert states
    assert {state.quant_type for state in states} == {"nf4"}
    assert {state.nested for state in states} == {double}
    assert {state.absmax.dtype for state in states} == {torch.uint8 if double else torch.float32}


@pytest.mark.skipif(bool(find_spec("flash_attn") or find_spec("flash_attn_interface")), reason="it is installed")
@pytest.mark.parametrize("attention", ["flash_attention_2", "flash_attention_3"])
def test_flash_attention_that_is_not_installed_is_named(tmp_path: Path, attention: str) -> None:
    folder = save_tiny(tmp_path / "tiny")
    with pytest.raises(
        ConfigError, match=rf"^model\.attention: .*received .{attention}: .*installed.*model\.attention=auto"
    ):
        load_base(str(folder), None, dtype="float32", attention=attention, device=CPU)


@pytest.mark.skipif(bool(find_spec("flash_attn") or find_spec("kernels")), reason="it is installed")
def test_flash_attention_that_is_not_installed_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    asked = [f"output_dir={tmp_path}", "model.attention=flash_attention_2"]
    with pytest.raises(ConfigError, match=r"^model\.attention: needs the package flash_attn.*\[gpu\].*auto"):
        pipeline.validate(compose(asked))
    pipeline.validate(compose([*asked, "launcher=ray"]))  # its nodes have packages of their own
