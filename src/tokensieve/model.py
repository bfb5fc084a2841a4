"""Base models and tokenizers. torch and transformers are imported when something is loaded."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve import lab
from tokensieve.errors import ConfigError
from tokensieve.head import check_head
from tokensieve.store import file_checksum
from tokensieve.template_day import fix_day

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What the flash kernels come in; transformers takes them from the hub instead where `kernels` is installed.
_FLASH_PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
# Files that change what a checkpoint computes; READMEs and training logs do not.
_IDENTITY_SUFFIXES = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".py")


def resolve_path(path: str) -> str:
    """`lab` becomes the packaged folder; folders and hub ids stay as they are."""
    return str(lab.base_path()) if path == "lab" else path


def model_identity(path: str, revision: str | None) -> dict[str, Any]:
    """What goes into a stamp: the checksums of a folder's files, or a hub id and its revision.

    Raises:
        ConfigError: a path that looks like a folder but is not one with a config.json.
    """
    folder = Path(resolve_path(path))
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(
                "model.path",
                "a model folder must hold config.json",
                received=str(folder),
                remedy="give the folder that save_pretrained wrote",
            )
        return {"files": folder_checksums(folder)}
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise ConfigError(
            "model.path",
            "must be lab, an existing folder, or a hub id like owner/name",
            received=path,
            remedy="check the spelling; relative folders start at the working directory",
        )
    return {"hub_id": path, "revision": revision}


def folder_checksums(folder: Path) -> dict[str, str]:
    """Checksum of each file of a model or adapter folder that changes what it computes."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix in _IDENTITY_SUFFIXES]
    return {path.name: _checksum_once(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files}


@cache
def _checksum_once(path: str, size: int, mtime_ns: int) -> str:
    """A file's checksum, read once a process while its size and time stay."""
    return file_checksum(Path(path))


def template_identity(chat_template: str | None) -> str | None:
    """Checksum of the Jinja file that replaces a tokenizer's chat template; its name where there is no such file."""
    is_file = chat_template is not None and Path(chat_template).is_file()
    return file_checksum(Path(str(chat_template))) if is_file else chat_template


def load_tokenizer(path: str, revision: str | None, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer with a padding token and a chat template, of which `fix_day` makes the prompts of all days equal.

    Raises:
        ConfigError: it cannot be loaded, or there is no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve_path(path), revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            "model.path",
            "must hold a tokenizer that loads",
            received=f"{path}: {first_line(error)}",
            remedy="check the folder, or the hub id, the network and HF_TOKEN",
        ) from error
    if chat_template is not None:
        file = Path(chat_template)
        if not file.is_file():
            raise ConfigError(
                "model.chat_template", "must be an existing Jinja file", received=chat_template, remedy="check the path"
            )
        tokenizer.chat_template = file.read_text(encoding="utf-8")
    if not tokenizer.chat_template:
        raise ConfigError(
            "model.path",
            "the tokenizer must have a chat template",
            received=path,
            remedy="set model.chat_template to a Jinja file, or use an instruction-tuned model",
        )
    fix_day(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked out everywhere; any token will do
    # Lengths are checked where they matter, with the row's name; the library would warn once, without it.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def check_attention(attention: str) -> None:
    """Refuse kernels whose package this machine lacks, before anything loads.

    Raises:
        ConfigError: it is not installed.
    """
    package = _FLASH_PACKAGES.get(attention)
    if package is not None and not (find_spec(package) or find_spec("kernels")):
        raise ConfigError(
            "model.attention",
            f"needs the package {package}, which is not installed",
            received=attention,
            remedy="install it on a machine with a GPU (flash_attn: pip install '.[gpu]'), or use model.attention=auto",
        )


def load_base(
    path: str,
    revision: str | None,
    *,
    dtype: str,
    attention: str,
    device: torch.device,
    quantise: str = "none",
    double_quantise: bool = True,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """The causal language model on `device`, in evaluation mode.

    `dtype` auto is bfloat16 on an accelerator that computes in it, else float32. `attention` auto is sdpa where the
    family has it, else eager (Gemma 2, whose attention logits are soft-capped). `quantise` nf4 holds the linear layers
    in 4-bit NormalFloat (QLoRA, arXiv 2305.14314).

    Raises:
        ConfigError: the checkpoint cannot be loaded, or its logits are made in a way that is not known here.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    resolved = pick_dtype(dtype, device)
    options: dict[str, Any] = {}
    if quantise == "nf4":
        compute = resolved if resolved != torch.float16 else torch.bfloat16
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=double_quantise,
            bnb_4bit_compute_dtype=compute,
        )
        options["device_map"] = {"": device}
    try:
        with quiet_libraries():
            model = AutoModelForCausalLM.from_pretrained(
                resolve_path(path),
                revision=revision,
                dtype=resolved,
                attn_implementation=None if attention == "auto" else attention,
                trust_remote_code=trust_remote_code,
                **options,
            )
    except (OSError, ValueError, ImportError) as error:
        raise _explain_refusal(error, path, attention) from error
    if quantise == "none":
        model.to(device)  # type: ignore[arg-type]
    for module in model.modules():
        # bitsandbytes 0.50 repacks a 4-bit layer at its first evaluation on CPU, and the repacked product has no
        # gradient: training after scoring would silently lose what flows through the base.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    model.eval()
    model.config.use_cache = False
    check_head(model)
    return model


def _explain_refusal(error: Exception, path: str, attention: str) -> ConfigError:
    reason = first_line(error)
    if attention != "auto" and "attention" in reason.lower():
        return ConfigError(
            "model.attention",
            "must be one that the model's family and this machine have",
            received=f"{attention}: {reason.split('. ')[0]}",
            remedy="use model.attention=auto, which picks one that works",
        )
    return ConfigError(
        "model.path",
        "must be a causal language model that loads",
        received=f"{path}: {reason}",
        remedy="check the folder or hub id and lora.quantise",
    )


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` resolved: bfloat16 where the accelerator has it natively, else float32."""
    import torch

    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
    is_native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if is_native else torch.float32


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence what these versions say at every load and no user can act on."""
    from transformers.utils import logging as transformers_logging

    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # an optional CPU kernel is absent
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    with warnings.catch_warnings():
        # PEFT 0.21 reads an attribute that transformers 5.23 has renamed.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        # It looks for the ranks it chose for experts among layers, where they are not, and applies them all the same.
        warnings.filterwarnings("ignore", message=".*(rank|alpha)_pattern keys did not match", category=RuntimeWarning)
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False", category=UserWarning)  # it corrects
        yield


def first_line(error: BaseException) -> str:
    """The first line of an error's text, for messages of our own."""
    return str(error).strip().split("\n")[0]
