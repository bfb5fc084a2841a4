"""How a context and its continuation become token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokensieve.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_continuation(
    tokenizer: PreTrainedTokenizerBase, context: str, continuation: str
) -> tuple[list[int], list[int]]:
    """Token ids of a context and of its continuation, as lm-evaluation-harness makes them.

    White space that ends the context is moved to the continuation; the continuation is what the encoding of both
    together has beyond as many tokens as the context alone. Special tokens are the tokenizer's own, but none where the
    text begins with the start token. An empty context becomes the start token, or the end token of a tokenizer without
    one. (So does a context of white space alone, at which the harness itself stops.)

    Raises:
        DataError: the continuation adds no token.
        ConfigError: an empty context, and a tokenizer with neither a start nor an end token.
    """
    prefix = _prefix_id(tokenizer)
    kept, whole = context.rstrip(), context + continuation
    if kept:
        context_ids = _encode(tokenizer, kept, prefix)
        continuation_ids = _encode(tokenizer, whole, prefix)[len(context_ids) :]
    elif prefix is None:
        raise ConfigError(
            "model.path",
            "an empty context needs a tokenizer with a start or an end token",
            remedy="give the tokenizer an eos_token",
        )
    else:
        ids = _to_ids(tokenizer, whole, add_special_tokens=False)
        begins = ids[:1] == [prefix]
        context_ids, continuation_ids = ([prefix], ids[1:]) if begins else ([prefix], ids)
    if not continuation_ids:
        raise DataError(
            "continuation",
            "must add at least one token to its context",
            received=continuation,
            remedy="correct the item, or leave it out",
        )
    return context_ids, continuation_ids


def _prefix_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    for found in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if isinstance(found, int):
            return found
    return None


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, prefix: int | None) -> list[int]:
    if prefix is not None and text.startswith(str(tokenizer.decode(prefix))):
        return _to_ids(tokenizer, text, add_special_tokens=False)
    return _to_ids(tokenizer, text, add_special_tokens=True)


def _to_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, add_special_tokens: bool) -> list[int]:
    return [int(token) for token in tokenizer.encode(text, add_special_tokens=add_special_tokens)]
