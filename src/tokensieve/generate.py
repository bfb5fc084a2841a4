"""Batched greedy decoding with a key-value cache, for any Hugging Face causal language model, adapters included.

Our own loop: prompts sorted by length, one forward pass a token, rows leave the batch when they finish. The text of a
row does not depend on the other rows of its batch, up to the rounding of floating-point sums: where the two best
logits lie within that (about 1e-5 in float32) either may win.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from tqdm import tqdm
from transformers import DynamicCache

from tokensieve.kv_cache import can_drop_rows, has_plain_layers, make_cache

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

# Rows leave the cache when this share of them has finished: copying the rest must pay for itself.
_RELEASE_SHARE: Final = 0.25
# Tokens decoded beyond a stop string's own length, in case it is spread over many short tokens.
_STOP_SLACK_TOKENS: Final = 4


def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts_ids: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    batch_size: int,
    max_length: int | None = None,
    progress: str | None = None,
) -> list[str]:
    """Continue N prompts greedily and return the N texts, without special tokens.

    A row ends at an end token (the tokenizer's, or any of the model's generation config), before the first of the
    `stop` strings, after `max_new_tokens`, or at the length limit. A prompt that fills the limit gives "", as does
    an empty one.

    Args:
        model: a causal LM or a PEFT model on it; left in the mode (training or not) in which it came.
        tokenizer: its tokenizer.
        prompts_ids: token ids, N rows of any length.
        max_new_tokens: >= 0.
        stop: strings that end a row and are not part of its text.
        batch_size: rows decoded at once, >= 1.
        max_length: limit of prompt and text together, in tokens; None: the model's own limit, if it has one.
        progress: label of a progress bar over rows; None: no bar.

    Raises:
        ValueError: `batch_size` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    limit = min((n for n in (max_length, length_limit(model)) if n is not None), default=None)
    room = [max_new_tokens if limit is None else min(max_new_tokens, limit - len(ids)) for ids in prompts_ids]
    todo = [at for at, ids in enumerate(prompts_ids) if len(ids) > 0 and room[at] > 0]
    todo.sort(key=lambda at: len(prompts_ids[at]), reverse=True)  # the largest batch first: memory fails early
    texts = [""] * len(prompts_ids)
    ends = end_token_ids(model, tokenizer)
    with (
        _evaluating(model),
        torch.inference_mode(),
        tqdm(total=len(todo), desc=progress, disable=None if progress else True, leave=False, unit="rows") as bar,
    ):
        for start in range(0, len(todo), batch_size):
            rows = [_Row(at, prompts_ids[at], room[at]) for at in todo[start : start + batch_size]]
            _decode_batch(model, tokenizer, rows, ends, tuple(stop), bar)
            for row in rows:
                texts[row.at] = _finish_text(tokenizer, row.tokens, stop)
    return texts


def length_limit(model: nn.Module) -> int | None:
    """Positions that the model's config allows; None when it states none."""
    config: Any = model.config
    limit = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return int(limit) if limit is not None and limit > 0 else None


def end_token_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that end a text: the tokenizer's end token and all of the generation config's."""
    generation: Any = getattr(model, "generation_config", None)
    stated = getattr(generation, "eos_token_id", None)
    found = [stated] if isinstance(stated, int) else list(stated or [])
    if isinstance(tokenizer.eos_token_id, int):
        found.append(tokenizer.eos_token_id)
    return frozenset(int(token) for token in found)


@dataclass(slots=True)
class _Row:
    """One prompt on its way: its number, its ids, how many tokens it may still get, and those it has."""

    at: int
    prompt: Sequence[int]
    room: int
    tokens: list[int]
    done: bool

    def __init__(self, at: int, prompt: Sequence[int], room: int) -> None:
        self.at, self.prompt, self.room, self.tokens, self.done = at, prompt, room, [], False


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off, and put every submodule back into its own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _decode_batch(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[_Row],
    ends: frozenset[int],
    stop: tuple[str, ...],
    bar: tqdm[Any],
) -> None:
    """Fill `tokens` of B rows. All pads stand on the left, so that the newest column is real in every row."""
    device = next(model.parameters()).device
    width = max(len(row.prompt) for row in rows)
    pad = tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else 0  # masked: any id will do
    input_ids = torch.tensor([[pad] * (width - len(row.prompt)) + list(row.prompt) for row in rows], device=device)
    lengths = torch.tensor([len(row.prompt) for row in rows], device=device)
    columns = torch.arange(width + max(row.room for row in rows), device=device)
    seen = columns >= (width - lengths)[:, None]  # bool [B, T to be]: true but at pads
    # Without pads no mask is needed, which lets the attention kernel take its fastest path.
    padded = bool((lengths < width).any())
    positions = (columns[:width] - (width - lengths)[:, None]).clamp(min=0)
    step = _Step(model, make_cache(model))
    next_ids = step(input_ids, positions, seen[:, :width] if padded else None)
    alive = rows
    while True:
        _append(alive, next_ids.tolist(), tokenizer, ends, stop, bar)
        running = [at for at, row in enumerate(alive) if not row.done]
        if not running:
            return
        if step.can_drop_rows and len(running) <= len(alive) * (1 - _RELEASE_SHARE):
            keep = torch.tensor(running, device=device)
            alive, next_ids, seen, lengths = [alive[at] for at in running], next_ids[keep], seen[keep], lengths[keep]
            step.keep_rows(keep)
        width += 1
        lengths = lengths + 1
        next_ids = step(next_ids[:, None], (lengths - 1)[:, None], seen[:, :width] if padded else None)


def _append(
    rows: list[_Row],
    next_ids: list[int],
    tokenizer: PreTrainedTokenizerBase,
    ends: frozenset[int],
    stop: tuple[str, ...],
    bar: tqdm[Any],
) -> None:
    """Give each running row its token, and mark those that end with it."""
    for row, token in zip(rows, next_ids, strict=True):
        if row.done:
            continue
        if token in ends:
            row.done = True
        else:
            row.tokens.append(token)
            row.done = len(row.tokens) >= row.room or (bool(stop) and _stops(tokenizer, row.tokens, stop))
        if row.done:
            bar.update()


def _stops(tokenizer: PreTrainedTokenizerBase, tokens: list[int], stop: tuple[str, ...]) -> bool:
    """Whether the newest tokens complete a stop string. A token holds at least a byte, so the tail is long enough."""
    tail = max(len(string.encode()) for string in stop) + _STOP_SLACK_TOKENS
    text = _to_text(tokenizer, tokens[-tail:])
    return any(string in text for string in stop)


def _finish_text(tokenizer: PreTrainedTokenizerBase, tokens: list[int], stop: Sequence[str]) -> str:
    text = _to_text(tokenizer, tokens)
    return text[: min((at for string in stop if (at := text.find(string)) >= 0), default=len(text))]


def _to_text(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class _Step:
    """One forward pass over new columns, with what must be kept between passes."""

    def __init__(self, model: nn.Module, cache: DynamicCache) -> None:
        self.model = model
        self.cache = cache
        inner: Any = getattr(model, "get_base_model", lambda: model)()  # within PEFT
        accepted = inspect.signature(inner.forward).parameters
        self.options: dict[str, Any] = {"use_cache": True, "return_dict": True}
        if "logits_to_keep" in accepted:
            self.options["logits_to_keep"] = 1
        self.can_drop_rows = can_drop_rows(cache)
        self.takes_positions = "position_ids" in accepted
        # With plain layers alone, a ready mask of the one new column spares the model's own mask making.
        self.takes_ready_mask = inner.config._attn_implementation == "sdpa" and has_plain_layers(cache)

    def __call__(self, input_ids: torch.Tensor, positions: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        """Feed input_ids [B, T new] at `positions`; return the best next id of each row, int64 [B]."""
        mask = seen
        if seen is not None and input_ids.shape[1] == 1 and self.takes_ready_mask:
            mask = seen[:, None, None, :]
        options = {"position_ids": positions, **self.options} if self.takes_positions else self.options
        out = self.model(input_ids=input_ids, attention_mask=mask, past_key_values=self.cache, **options)
        best: torch.Tensor = out.logits[:, -1].argmax(dim=-1)
        return best

    def keep_rows(self, keep: torch.Tensor) -> None:
        """Let the other rows go."""
        self.cache.batch_select_indices(keep)
