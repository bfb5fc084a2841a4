"""How far training moved the weights, read from a saved adapter."""

from __future__ import annotations

import json
import math
from pathlib import Path


def measure_weight_change(folder: Path) -> float | None:
    """Euclidean norm over all adapted matrices of what a LoRA adapter adds (||dW|| of STM, arXiv 2501.14315, table 7).

    For dW = s B A the square is s^2 * sum((B^T B) * (A A^T)): no product of a layer's size is formed. None where the
    folder holds no LoRA adapter, or DoRA, whose update cannot be told without the base, or factors of several experts
    in one tensor.
    """
    import torch
    from safetensors import safe_open

    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    if not weights.is_file() or not config.is_file():
        return None
    settings = json.loads(config.read_text(encoding="utf-8"))
    if settings.get("use_dora") or settings.get("target_parameters"):
        return None
    rank, alpha = settings["r"], settings["lora_alpha"]
    scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    square = 0.0
    with safe_open(weights, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118  # a file, not a mapping
            if ".lora_A." in name:
                down = tensors.get_tensor(name).to(torch.float64)
                up = tensors.get_tensor(name.replace(".lora_A.", ".lora_B.")).to(torch.float64)
                square += float(((up.T @ up) * (down @ down.T)).sum())
    return float(scale * math.sqrt(square))
