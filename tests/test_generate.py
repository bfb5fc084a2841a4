"""Greedy decoding: the same text in any batch, and the ends of a text."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from tiny_model import make_llama, make_tokenizer

from tokensieve import generate as stage
from tokensieve.generate import generate
from tokensieve.model import quiet_libraries

TOKENIZER = make_tokenizer()


@pytest.fixture(scope="module")
def model() -> Any:
    return make_llama()


def make_prompts(num: int, *, longest: int = 60) -> list[list[int]]:
    rng = random.Random(7)
    return [[rng.randrange(256) for _ in range(rng.randrange(1, longest))] for _ in range(num)]


def decode_one_by_one(model: Any, prompt: list[int], most: int) -> str:
    """No cache, no batch, no padding: the definition of greedy decoding."""
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) - len(prompt) < most:
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            if token == 256:
                break
            ids.append(token)
    return str(TOKENIZER.decode(ids[len(prompt) :], skip_special_tokens=True))


@pytest.mark.parametrize("batch_size", [1, 2, 7, 40])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_batch_does_not_change_a_text(batch_size: int, attention: str) -> None:
    model = make_llama(attn_implementation=attention)
    prompts = make_prompts(40)
    # In float32 the sums of two batch shapes differ by about 1e-6; these prompts have no closer tie.
    expected = [decode_one_by_one(model, prompt, 24) for prompt in prompts]
    assert generate(model, TOKENIZER, prompts, max_new_tokens=24, batch_size=batch_size) == expected
    assert len(set(expected)) > 30


def test_exact_ties_go_to_the_lower_id_in_every_batch(model: Any) -> None:
    tied = make_llama()
    with torch.no_grad():
        tied.lm_head.weight[128:256] = tied.lm_head.weight[:128]
    prompts = make_prompts(16)
    alone = generate(tied, TOKENIZER, prompts, max_new_tokens=12, batch_size=1)
    assert generate(tied, TOKENIZER, prompts, max_new_tokens=12, batch_size=16) == alone


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "gpt2", "gpt_neox", "qwen2"])
def test_other_architectures(kind: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes: dict[str, Any] = {"vocab_size": 258, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                             "intermediate_size": 64, "max_position_embeddings": 96, "eos_token_id": 256, "pad_token_id": 257}  # fmt: skip
    more = {
        "mistral": {"sliding_window": 16, "num_key_value_heads": 2},
        "gemma2": {"sliding_window": 16, "num_key_value_heads": 2, "head_dim": 8},
        "qwen2": {"num_key_value_heads": 2},
        "gpt2": {"bos_token_id": 256},
    }
    config = AutoConfig.for_model(kind, **sizes, initializer_range=0.2, **more.get(kind, {}))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    prompts = make_prompts(12, longest=40)
    expected = [decode_one_by_one(model, prompt, 20) for prompt in prompts]
    assert generate(model, TOKENIZER, prompts, max_new_tokens=20, batch_size=5) == expected


def test_adapters_count(model: Any) -> None:
    from peft import LoraConfig, get_peft_model

    plain = generate(model, TOKENIZER, make_prompts(8), max_new_tokens=10, batch_size=8)
    with quiet_libraries():
        adapted: Any = get_peft_model(make_llama(), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert generate(adapted, TOKENIZER, make_prompts(8), max_new_tokens=10, batch_size=8) == plain
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(0))
    tuned = generate(adapted, TOKENIZER, make_prompts(8), max_new_tokens=10, batch_size=8)
    assert tuned != plain
    with adapted.disable_adapter():
        assert generate(adapted, TOKENIZER, make_prompts(8), max_new_tokens=10, batch_size=3) == plain


def test_every_end_token_ends(model: Any) -> None:
    prompts = make_prompts(10)
    texts = generate(model, TOKENIZER, prompts, max_new_tokens=20, batch_size=4)
    ends = make_llama()
    symbol = next(character for text in texts for character in text[2:] if character.isascii() and character.isalnum())
    ends.generation_config.eos_token_id = [256, TOKENIZER.convert_tokens_to_ids(symbol)]
    found = generate(ends, TOKENIZER, prompts, max_new_tokens=20, batch_size=4)
    assert [text.partition(symbol)[0] for text in texts] == found


def test_stop_strings_cut_each_row(model: Any) -> None:
    prompts = make_prompts(12)
    texts = generate(model, TOKENIZER, prompts, max_new_tokens=30, batch_size=6)
    stop = [texts[0][4:6], texts[1][10:13], "never"]
    cut = generate(model, TOKENIZER, prompts, max_new_tokens=30, stop=stop, batch_size=6)
    for text, short in zip(texts, cut, strict=True):
        assert short == text[: min([at for s in stop if (at := text.find(s)) >= 0], default=len(text))]
    assert len(cut[0]) <= 4


def test_a_stop_string_ends_the_work(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = generate(model, TOKENIZER, make_prompts(1), max_new_tokens=40, batch_size=1)[0]
    calls = []
    original = stage._Step.__call__
    monkeypatch.setattr(stage._Step, "__call__", lambda self, *args: calls.append(1) or original(self, *args))
    generate(model, TOKENIZER, make_prompts(1), max_new_tokens=40, stop=[text[:3]], batch_size=1)
    assert len(calls) < 15


def test_the_length_limit_shortens_and_empties(model: Any) -> None:
    prompts = [[1] * n for n in (10, 120, 127, 128, 500, 0)]
    texts = generate(model, TOKENIZER, prompts, max_new_tokens=50, batch_size=6)
    assert texts[:3] == [decode_one_by_one(model, ids, n) for ids, n in zip(prompts, (50, 8, 1), strict=False)]
    assert texts[3:] == ["", "", ""]
    assert generate(model, TOKENIZER, prompts[:1], max_new_tokens=50, batch_size=1, max_length=12) == [
        decode_one_by_one(model, prompts[0], 2)
    ]


def test_edges(model: Any) -> None:
    assert generate(model, TOKENIZER, [], max_new_tokens=5, batch_size=4) == []
    assert generate(model, TOKENIZER, [[1]], max_new_tokens=0, batch_size=4) == [""]
    with pytest.raises(ValueError, match="batch_size"):
        generate(model, TOKENIZER, [[1]], max_new_tokens=1, batch_size=0)


def test_the_model_comes_back_as_it_was() -> None:
    model = make_llama(attention_dropout=0.5)
    model.train()
    model.lm_head.eval()
    first = generate(model, TOKENIZER, make_prompts(4), max_new_tokens=8, batch_size=2)
    assert generate(model, TOKENIZER, make_prompts(4), max_new_tokens=8, batch_size=2) == first  # no dropout
    assert model.training
    assert model.model.layers[0].training
    assert not model.lm_head.training
    model(torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()  # still trains


def test_finished_rows_leave_the_batch(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    original = stage._Step.__call__

    def count(self: Any, input_ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        widths.append(len(input_ids))
        return original(self, input_ids, *rest)

    monkeypatch.setattr(stage._Step, "__call__", count)
    prompts = [[1] * n for n in (127, 126, 125, 20)]
    generate(model, TOKENIZER, prompts, max_new_tokens=30, batch_size=4)
    assert widths[0] == 4
    assert widths[-1] == 1
