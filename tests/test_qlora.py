"""4-bit bases: training after scoring must still send gradients through the frozen layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoint import save_tiny

from tokensieve.adapter import attach_adapter
from tokensieve.model import load_base

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("wide"), hidden_size=64, intermediate_size=128)


def gradients(folder: Path, *, score_first: bool, dequantise: bool) -> dict[str, torch.Tensor]:
    base: Any = load_base(
        str(folder), None, dtype="float32", attention="auto", device=torch.device("cpu"), quantise="nf4"
    )
    if dequantise:
        base = base.dequantize()
    if score_first:
        with torch.inference_mode():
            base(IDS)
    options: dict[str, Any] = {
        "rank": 4,
        "alpha": 8.0,
        "target_modules": "all-linear",
        "use_dora": False,
        "use_rslora": False,
    }
    model = attach_adapter(base, method="lora", dropout=0.0, seed=1, gradient_checkpointing=False, **options)
    model.train()
    model(IDS, labels=IDS).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_gradient_after_scoring_is_that_of_the_dequantised_base(folder: Path) -> None:
    expected = gradients(folder, score_first=False, dequantise=True)
    for score_first in (False, True):
        got = gradients(folder, score_first=score_first, dequantise=False)
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.allclose(got[name], value, rtol=1e-3, atol=1e-5), (score_first, name)
