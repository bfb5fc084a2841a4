"""Config groups `model` and `lora`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Optional

from tokensieve.config.rule import require


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """Which language model is the frozen base (and, unless `stm` says otherwise, the scorer)."""

    name: str = "lab"
    """Short name in run names and tables."""
    path: str = "lab"
    """`lab` (the packaged model), a local Hugging Face folder, or a hub id."""
    revision: Optional[str] = None
    """Commit of a hub id; part of every stamp. Ignored for folders, whose files are digested instead."""
    adapter: Optional[str] = None
    """Folder of a trained LoRA adapter that is merged into the weights first: the base is the two together, so that one
    task is trained after another (STM, table 19)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the frozen weights. auto: bfloat16 where the accelerator computes in it, float32 on CPU."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"] = "auto"
    """Attention kernel; auto is sdpa, and eager where a model's own scores need it."""
    chat_template: Optional[str] = None
    """A Jinja file that replaces, or supplies, the tokenizer's chat template. In every template it is 26 July 2024."""
    max_length: Optional[int] = None
    """Tokens of prompt and response together; null: the model's own limit. Longer examples are an error."""
    trust_remote_code: bool = False
    """Run the model code that ships with the checkpoint. Only for checkpoints whose authors you trust. The tokenizer
    must be one of the library's own."""

    def __post_init__(self) -> None:
        require(
            bool(self.path), "model.path", "must name a folder or a hub id", None, "set model.path=/models/my-model"
        )
        require(
            self.max_length is None or self.max_length >= 2,
            "model.max_length",
            "must be at least 2 tokens",
            self.max_length,
            "leave it null for the model's own limit",
        )


@dataclass(kw_only=True, slots=True)
class LoraConfig:
    """Adapter. The default, r16, is the recipe of the STM code (arXiv 2501.14315)."""

    name: str = "r16"
    method: Literal["none", "lora"] = "lora"
    """none: full fine-tuning, every weight is trained."""
    rank: int = 16
    alpha: float = 32.0
    """Scale: the update is multiplied by alpha / rank (alpha / sqrt(rank) with rslora)."""
    dropout: float = 0.05
    """In [0, 1)."""
    target_modules: str = "all-linear"
    """PEFT's name of a set, or a comma-separated list of module suffixes."""
    use_dora: bool = False
    """Weight-decomposed adapters (DoRA)."""
    use_rslora: bool = False
    """Rank-stabilised scale (rsLoRA)."""
    quantise: Literal["none", "nf4"] = "none"
    """nf4: hold the frozen base in 4-bit NormalFloat through bitsandbytes (QLoRA)."""
    double_quantise: bool = True
    """Quantise the NF4 constants too; only with quantise=nf4."""

    @property
    def label(self) -> str:
        """The option's name; a plain adapter's tells its rank, also where that is set beside the option."""
        return f"r{self.rank}" if re.fullmatch(r"r\d+", self.name) else self.name

    def __post_init__(self) -> None:
        require(self.rank >= 1, "lora.rank", "must be at least 1", self.rank, "16 is the STM recipe")
        require(self.alpha > 0, "lora.alpha", "must be above 0", self.alpha, "try 2 * lora.rank")
        require(0 <= self.dropout < 1, "lora.dropout", "must be in [0, 1)", self.dropout, "try 0.05")
        require(
            not (self.method == "none" and self.quantise != "none"),
            "lora.quantise",
            "a 4-bit base cannot be trained itself",
            self.quantise,
            "use lora=qlora, or lora=none with lora.quantise=none",
        )
