"""LoRA and its relatives through PEFT: attach a fresh adapter, load a trained one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.errors import ConfigError
from tokensieve.model import first_line, folder_checksums, quiet_libraries

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def adapter_identity(folder: str) -> dict[str, Any]:
    """Checksums of an adapter folder's files, for stamps.

    Raises:
        ConfigError: not a PEFT adapter folder.
    """
    if not (Path(folder) / "adapter_config.json").is_file():
        raise ConfigError(
            "stm.tuned_adapter",
            "must be a folder with adapter_config.json",
            received=folder,
            remedy="give the adapter folder of a finished run",
        )
    return {"files": folder_checksums(Path(folder))}


def attach_adapter(
    model: PreTrainedModel,
    *,
    method: str,
    rank: int,
    alpha: float,
    dropout: float,
    target_modules: str,
    use_dora: bool,
    use_rslora: bool,
    seed: int,
    gradient_checkpointing: bool,
) -> nn.Module:
    """Make `model` trainable: with a fresh adapter (its output unchanged at the start), or in full.

    `seed` alone decides the initial adapter weights.

    Raises:
        ConfigError: `target_modules` matches no layer.
    """
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if gradient_checkpointing:
        model.activation_checkpointing_enable()
    if method == "none":
        model.requires_grad_(True)
        return model
    if getattr(model, "is_loaded_in_4bit", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    targets = target_modules if target_modules == "all-linear" else [name.strip() for name in target_modules.split(",")]
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT divides it by r; a float is fine
        lora_dropout=dropout,
        target_modules=targets,
        use_dora=use_dora,
        use_rslora=use_rslora,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), quiet_libraries():
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise ConfigError(
                "lora.target_modules",
                "must name linear layers of the model",
                received=target_modules,
                remedy=f"use all-linear; PEFT says: {first_line(error)}",
            ) from error


def load_adapter(model: PreTrainedModel, folder: str | Path) -> nn.Module:
    """`model` with the trained adapter of `folder`, not trainable.

    Raises:
        ConfigError: an adapter of another base model.
    """
    from peft import PeftModel

    try:
        with quiet_libraries():
            return PeftModel.from_pretrained(model, str(folder)).eval()
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            "adapter",
            "must have been trained on this base model",
            received=f"{folder}: {first_line(error)}",
            remedy=f"its base is {_adapter_base(Path(folder))}",
        ) from error


def _adapter_base(folder: Path) -> str:
    try:
        return str(
            json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
        )
    except (OSError, ValueError):
        return "unknown"
