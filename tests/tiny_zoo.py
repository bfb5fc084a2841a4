"""Random-weight checkpoints of the published model families, a few kilobytes each, as folders on disk.

Sizes and constants are chosen so that what sets a family apart changes the result: windows shorter than the texts,
soft caps at the height of the logits, biases and norms that are not at their first values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
import transformers
from tiny_checkpoint import tiny_tokenizer

WINDOW: Final = 8
VOCABULARY: Final = 328  # some more than the tokenizer has

_COMMON: Final[dict[str, Any]] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
_HEAD_OF_16: Final = {"head_dim": 16}  # not the hidden size over the number of heads
_TWO_KINDS: Final = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
_GEMMA_3: Final = {
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "tie_word_embeddings": True,
    "use_bidirectional_attention": False,
    **_TWO_KINDS,
}
_NO_DROPOUT: Final = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
_VISION: Final = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
_GRANITE: Final = {
    "embedding_multiplier": 2.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.7,
    "logits_scaling": 3.0,
}

# Name -> prefix of the classes' names in transformers, and what differs from `_COMMON`.
FAMILIES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {"sliding_window": WINDOW}),
    "gemma-2": (
        "Gemma2",
        {
            "final_logit_softcapping": 3.0,
            "attn_logit_softcapping": 2.0,
            "query_pre_attn_scalar": 16,
            "tie_word_embeddings": True,
            **_HEAD_OF_16,
            **_TWO_KINDS,
        },
    ),
    "gemma-3": ("Gemma3", _GEMMA_3),
    "gemma-3-multimodal": ("Gemma3", {"image_token_index": 319, "mm_tokens_per_image": 4}),
    "qwen-2.5": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen-3": ("Qwen3", _HEAD_OF_16),
    "phi-3": ("Phi3", {"sliding_window": WINDOW, "resid_pdrop": 0.0}),
    "olmo-2": ("Olmo2", {}),
    "gpt-neox": ("GPTNeoX", {"rotary_pct": 0.25, "use_parallel_residual": True}),
    "falcon": ("Falcon", {"multi_query": True, "parallel_attn": True, "new_decoder_architecture": False}),
    "falcon-40b": ("Falcon", {"num_kv_heads": 2, "new_decoder_architecture": True}),
    "falcon-rw": ("Falcon", {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "cohere": ("Cohere", {"logit_scale": 0.25, "tie_word_embeddings": True}),
    "granite": ("Granite", _GRANITE),
    "phi-2": ("Phi", {"partial_rotary_factor": 0.5}),  # its head has a bias
    "gpt-2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **_NO_DROPOUT}),
    "opt": ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": 16, "dropout": 0.0}),
    "falcon-h1": (
        "FalconH1",
        {
            "lm_head_multiplier": 0.3,
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_chunk_size": 8,
        },
    ),
    "mamba": ("Mamba", {"state_size": 8}),
    "recurrent-gemma": (
        "RecurrentGemma",
        {"logits_soft_cap": 3.0, "lru_width": 32, "attention_window_size": WINDOW, "num_hidden_layers": 3},
    ),
    "hyperclovax": ("HyperCLOVAX", {"logits_scaling": 0.4}),  # which multiplies where Granite divides
    "gpt-oss": ("GptOss", {"num_local_experts": 4, "num_experts_per_tok": 2, **_HEAD_OF_16, **_TWO_KINDS}),
}


def save_family(name: str, folder: Path) -> Path:
    """A checkpoint of `FAMILIES[name]` with tokenizer and chat template in `folder`; the same weights each time."""
    prefix, changes = FAMILIES[name]
    if name == "gemma-3-multimodal":
        text = {**_COMMON, **_GEMMA_3}
        config = transformers.Gemma3Config(text_config=text, vision_config=_VISION, **changes)
        kind: Any = transformers.Gemma3ForConditionalGeneration
    else:
        configs = [name for name in (f"{prefix}TextConfig", f"{prefix}Config") if hasattr(transformers, name)]
        config = getattr(transformers, configs[0])(**{**_COMMON, **changes})
        named = [f"{prefix}ForCausalLM", f"{prefix}LMHeadModel"]
        kind = next(getattr(transformers, name) for name in named if hasattr(transformers, name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:  # norms and biases, which start at 1 and 0
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    return folder
