"""The one model a process holds: the frozen base, or the base with a trained adapter."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.adapter import adapter_identity
from tokensieve.config import RunConfig
from tokensieve.model import model_identity

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@dataclass(slots=True)
class ResidentModel:
    """Loads on demand and keeps one model at a time, because PEFT changes a base's layers in place."""

    config: RunConfig
    _held: dict[str, Any] = field(default_factory=dict)

    def base(self) -> PreTrainedModel:
        """The frozen base as the config describes it."""
        if "base" not in self._held:
            self.forget()
            base = self._load(self.config.model.path, self.config.model.revision, quantise=True)
            self._held["base"] = with_first_adapter(base, self.config)
        model: PreTrainedModel = self._held["base"]
        return model

    def trained(self, folder: str | Path) -> nn.Module:
        """The base with the adapter of `folder`, or the fully trained model that `folder` holds."""
        from tokensieve.adapter import load_adapter

        key = str(folder)
        if key not in self._held:
            if (Path(folder) / "adapter_config.json").is_file():
                model = load_adapter(self.base(), folder)
                self._held.clear()  # the base is inside it now
            else:
                self.forget()
                model = self._load(key, None, quantise=False)
            self._held[key] = model
        held: nn.Module = self._held[key]
        return held

    def scorer(self, path: str, revision: str | None) -> PreTrainedModel:
        """Another frozen model, not kept."""
        return self._load(path, revision, quantise=False)

    def forget(self) -> None:
        """Drop what is held: its layers or weights are about to change, or memory is needed."""
        if self._held:  # a collection goes through all that the libraries have made: a third of a second
            self._held.clear()
            gc.collect()

    def _load(self, path: str, revision: str | None, *, quantise: bool) -> PreTrainedModel:
        from tokensieve.model import load_base
        from tokensieve.trainer import pick_device

        model, lora = self.config.model, self.config.lora
        return load_base(
            path,
            revision,
            dtype=model.dtype,
            attention=model.attention,
            device=pick_device(self.config.trainer.accelerator),
            quantise=lora.quantise if quantise else "none",
            double_quantise=lora.double_quantise,
            trust_remote_code=model.trust_remote_code,
        )


def with_first_adapter(base: PreTrainedModel, config: RunConfig) -> PreTrainedModel:
    """`base` with the adapter of `model.adapter` merged, where there is one."""
    if config.model.adapter is None:
        return base
    from tokensieve.adapter import merge_adapter

    return merge_adapter(base, config.model.adapter)


def base_identity(config: RunConfig) -> dict[str, Any]:
    """What decides the frozen model's arithmetic, for stamps."""
    model, lora = config.model, config.lora
    first = {"merged_adapter": adapter_identity(model.adapter, "model.adapter")} if model.adapter is not None else {}
    return first | {
        "model": model_identity(model.path, model.revision),
        "dtype": model.dtype,
        "attention": model.attention,
        "quantise": [lora.quantise, lora.double_quantise] if lora.quantise != "none" else None,
        "accelerator": config.trainer.accelerator,
    }
