"""Greedy texts, in the order of their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokensieve.completions.records import Decoding
from tokensieve.generate import generate_completions


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    batch_size: int,
    max_length: int | None = None,
) -> list[str]:
    decoding = Decoding(max_new_tokens=max_new_tokens, stop=tuple(stop))
    found = generate_completions(model, tokenizer, prompts, decoding, batch_size=batch_size, max_length=max_length)
    return [completion.text for _, completion in sorted(found, key=lambda one: one[0])]
