"""Decoding: the same text in any batch, the ends of a text, sampling, and what a text surprised the model by."""

from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

import pytest
import torch
from generating import generate
from tiny_model import make_llama, make_tokenizer

from tokensieve.completions import Completion, Decoding, batch, decode
from tokensieve.completions.sampling import TokenChoice, open_stream
from tokensieve.generate import generate_completions
from tokensieve.kv_cache import RoomyLayer
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
    stop = [texts[1][4:6], texts[2][10:13], "never"]
    assert [len(string) for string in stop] == [2, 3, 5]
    cut = generate(model, TOKENIZER, prompts, max_new_tokens=30, stop=stop, batch_size=6)
    for text, short in zip(texts, cut, strict=True):
        assert short == text[: min([at for s in stop if (at := text.find(s)) >= 0], default=len(text))]
    assert len(cut[1]) <= 4
    assert cut != texts


def test_a_stop_string_ends_the_work(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = generate(model, TOKENIZER, make_prompts(1), max_new_tokens=40, batch_size=1)[0]
    calls = []
    original = batch._Step.__call__
    monkeypatch.setattr(batch._Step, "__call__", lambda self, *args: calls.append(1) or original(self, *args))
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
    with pytest.raises(ValueError, match="batch_size"):
        generate(model, TOKENIZER, [[1]], max_new_tokens=1, batch_size=0)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 40])
def test_rows_of_several_tasks_share_a_stream(model: Any, batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits, stop strings and random streams are a row's own, and later rows may have the longer prompts."""
    prompts = make_prompts(24, longest=90)
    stop = tuple(generate(model, TOKENIZER, prompts[:1], max_new_tokens=9, batch_size=1)[0][4:6])
    kinds = [Decoding(max_new_tokens=30), Decoding(max_new_tokens=9, stop=stop), dataclasses.replace(SAMPLED, seed=1)]
    decodings = [kinds[at % 3] for at in range(24)]
    decodings[5] = Decoding(max_new_tokens=1)
    prompts[5] = [7] * 120  # comes last, and is the longest
    passes = record_passes(monkeypatch)
    found = complete(model, prompts, decodings, batch_size=batch_size)
    assert [one for one in passes if one[1] > 1][-1][1] == 120
    alone = [complete(model, [prompt], how)[0] for prompt, how in zip(prompts, decodings, strict=True)]
    assert [(one.text, one.is_complete) for one in found] == [(one.text, one.is_complete) for one in alone]
    for prompt, how, one in zip(prompts, decodings, found, strict=True):
        if how == kinds[0]:
            assert one.text == decode_one_by_one(model, prompt, 30)


def test_rows_that_are_drawn_share_temperature_and_nucleus(model: Any) -> None:
    other = dataclasses.replace(SAMPLED, temperature=0.5)
    with pytest.raises(ValueError, match="share temperature and top_p"):
        complete(model, [[1], [2], [3]], [SAMPLED, other, Decoding(max_new_tokens=2)])
    assert len(complete(model, [[1], [2]], [SAMPLED, dataclasses.replace(SAMPLED, seed=9, max_new_tokens=3)])) == 2


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
    original = batch._Step.__call__

    def count(self: Any, input_ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        widths.append(len(input_ids))
        return original(self, input_ids, *rest)

    monkeypatch.setattr(batch._Step, "__call__", count)
    prompts = [[1] * n for n in (127, 126, 125, 20)]
    generate(model, TOKENIZER, prompts, max_new_tokens=30, batch_size=4)
    assert widths[0] == 4
    assert widths[-1] == 1


def record_passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(rows, new columns) of every forward pass from now on."""
    passes: list[tuple[int, int]] = []
    original = batch._Step.__call__

    def note(self: Any, input_ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        passes.append((input_ids.shape[0], input_ids.shape[1]))
        return original(self, input_ids, *rest)

    monkeypatch.setattr(batch._Step, "__call__", note)
    return passes


def test_waiting_rows_take_the_places_of_finished_ones(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of the first four rows two have room for one token; two more take their places at once.
    prompts = [[1] * 127, [2] * 127, [3] * 90, [4] * 90, [5] * 80, [6] * 80]
    rooms = [1, 1, 20, 20, 20, 20]
    passes = record_passes(monkeypatch)
    texts = generate(model, TOKENIZER, prompts, max_new_tokens=20, batch_size=4)
    assert texts == [decode_one_by_one(model, ids, room) for ids, room in zip(prompts, rooms, strict=True)]
    assert [one for one in passes if one[1] > 1] == [(4, 127), (2, 80)]
    assert {one for one in passes if one[1] == 1} <= {(num, 1) for num in range(1, 5)}
    assert (4, 1) in passes  # all four places are taken again


@pytest.mark.parametrize("batch_size", [2, 3, 5, 16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_that_come_and_go_change_no_text(batch_size: int, attention: str) -> None:
    """Rows of every length end everywhere, under memory that holds no number until it is written."""
    model = make_llama(attn_implementation=attention)
    bias = torch.zeros(258)
    bias[256] = 1.5
    model.lm_head.register_forward_hook(lambda _, __, out: out + bias)
    prompts = make_prompts(60, longest=110)
    expected = [decode_one_by_one(model, prompt, min(30, 128 - len(prompt))) for prompt in prompts]
    assert len({len(text) for text in expected}) > 8
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    try:
        assert generate(model, TOKENIZER, prompts, max_new_tokens=30, batch_size=batch_size) == expected
    finally:
        torch.use_deterministic_algorithms(False)


def test_columns_that_are_a_pad_in_every_row_are_dropped(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long prompt that has left must not cost the short ones its columns."""
    widths: list[int] = []
    original = RoomyLayer.update

    def note(self: Any, *states: Any, **options: Any) -> Any:
        found = original(self, *states, **options)
        widths.append(found[0].shape[-2])
        return found

    monkeypatch.setattr(RoomyLayer, "update", note)
    prompts = [[1] * 127, [2] * 10]
    texts = generate(model, TOKENIZER, prompts, max_new_tokens=8, batch_size=2)
    assert texts == [decode_one_by_one(model, ids, room) for ids, room in zip(prompts, (1, 8), strict=True)]
    assert widths[0] == 127
    assert max(widths[model.config.num_hidden_layers :]) <= 10 + 8


@pytest.mark.parametrize("batch_size", [1, 4, 9])
def test_samples_and_statistics_stay_with_their_rows(model: Any, batch_size: int) -> None:
    prompts = [[1] * length for length in (126, 125, 124, 100, 90, 60, 30, 20, 10)]
    expected = [complete(model, [prompt], SAMPLED)[0] for prompt in prompts]
    found = complete(model, prompts, SAMPLED, batch_size=batch_size)
    for one, other in zip(found, expected, strict=True):
        assert (one.text, one.is_complete) == (other.text, other.is_complete)
        assert one.mean_nll == pytest.approx(other.mean_nll, abs=1e-4)
        assert one.mean_entropy == pytest.approx(other.mean_entropy, abs=1e-4)


def complete(
    model: Any, prompts: list[list[int]], decoding: Decoding | list[Decoding], **options: Any
) -> list[Completion]:
    """All completions with their statistics, in the order of the prompts."""
    options = {"batch_size": 8, "with_statistics": True} | options
    pairs = list(generate_completions(model, TOKENIZER, prompts, decoding, **options))
    assert sorted(at for at, _ in pairs) == list(range(len(prompts)))
    return [completion for _, completion in sorted(pairs, key=lambda pair: pair[0])]


SAMPLED = Decoding(max_new_tokens=20, temperature=0.8, top_p=0.9, seed=5)


@pytest.mark.parametrize("batch_size", [1, 3, 40])
def test_the_batch_does_not_change_a_sample(model: Any, batch_size: int) -> None:
    prompts = make_prompts(40)
    expected = [completion.text for completion in complete(model, prompts, SAMPLED)]
    again = complete(model, prompts[::-1], SAMPLED, batch_size=batch_size, with_statistics=False)[::-1]
    assert [completion.text for completion in again] == expected
    assert len(set(expected)) == 40


def test_streams_differ_by_prompt_sample_and_seed_alone(model: Any) -> None:
    prompt = [7, 8, 9]
    four = complete(model, [prompt] * 4, SAMPLED, samples=[0, 1, 2, 1])
    assert len({completion.text for completion in four}) == 3
    assert four[1].text == four[3].text
    other = complete(model, [prompt], dataclasses.replace(SAMPLED, seed=6))
    assert other[0].text != four[0].text
    torch.manual_seed(123)  # the global generator has no say
    assert complete(model, [prompt], SAMPLED)[0].text == four[0].text
    assert torch.initial_seed() == 123


def test_greedy_is_the_limit_of_a_small_temperature_and_of_a_small_nucleus(model: Any) -> None:
    prompts = make_prompts(12)
    texts = generate(model, TOKENIZER, prompts, max_new_tokens=16, batch_size=4)
    for change in ({"temperature": 1e-30}, {"temperature": 5.0, "top_p": 1e-9}):
        decoding = Decoding(max_new_tokens=16, **change)
        assert [completion.text for completion in complete(model, prompts, decoding)] == texts


@pytest.mark.parametrize("decoding", [SAMPLED, Decoding(max_new_tokens=20)], ids=["sampled", "greedy"])
def test_statistics_are_those_of_a_plain_forward_pass(decoding: Decoding, monkeypatch: pytest.MonkeyPatch) -> None:
    """Untempered, over the tokens of the text, without the end token."""
    model, prompts = make_llama(), make_prompts(12)
    bias = torch.zeros(258)
    bias[256] = 2.0  # rows end at different lengths
    model.lm_head.register_forward_hook(lambda _, __, out: out + bias)
    rows: list[decode.Row] = []
    original = decode._append
    monkeypatch.setattr(decode, "_append", lambda alive, *rest: rows.extend(alive) or original(alive, *rest))
    found = complete(model, prompts, decoding)
    tokens = {row.at: row.tokens for row in rows}
    assert len({len(own) for own in tokens.values()}) > 4
    for at, completion in enumerate(found):
        assert completion.is_complete == (len(tokens[at]) < 20)
        if not tokens[at]:
            assert completion.mean_nll is None
            continue
        with torch.no_grad():
            logits = model(torch.tensor([prompts[at] + tokens[at]])).logits[0, len(prompts[at]) - 1 : -1]
        probs = logits.double().softmax(-1)
        nll = -probs[torch.arange(len(tokens[at])), tokens[at]].log().mean()
        entropy = -(probs * probs.log()).sum(-1).mean()
        assert completion.mean_nll == pytest.approx(float(nll), abs=1e-4)
        assert completion.mean_entropy == pytest.approx(float(entropy), abs=1e-4)


def test_statistics_leave_out_the_stop_string(model: Any) -> None:
    prompts = [[ord(c) for c in "abc"]]
    text = complete(model, prompts, Decoding(max_new_tokens=20))[0].text
    short = complete(model, prompts, Decoding(max_new_tokens=6))[0]
    assert short.text == text[:6]  # single-byte characters here: six tokens
    cut = complete(model, prompts, Decoding(max_new_tokens=20, stop=(text[6:9],)))[0]
    assert cut.text == short.text
    assert (cut.is_complete, short.is_complete) == (True, False)
    assert cut.mean_nll == pytest.approx(short.mean_nll)
    assert cut.mean_entropy == pytest.approx(short.mean_entropy)
    empty = complete(model, prompts, Decoding(max_new_tokens=20, stop=(text[:2],)))[0]
    assert empty == Completion(text="", is_complete=True)


def test_statistics_cost_nothing_where_they_are_not_asked_for(model: Any) -> None:
    plain = complete(model, make_prompts(3), Decoding(max_new_tokens=5), with_statistics=False)
    assert {(completion.mean_nll, completion.mean_entropy) for completion in plain} == {(None, None)}


def test_what_has_no_room_is_incomplete(model: Any) -> None:
    found = complete(model, [[], [1] * 128, [1] * 500, [1] * 127], Decoding(max_new_tokens=3))
    assert found[:3] == [Completion(text="", is_complete=False)] * 3
    assert not found[3].is_complete


def test_between_batches_the_model_is_as_it_was() -> None:
    model = make_llama()
    model.train()
    steps = generate_completions(model, TOKENIZER, make_prompts(4), Decoding(max_new_tokens=3), batch_size=1)
    next(steps)
    assert model.training
    assert not torch.is_inference_mode_enabled()
    model(torch.tensor([[1, 2]]), labels=torch.tensor([[1, 2]])).loss.backward()
    assert len(list(steps)) == 3


def draw_many(probs: list[float], *, top_p: float = 1.0, temperature: float = 1.0, num: int = 4000) -> list[float]:
    logits = torch.tensor([probs]).log().expand(num, -1)
    streams = [open_stream(0, [1], sample) for sample in range(num)]
    tokens = TokenChoice(temperature, top_p).choose(logits, streams).ids.tolist()
    return [tokens.count(token) / num for token in range(len(probs))]


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    # Four standard errors of a share of 4000 draws are at most 0.032.
    assert draw_many([0.5, 0.3, 0.2]) == pytest.approx([0.5, 0.3, 0.2], abs=0.032)
    squared = [0.25 / 0.38, 0.09 / 0.38, 0.04 / 0.38]
    assert draw_many([0.5, 0.3, 0.2], temperature=0.5) == pytest.approx(squared, abs=0.032)


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (0.4, [0.0, 1.0, 0.0, 0.0]),
        (0.5, [0.0, 1.0, 0.0, 0.0]),  # reached, not passed
        (0.6, [0.0, 0.625, 0.0, 0.375]),
        (0.85, [0.15 / 0.95, 0.5 / 0.95, 0.0, 0.3 / 0.95]),
        (1.0, [0.15, 0.5, 0.05, 0.3]),
    ],
)
def test_the_nucleus_is_the_smallest_that_reaches_the_mass(top_p: float, expected: list[float]) -> None:
    found = draw_many([0.15, 0.5, 0.05, 0.3], top_p=top_p)
    assert found == pytest.approx(expected, abs=0.032)
    assert [share == 0 for share in found] == [share == 0 for share in expected]


def test_impossible_tokens_are_never_drawn() -> None:
    class Edge(random.Random):
        def __init__(self, value: float) -> None:
            super().__init__(0)
            self.value = value

        def random(self) -> float:
            return self.value

    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]]).expand(4, -1)
    streams = [Edge(value) for value in (0.0, 0.5, 0.49999, 1 - 2**-53)]
    assert TokenChoice(1.0).choose(logits, streams).ids.tolist() == [1, 3, 1, 3]
    chosen = TokenChoice(1.0, with_statistics=True).choose(logits, streams)
    assert chosen.nlls == pytest.approx([math.log(2)] * 4)
    assert chosen.entropies == pytest.approx([math.log(2)] * 4)  # 0 log 0 is 0


def test_half_precision_logits_are_measured_in_float32() -> None:
    logits = torch.randn(3, 500, generator=torch.Generator().manual_seed(0)).bfloat16()
    chosen = TokenChoice(with_statistics=True).choose(logits, [None] * 3)
    exact = logits.double().log_softmax(-1)
    assert chosen.nlls == pytest.approx([-float(row.max()) for row in exact], abs=1e-5)
    assert chosen.entropies == pytest.approx((-(exact.exp() * exact).sum(-1)).tolist(), abs=1e-5)


def test_a_row_that_is_done_stays_within_the_model_s_positions() -> None:
    """It waits for others to finish, and its place must not run past a table of learned positions."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes: dict[str, Any] = {"vocab_size": 258, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
    torch.manual_seed(0)
    config = AutoConfig.for_model("gpt2", **sizes, bos_token_id=256, eos_token_id=256, initializer_range=0.2)
    model = AutoModelForCausalLM.from_config(config).eval()
    prompts = [[7] * 30, *([at] * 4 for at in range(40))]
    expected = [decode_one_by_one(model, prompt, min(20, 32 - len(prompt))) for prompt in prompts]
    assert generate(model, TOKENIZER, prompts, max_new_tokens=20, batch_size=64) == expected
