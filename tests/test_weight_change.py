from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tokensieve.weight_change import measure_weight_change


def _adapter(folder: Path, **settings: object) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    layers = [
        (torch.randn(2, 5, generator=generator), torch.randn(7, 2, generator=generator)),
        (torch.randn(2, 3, generator=generator), torch.randn(4, 2, generator=generator)),
    ]
    tensors = {}
    for number, (down, up) in enumerate(layers):
        tensors[f"base_model.model.layer{number}.lora_A.weight"] = down
        tensors[f"base_model.model.layer{number}.lora_B.weight"] = up
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"r": 2, "lora_alpha": 8, "use_dora": False, "use_rslora": False, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return layers


@pytest.mark.parametrize(("rank_stabilised", "scale"), [(False, 4.0), (True, 8 / math.sqrt(2))])
def test_norm_equals_that_of_the_whole_update(tmp_path: Path, rank_stabilised: bool, scale: float) -> None:
    layers = _adapter(tmp_path, use_rslora=rank_stabilised)
    whole = torch.cat([(scale * up.double() @ down.double()).flatten() for down, up in layers])
    assert measure_weight_change(tmp_path) == pytest.approx(float(whole.norm()), rel=1e-12)


def test_no_number_where_the_update_cannot_be_told(tmp_path: Path) -> None:
    assert measure_weight_change(tmp_path) is None
    _adapter(tmp_path, use_dora=True)
    assert measure_weight_change(tmp_path) is None
    _adapter(tmp_path, target_parameters=["experts.gate_up_proj"])  # factors of all experts lie in one tensor
    assert measure_weight_change(tmp_path) is None
