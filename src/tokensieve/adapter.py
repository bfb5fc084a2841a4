"""LoRA and its relatives through PEFT: attach a fresh adapter, load a trained one."""

from __future__ import annotations

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Final

from tokensieve.errors import ConfigError
from tokensieve.model import first_line, folder_checksums, quiet_libraries

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


_WEIGHT_FILES: Final = ("adapter_model.safetensors", "adapter_model.bin")


def adapter_identity(folder: str, key: str = "stm.tuned_adapter") -> dict[str, Any]:
    """Checksums of the files of the adapter folder that the config's `key` names, for stamps.

    Raises:
        ConfigError: not a PEFT adapter folder.
    """
    if not (Path(folder) / "adapter_config.json").is_file():
        raise ConfigError(
            key,
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

    `seed` alone decides the initial adapter weights. What no text passes through, as the vision tower of a multimodal
    model, gets no adapter and is not trained.

    Raises:
        ConfigError: `target_modules` matches no layer, or one that PEFT cannot adapt with these settings.
    """
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if gradient_checkpointing:
        model.activation_checkpointing_enable()
    if method == "none":
        _unfreeze(model)
        model.train()
        return model
    if getattr(model, "is_loaded_in_4bit", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    every = target_modules == "all-linear"
    excluded = [*_outside_decoder(model), *(_unfit_layers(model) if every else ())]
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT divides it by r; a float is fine
        lora_dropout=dropout,
        target_modules=target_modules if every else [name.strip() for name in target_modules.split(",")],
        exclude_modules=excluded or None,
        use_dora=use_dora,
        use_rslora=use_rslora,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), quiet_libraries():
        torch.manual_seed(seed)
        try:
            adapted = get_peft_model(model, config)
        except ValueError as error:
            raise _explain(error, target_modules, dropout, use_dora) from error
    # PEFT keeps names in sets and saves them in the order of their hashes, which differs from process to process.
    for entry in adapted.peft_config.values():
        for key in ("target_modules", "exclude_modules"):
            names = getattr(entry, key, None)
            if isinstance(names, set):
                setattr(entry, key, sorted(names))
    return adapted.train()  # activations are recomputed in training mode alone


def _unfreeze(model: PreTrainedModel) -> None:
    """Let what makes the logits of a text train; a vision tower stays as it is."""
    model.requires_grad_(False)
    parts: Any = (model.get_decoder(), model.get_output_embeddings())
    for part in parts:
        part.requires_grad_(True)


def _outside_decoder(model: PreTrainedModel) -> list[str]:
    """Names of the linear layers that no text passes through: a vision tower's, which would have no gradient."""
    from torch import nn

    inside = {id(module) for module in (*model.get_decoder().modules(), model.get_output_embeddings())}
    return [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and id(module) not in inside
    ]


def _unfit_layers(model: PreTrainedModel) -> list[str]:
    """Names of the linear layers that no adapter fits.

    All but the first projection of Mamba mixers, whose kernels read the weights and skip an adapter; routers, which
    return more than a product.
    """
    from torch import nn

    modules = list(model.named_modules())
    mixers = [name for name, module in modules if hasattr(module, "A_log")]
    projections = [f"{name}.{layer}" for name in mixers for layer in ("x_proj", "dt_proj", "out_proj")]
    routers = [name for name, module in modules if isinstance(module, nn.Linear) and "Router" in type(module).__name__]
    return projections + routers


def _explain(error: ValueError, target_modules: str, dropout: float, use_dora: bool) -> ConfigError:
    if "ParamWrapper" in str(error):  # PEFT's adapter of a tensor that holds the weights of many layers
        return ConfigError(
            "lora.target_modules",
            "can take in the experts of a mixture only without lora.dropout and lora.use_dora",
            received=f"{target_modules} with lora.dropout={dropout:g}, lora.use_dora={str(use_dora).lower()}",
            remedy="set lora.dropout=0 lora.use_dora=false, or name attention layers (q_proj,k_proj,v_proj,o_proj)",
        )
    return ConfigError(
        "lora.target_modules",
        "must name linear layers of the model",
        received=target_modules,
        remedy=f"use all-linear; PEFT says: {first_line(error)}",
    )


def load_adapter(model: PreTrainedModel, folder: str | Path) -> nn.Module:
    """`model` with the trained adapter of `folder`, not trainable.

    Raises:
        ConfigError: an adapter of another base model, or one without readable weights.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    # PEFT looks for weights that are not there on the hub, under the folder's name.
    if not any((Path(folder) / name).is_file() for name in _WEIGHT_FILES):
        raise _unreadable(folder, f"no {_WEIGHT_FILES[0]}")
    try:
        with quiet_libraries():
            return PeftModel.from_pretrained(model, str(folder)).eval()
    except (SafetensorError, OSError, EOFError, UnpicklingError) as error:
        raise _unreadable(folder, first_line(error)) from error
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            "adapter",
            "must have been trained on this base model",
            received=f"{folder}: {first_line(error)}",
            remedy=f"its base is {_adapter_base(Path(folder))}",
        ) from error


def _unreadable(folder: str | Path, fault: str) -> ConfigError:
    remedy = "copy the adapter again, or finish its run"
    return ConfigError("adapter", "must hold weights that can be read", received=f"{folder}: {fault}", remedy=remedy)


def merge_adapter(model: PreTrainedModel, folder: str | Path) -> PreTrainedModel:
    """`model` with the trained adapter of `folder` added into its weights.

    Raises:
        ConfigError: an adapter of another base model.
    """
    adapted: Any = load_adapter(model, folder)
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged


def _adapter_base(folder: Path) -> str:
    try:
        return str(
            json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
        )
    except (OSError, ValueError):
        return "unknown"
