"""Completions of token prompts by any Hugging Face causal language model, adapters included.

Our own loop: rows sorted by limit and length, one forward pass a token; rows leave the batch when they finish and
others take their places. The text of a row does not depend on the other rows of its batch, greedy or sampled, up to the
rounding of floating-point sums: where the two best logits lie within that (about 1e-5 in float32, 1e-2 in bfloat16), or
a random number that close to the border between two tokens, either may win.
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
from tokensieve.errors import DataError
from tokensieve.length_limits import length_limit

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

# Tokens decoded beyond a stop string's own length, in case it is spread over many short tokens.
_STOP_SLACK_TOKENS: Final = 4


def generate_completions(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts_ids: Sequence[Sequence[int]],
    decoding: Decoding | Sequence[Decoding],
    *,
    samples: Sequence[int] | None = None,
    with_statistics: bool = False,
    batch_size: int,
    max_length: int | None = None,
    progress: str | None = None,
) -> Iterator[tuple[int, Completion]]:
    """Continue N prompts and yield (number of the prompt, completion), some at a time, as they end.

    A row ends at an end token (the tokenizer's, or any of the model's generation config), before the first of its stop
    strings, after its `max_new_tokens`, or at the length limit. A prompt that fills the limit gives "", incomplete, as
    does an empty one.

    Args:
        model: a causal LM or a PEFT model on it. Between what is yielded it is in the mode (training or not) in which
            it came; its weights must stay as they are until the last.
        tokenizer: its tokenizer.
        prompts_ids: token ids, N rows of any length.
        decoding: how tokens are chosen, in all rows or in each of the N; those that are drawn share temperature and
            nucleus. The random stream of a row is decided by the seed, its prompt and its sample number.
        samples: N sample numbers; None: 0 for every row.
        with_statistics: whether `mean_nll` and `mean_entropy` are computed.
        batch_size: rows decoded at once, >= 1.
        max_length: limit of prompt and text together, in tokens; None: the model's own limit, if it has one.
        progress: label of a progress bar over rows; None: no bar.

    Raises:
        ValueError: `batch_size` below 1, or rows drawn at several temperatures or from several nuclei.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    how = [decoding] * len(prompts_ids) if isinstance(decoding, Decoding) else decoding
    limit = min((n for n in (max_length, length_limit(model)) if n is not None), default=None)
    room = [
        one.max_new_tokens if limit is None else min(one.max_new_tokens, limit - len(ids))
        for one, ids in zip(how, prompts_ids, strict=True)
    ]
    todo = [at for at, ids in enumerate(prompts_ids) if len(ids) > 0 and room[at] > 0]
    todo.sort(key=lambda at: decoding_order(prompts_ids[at], how[at]))

    def start_row(at: int) -> Row:
        prompt, sample = prompts_ids[at], samples[at] if samples is not None else 0
        stream = open_stream(how[at].seed, prompt, sample) if how[at].temperature > 0 else None
        return Row(at, prompt, room[at], how[at].stop, stream)

    started = set(todo)
    no_room = ((at, Completion(text="", is_complete=False)) for at in range(len(room)) if at not in started)
    decoder = Decoder(
        model,
        map(start_row, todo),
        batch_size=batch_size,
        choice=_token_choice(how, with_statistics=with_statistics),
        ends=end_token_ids(model, tokenizer),
        stops=partial(_stops, tokenizer),
        pad=tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else 0,
    )
    bar = tqdm(total=len(todo), desc=progress, disable=None if progress else True, leave=False, unit="rows")
    return chain(no_room, _decode_all(model, tokenizer, decoder, bar))


def decoding_order(prompt_ids: Sequence[int], decoding: Decoding) -> tuple[int, int]:
    """Sorts rows for decoding: long answers first, so that the short ones fill the places at the end of the pass.

    Among equal limits the longest prompt is first: the largest batch, so that memory fails early.
    """
    return -decoding.max_new_tokens, -len(prompt_ids)


def _token_choice(decodings: Sequence[Decoding], *, with_statistics: bool) -> TokenChoice:
    drawn = {(decoding.temperature, decoding.top_p) for decoding in decodings if decoding.temperature > 0}
    if len(drawn) > 1:
        raise ValueError(f"rows that are drawn must share temperature and top_p; got {sorted(drawn)}")
    return TokenChoice(*next(iter(drawn), (0.0, 1.0)), with_statistics)


def _decode_all(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, decoder: Decoder, bar: tqdm[Any]
) -> Iterator[tuple[int, Completion]]:
    with bar:
        while True:
            with evaluating(model), torch.inference_mode():
                rows = decoder.advance(bar.update)
            if not rows:
                return
            # Out of the modes above: what the caller does meanwhile is not ours.
            yield from ((row.at, _finish(tokenizer, row)) for row in rows)


def encode_conversation(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of a conversation up to where the assistant's next turn would begin.

    Raises:
        DataError: the chat template refuses it.
    """
    turns = [dict(message) for message in messages]
    with explaining_template(turns):
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
    return [int(token) for token in ids]  # type: ignore[arg-type]  # tokenize=True without a dict: a list of int


@contextmanager
def explaining_template(messages: Sequence[Mapping[str, str]]) -> Iterator[None]:
    """A chat template that refuses `messages` raises a DataError."""
    from jinja2 import TemplateError

    try:
        yield
    except TemplateError as error:
        raise DataError(
            "conversation",
            "the model's chat template must accept it",
            received=f"roles {[message.get('role') for message in messages]}: {error}",
            remedy="set model.chat_template, or drop the system prompt if the template has no place for it",
        ) from error


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


def _stops(tokenizer: PreTrainedTokenizerBase, row: Row) -> bool:
    """Whether its newest tokens complete a stop string. A token holds at least a byte, so the tail is long enough."""
    if not row.stop:
        return False
    tail = max(len(string.encode()) for string in row.stop) + _STOP_SLACK_TOKENS
    text = _to_text(tokenizer, row.tokens[-tail:])
    return any(string in text for string in row.stop)


def _finish(tokenizer: PreTrainedTokenizerBase, row: Row) -> Completion:
    """The record of a finished row; its statistics are over the tokens that the text is made of."""
    whole = _to_text(tokenizer, row.tokens)
    text = whole[: min((at for string in row.stop if (at := whole.find(string)) >= 0), default=len(whole))]
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
