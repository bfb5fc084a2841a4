"""Completions of token prompts by any Hugging Face causal language model, adapters included.

Our own loop: prompts sorted by length, one forward pass a token, rows leave the batch when they finish and others take
their places. The text of a row does not depend on the other rows of its batch, greedy or sampled, up to the rounding of
floating-point sums: where the two best logits lie within that (about 1e-5 in float32), or a random number that close to
the border between two tokens, either may win.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import torch
from tqdm import tqdm

from tokensieve.completions.batch import Row
from tokensieve.completions.decode import Decoder
from tokensieve.completions.records import Completion, Decoding
from tokensieve.completions.sampling import TokenChoice, open_stream

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

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

    The texts of `generate_completions`, in the order of the prompts; the arguments are the same.
    """
    texts = [""] * len(prompts_ids)
    if max_new_tokens < 1 <= batch_size:
        return texts
    completions = generate_completions(
        model,
        tokenizer,
        prompts_ids,
        Decoding(max_new_tokens=max_new_tokens, stop=tuple(stop)),
        batch_size=batch_size,
        max_length=max_length,
        progress=progress,
    )
    for at, completion in completions:
        texts[at] = completion.text
    return texts


def generate_completions(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts_ids: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    samples: Sequence[int] | None = None,
    with_statistics: bool = False,
    batch_size: int,
    max_length: int | None = None,
    progress: str | None = None,
) -> Iterator[tuple[int, Completion]]:
    """Continue N prompts and yield (number of the prompt, completion), some at a time, the longest prompts first.

    A row ends at an end token (the tokenizer's, or any of the model's generation config), before the first of the stop
    strings, after `max_new_tokens`, or at the length limit. A prompt that fills the limit gives "", incomplete, as
    does an empty one.

    Args:
        model: a causal LM or a PEFT model on it. Between what is yielded it is in the mode (training or not) in which
            it came; its weights must stay as they are until the last.
        tokenizer: its tokenizer.
        prompts_ids: token ids, N rows of any length.
        decoding: how tokens are chosen. The random stream of a row is decided by `decoding.seed`, its prompt and its
            sample number.
        samples: N sample numbers; None: 0 for every row.
        with_statistics: whether `mean_nll` and `mean_entropy` are computed.
        batch_size: rows decoded at once, >= 1.
        max_length: limit of prompt and text together, in tokens; None: the model's own limit, if it has one.
        progress: label of a progress bar over rows; None: no bar.

    Raises:
        ValueError: `batch_size` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    limit = min((n for n in (max_length, length_limit(model)) if n is not None), default=None)
    most = decoding.max_new_tokens
    room = [most if limit is None else min(most, limit - len(ids)) for ids in prompts_ids]
    todo = [at for at, ids in enumerate(prompts_ids) if len(ids) > 0 and room[at] > 0]
    todo.sort(key=lambda at: len(prompts_ids[at]), reverse=True)  # the largest batch first: memory fails early

    def start_row(at: int) -> Row:
        prompt, sample = prompts_ids[at], samples[at] if samples is not None else 0
        stream = open_stream(decoding.seed, prompt, sample) if decoding.temperature > 0 else None
        return Row(at, prompt, room[at], stream)

    started = set(todo)
    no_room = ((at, Completion(text="", is_complete=False)) for at in range(len(room)) if at not in started)
    decoder = Decoder(
        model,
        map(start_row, todo),
        batch_size=batch_size,
        choice=TokenChoice(decoding.temperature, decoding.top_p, with_statistics),
        ends=end_token_ids(model, tokenizer),
        stops=partial(_stops, tokenizer, decoding.stop) if decoding.stop else None,
        pad=tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else 0,
    )
    bar = tqdm(total=len(todo), desc=progress, disable=None if progress else True, leave=False, unit="rows")
    return chain(no_room, _decode_all(model, tokenizer, decoder, decoding.stop, bar))


def _decode_all(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, decoder: Decoder, stop: tuple[str, ...], bar: tqdm[Any]
) -> Iterator[tuple[int, Completion]]:
    with bar:
        while True:
            with evaluating(model), torch.inference_mode():
                rows = decoder.advance(bar.update)
            if not rows:
                return
            # Out of the modes above: what the caller does meanwhile is not ours.
            yield from ((row.at, _finish(tokenizer, row, stop)) for row in rows)


def encode_conversation(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of a conversation up to where the assistant's next turn would begin."""
    turns = [dict(message) for message in messages]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
    return [int(token) for token in ids]  # type: ignore[arg-type]  # tokenize=True without a dict: a list of int


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


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off, and put every submodule back into its own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _stops(tokenizer: PreTrainedTokenizerBase, stop: tuple[str, ...], tokens: list[int]) -> bool:
    """Whether the newest tokens complete a stop string. A token holds at least a byte, so the tail is long enough."""
    tail = max(len(string.encode()) for string in stop) + _STOP_SLACK_TOKENS
    text = _to_text(tokenizer, tokens[-tail:])
    return any(string in text for string in stop)


def _finish(tokenizer: PreTrainedTokenizerBase, row: Row, stop: tuple[str, ...]) -> Completion:
    """The record of a finished row; its statistics are over the tokens that the text is made of."""
    whole = _to_text(tokenizer, row.tokens)
    text = whole[: min((at for string in stop if (at := whole.find(string)) >= 0), default=len(whole))]
    num = len(row.tokens)
    if len(text) < len(whole):  # the stop string's own tokens do not count, but one that begins before it does
        while num > 0 and _to_text(tokenizer, row.tokens[: num - 1]).startswith(text):
            num -= 1
    nlls, entropies = row.nlls[:num], row.entropies[:num]
    return Completion(
        text=text,
        is_complete=row.has_ended,
        mean_nll=sum(nlls) / num if nlls else None,
        mean_entropy=sum(entropies) / num if entropies else None,
    )


def _to_text(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))
