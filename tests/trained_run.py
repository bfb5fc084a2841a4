"""A run's folder as training leaves it, around a tiny checkpoint: config.yaml and adapter/, with weights that matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tokensieve.adapter import attach_adapter
from tokensieve.config import LoraConfig, ModelConfig, RunConfig, to_yaml
from tokensieve.model import load_base


def make_adapter(base: Path, folder: Path, *, scale: float = 0.3, **lora: Any) -> Path:
    """An adapter whose B matrices are random: an untrained one would change nothing."""
    model = load_base(str(base), None, dtype="float32", attention="auto", device=torch.device("cpu"))
    options = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "target_modules": "all-linear", "use_dora": False,
               "use_rslora": False, **lora}  # fmt: skip
    tuned: Any = attach_adapter(model, method="lora", seed=0, gradient_checkpointing=False, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name or "lora_embedding_B" in name:
                weight.normal_(0, scale, generator=generator)
            if "magnitude" in name:
                weight.mul_(1.3)
    tuned.save_pretrained(str(folder))
    return folder


def make_run(folder: Path, base: Path, *, lora: LoraConfig | None = None, **adapter: Any) -> Path:
    """A finished run on `base`; `adapter` goes to `make_adapter`."""
    folder.mkdir(parents=True)
    config = RunConfig(model=ModelConfig(name="tiny", path=str(base)), lora=lora or LoraConfig())
    (folder / "config.yaml").write_text(to_yaml(config))
    make_adapter(base, folder / "adapter", **adapter)
    return folder
