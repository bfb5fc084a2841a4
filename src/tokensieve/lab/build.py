"""Make the packaged base model again: `python -m tokensieve.lab.build [--out DIR]`.

The same command on the same machine writes the same bytes. It takes about a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from tokensieve.lab import FAMILIES, base_path, rows
from tokensieve.lab.chatter import HUMAN
from tokensieve.lab.corpus import stream_turns
from tokensieve.lab.pretrain import NUM_STEPS, SEED, pretrain

VOCABULARY_SIZE: Final = 1664
MAX_LENGTH: Final = 2048
SPECIAL: Final = ("<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")

# The end token is inside the generation block: a model that never trains on it forgets how to stop.
CHAT_TEMPLATE: Final = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{- '<|assistant|>' -}}
{%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}
{%- else -%}
{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""

# Every digit is a token of its own, so that arithmetic is regular; a word or digit takes one leading blank; a line
# break keeps the indentation after it.
_WORDS: Final = r" ?\d| ?[A-Za-z]+| ?[^\sA-Za-z\d]+|\n[ \t]*|[ \t]+(?=\S)|\s+"


def train_tokenizer() -> Tokenizer:
    """Return a byte-level BPE tokenizer; it has seen both styles, so human text is not spelt letter by letter."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_tokenizer_texts(), trainer)
    return tokenizer


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the tokenizer and the model, and write the folder."""
    parser = argparse.ArgumentParser(prog="python -m tokensieve.lab.build", description=__doc__)
    parser.add_argument("--out", type=Path, default=base_path(), help="folder to write (default: the packaged one)")
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="optimiser steps (fewer give a draft)")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    tokenizer = train_tokenizer()
    ids = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=ids["<|pad|>"],
        bos_token_id=ids["<|begin|>"],
        eos_token_id=ids["<|end|>"],
    )
    model = pretrain(tokenizer, config, num_steps=options.steps)
    model.generation_config = GenerationConfig(
        do_sample=False,
        pad_token_id=ids["<|pad|>"],
        bos_token_id=ids["<|begin|>"],
        eos_token_id=ids["<|end|>"],
    )
    model.save_pretrained(options.out)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_LENGTH,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        pad_token="<|pad|>",
        bos_token="<|begin|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(options.out)
    size = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"\nwrote {options.out}: {size / 1e6:.2f} MB, {model.num_parameters():,} parameters")


def _tokenizer_texts() -> Iterator[str]:
    """Yield the texts that the vocabulary is learnt from."""
    for question, response in itertools.islice(stream_turns(SEED), 12_000):
        yield question
        yield response
    rng = random.Random(SEED)
    for _ in range(2_000):
        yield HUMAN.note(rng)
    for family in FAMILIES:
        for row in rows(family, split="train", num=1_000, seed=SEED, style="human"):
            yield str(row["response"])


if __name__ == "__main__":
    main()
