"""The models and rows that every benchmark measures: random weights, log-normal lengths, 60 % prompt."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VOCABULARIES = (1_000, 8_000, 32_000)
DTYPES = ("float32", "bfloat16")
SHORTEST, LONGEST, MEDIAN_TOKENS, LOG_SIGMA = 32, 512, 128, 0.6
PROMPT_SHARE = 0.6
MASKED_SHARE = 0.2  # of the response tokens, where a benchmark trains under a mask


@dataclass(frozen=True, slots=True)
class Size:
    """A Llama's shape. `rows`: of one training batch, so that a step takes about a second at most on one core."""

    width: int
    layers: int
    inner: int
    heads: int
    rows: int


SIZES = {
    "1M": Size(width=128, layers=4, inner=352, heads=4, rows=8),
    "10M": Size(width=384, layers=6, inner=1024, heads=6, rows=4),
    "30M": Size(width=512, layers=10, inner=1408, heads=8, rows=2),
}


def list_cases(*, every: bool) -> list[tuple[str, int, str]]:
    """Size, vocabulary, dtype: all of them, or the largest vocabulary of every size and every one of the smallest."""
    return [
        (size, vocabulary, dtype)
        for size in SIZES
        for vocabulary in VOCABULARIES
        for dtype in DTYPES
        if every or vocabulary == VOCABULARIES[-1] or size == "1M"
    ]


@dataclass(frozen=True, slots=True)
class Row:
    """One example: token ids [T], and which of them are trained or scored [T]."""

    ids: list[int]
    is_response: list[bool]
    keep: list[bool]  # a subset of the response


def draw_rows(num: int, vocabulary: int, seed: int = 0) -> list[Row]:
    """`num` rows of 32 to 512 tokens, the first 60 % of each prompt; a fifth of the response is masked."""
    rng = random.Random(f"rows/{num}/{vocabulary}/{seed}")
    rows = []
    for _ in range(num):
        length = round(rng.lognormvariate(math.log(MEDIAN_TOKENS), LOG_SIGMA))
        length = min(LONGEST, max(SHORTEST, length))
        is_response = [place >= PROMPT_SHARE * length for place in range(length)]
        keep = [response and rng.random() >= MASKED_SHARE for response in is_response]
        keep[-1] = True
        rows.append(Row([rng.randrange(4, vocabulary) for _ in range(length)], is_response, keep))
    return rows


def build_config(size: str, vocabulary: int) -> Any:
    from transformers import LlamaConfig

    shape = SIZES[size]
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def build_model(size: str, vocabulary: int, dtype: str = "float32") -> Any:
    """A Llama with random weights, the same at every call, in evaluation mode. Logits spread as a trained model's."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(build_config(size, vocabulary), dtype=getattr(torch, dtype))
    with torch.no_grad():  # tokens then differ in how likely they are, so that a threshold has something to tell apart
        model.model.norm.weight.mul_(8)
    return model.eval()


def make_corpus(rows: list[Row]) -> Any:
    """The rows as the package's own record."""
    from datasets import Dataset

    from tokensieve.records import Stamp, TokenisedCorpus

    columns = {
        "id": [str(number) for number in range(len(rows))],
        "input_ids": [row.ids for row in rows],
        "is_response": [row.is_response for row in rows],
    }
    return TokenisedCorpus(Dataset.from_dict(columns), Stamp("tokens", {"synthetic": len(rows)}))


def make_mask(rows: list[Row]) -> Any:
    """The rows' masks as the package's own record."""
    from datasets import Dataset

    from tokensieve.records import MaskStats, Stamp, TokenMask

    columns = {"id": [str(number) for number in range(len(rows))], "keep": [row.keep for row in rows]}
    response, kept = (sum(sum(getattr(row, name)) for row in rows) for name in ("is_response", "keep"))
    stats = MaskStats(len(rows), 0, response, kept, math.nan, 1.0)
    return TokenMask(Dataset.from_dict(columns), stats, Stamp("mask", {"synthetic": len(rows)}))


def write_pretokenised(rows: list[Row], path: Path) -> None:
    """Parquet that `dataset=pretokenised` reads."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "input_ids": [row.ids for row in rows],
        "num_prompt_tokens": [row.is_response.index(True) for row in rows],
    }
    pq.write_table(pa.table(columns), path)


def save_model(size: str, vocabulary: int, folder: Path) -> None:
    """A checkpoint folder with the lab's tokenizer beside the random weights."""
    from tokensieve import lab
    from tokensieve.model import load_tokenizer

    build_model(size, vocabulary).save_pretrained(folder)
    load_tokenizer(str(lab.base_path()), None).save_pretrained(folder)
