"""Log-likelihoods against a plain forward of each request alone; the encoding of pairs; choices; perplexity."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_checkpoint import tiny_model, tiny_tokenizer
from tokenizers.processors import TemplateProcessing

from tokensieve.errors import ConfigError, DataError
from tokensieve.log_likelihood import (
    Continuation,
    compute_perplexity,
    encode_continuation,
    pick_choice,
    score,
    score_continuations,
    sum_nll,
)
from tokensieve.model import quiet_libraries
from tokensieve.records import Stamp, TokenisedCorpus
from tokensieve.score import compute_nll

Request = tuple[list[int], list[int]]


def make_model(kind: str, *, limit: int = 64, **changes: Any) -> Any:
    """Random weights, large enough that distributions are far from uniform."""
    if kind == "llama":
        return tiny_model(max_position_embeddings=limit, **changes)
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes: dict[str, Any] = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                             "intermediate_size": 64, "max_position_embeddings": limit, "bos_token_id": 0,
                             "eos_token_id": 1, "pad_token_id": 2, "initializer_range": 0.4}  # fmt: skip
    more: dict[str, Any] = {
        # scores of +-30 that a cap of 3 bends visibly; every other layer sees 8 tokens only
        "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8, "final_logit_softcapping": 3.0},
        "cohere": {"num_key_value_heads": 2, "logit_scale": 0.25},
        "granite": {"num_key_value_heads": 2, "logits_scaling": 4.0},
        "gpt2": {},
        "phi": {},  # an output head with bias
        "falcon_mamba": {"state_size": 8},  # recurrent: no cache that rows can leave
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **more[kind], **changes)).eval()
    bias = getattr(model.get_output_embeddings(), "bias", None)
    if bias is not None:
        torch.nn.init.normal_(bias)
    return model


def make_requests(num_items: int = 11, *, longest: int = 30, seed: int = 5) -> list[Request]:
    """Items of one to four options after one context, some options a single token; lengths mixed."""
    rng = random.Random(seed)

    def ids(least: int, most: int) -> list[int]:
        return [rng.randrange(3, 320) for _ in range(rng.randint(least, most))]

    requests = []
    for _ in range(num_items):
        context = ids(1, longest)
        requests += [(context, ids(1, rng.choice([1, 12]))) for _ in range(rng.randint(1, 4))]
    rng.shuffle(requests)
    return requests


def score_plainly(model: Any, request: Request, limit: int) -> tuple[float, bool]:
    """One full forward, every logit, float32; the formula of the definition."""
    context, continuation = request
    ids = (context + continuation)[-(limit + 1) :]
    with torch.no_grad():
        logits = model(torch.tensor([ids[:-1]])).logits[0].float()
    predicted = logits[-len(continuation) :]
    logs = predicted.double() - predicted.double().logsumexp(-1, keepdim=True)
    total = sum(float(logs[at, token]) for at, token in enumerate(continuation))
    return total, predicted.argmax(-1).tolist() == continuation


KINDS = ["llama", "gemma2", "cohere", "granite", "gpt2", "phi", "falcon_mamba"]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_a_plain_forward_in_any_batch(kind: str) -> None:
    model, requests = make_model(kind), make_requests()
    expected = [score_plainly(model, request, 64) for request in requests]
    assert len({round(total, 3) for total, _ in expected}) == len(requests)
    for batch_size in (1, 3, 16):
        found = score_continuations(model, requests, batch_size=batch_size)
        assert [entry.num_tokens for entry in found] == [len(continuation) for _, continuation in requests]
        for entry, (total, is_greedy) in zip(found, expected, strict=True):
            assert entry.log_probability == pytest.approx(total, rel=1e-5, abs=1e-5)
            assert entry.is_greedy == is_greedy


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_batches_agree_with_each_other(attention: str) -> None:
    model, requests = make_model("llama", attn_implementation=attention), make_requests(20)
    alone = [entry.log_probability for entry in score_continuations(model, requests, batch_size=1)]
    for batch_size in (2, 7, 100):
        together = [entry.log_probability for entry in score_continuations(model, requests, batch_size=batch_size)]
        assert together == pytest.approx(alone, abs=1e-5)


def test_the_order_of_requests_changes_nothing() -> None:
    model, requests = make_model("llama"), make_requests()
    ahead = score_continuations(model, requests, batch_size=4)
    back = score_continuations(model, requests[::-1], batch_size=4)[::-1]
    assert [entry.log_probability for entry in back] == pytest.approx([entry.log_probability for entry in ahead])


def test_a_shared_context_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama")
    fed: list[tuple[int, ...]] = []
    forward = model.model.forward
    model.model.forward = lambda input_ids, position_ids=None, **rest: (
        fed.append(tuple(input_ids.shape)) or forward(input_ids=input_ids, position_ids=position_ids, **rest)  # type: ignore[func-returns-value]
    )
    context = list(range(10, 40))
    score_continuations(model, [(context, [5, 6, 7]), (context, [8]), (context, [9, 4])], batch_size=16)
    assert fed == [(1, 30), (2, 2)]  # the one-token option needs no second pass


def test_chunks_of_logits_do_not_change_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    model, requests = make_model("llama"), make_requests(4)
    whole = score_continuations(model, requests, batch_size=16)
    monkeypatch.setattr(score, "_CHUNK_ELEMENTS", 3 * 320)
    parts = score_continuations(model, requests, batch_size=16)
    assert [entry.log_probability for entry in parts] == pytest.approx([entry.log_probability for entry in whole])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("batch_size", [1, 16])
def test_a_long_context_loses_its_beginning(kind: str, batch_size: int) -> None:
    model = make_model(kind, limit=24)
    requests = make_requests(8, longest=60)
    assert any(len(context) + len(continuation) > 25 for context, continuation in requests)
    for entry, request in zip(score_continuations(model, requests, batch_size=batch_size), requests, strict=True):
        assert entry.log_probability == pytest.approx(score_plainly(model, request, 24)[0], abs=1e-5)


def test_the_last_token_is_predicted_and_not_fed() -> None:
    model = make_model("gpt2", limit=8)  # a learned table of 8 positions: a ninth would be an error
    requests = [([3], list(range(4, 12))), ([3], [4]), ([9] * 50, list(range(4, 12)))]
    found = score_continuations(model, requests, batch_size=3)
    assert found[0].log_probability == pytest.approx(score_plainly(model, requests[0], 8)[0], abs=1e-5)
    assert found[2].log_probability == pytest.approx(score_plainly(model, requests[2], 8)[0], abs=1e-5)


def test_an_own_limit_below_the_models() -> None:
    model = make_model("llama")
    request = ([7, 8, 9, 10, 11, 12], [13, 14])
    (found,) = score_continuations(model, [request], batch_size=1, max_length=4)
    assert found.log_probability == pytest.approx(score_plainly(model, request, 4)[0], abs=1e-5)
    (found,) = score_continuations(model, [request], batch_size=1, max_length=1000)
    assert found.log_probability == pytest.approx(score_plainly(model, request, 64)[0], abs=1e-5)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (([5], []), "request 1: its continuation must have a token"),
        (([], [5]), "request 1: its context must have a token"),
        (([5], [6] * 25), r"request 1: .*limit of 24 tokens; received '25 tokens'"),
    ],
)
def test_requests_that_cannot_be_scored(request_: Request, said: str) -> None:
    with pytest.raises(DataError, match=said):
        score_continuations(make_model("llama", limit=24), [([5], [6]), request_], batch_size=2)


def test_nothing_to_score_and_no_batch() -> None:
    model = make_model("llama")
    assert score_continuations(model, [], batch_size=4) == []
    with pytest.raises(ValueError, match="batch_size"):
        score_continuations(model, [], batch_size=0)


def test_a_model_with_nan_is_refused() -> None:
    model = make_model("llama")
    with torch.no_grad():
        model.lm_head.weight[9] = math.nan
    with pytest.raises(DataError, match="request 0: its log-probability must be a number"):
        score_continuations(model, [([5], [6])], batch_size=1)


def test_dropout_is_off_and_modes_come_back() -> None:
    model = make_model("gpt2")
    expected = [entry.log_probability for entry in score_continuations(model, make_requests(3), batch_size=4)]
    model.train()
    model.transformer.h[0].eval()
    found = [entry.log_probability for entry in score_continuations(model, make_requests(3), batch_size=4)]
    assert found == expected
    assert model.training
    assert not model.transformer.h[0].training


def test_an_adapter_counts() -> None:
    from peft import LoraConfig, get_peft_model

    requests = make_requests(6)
    plain = [entry.log_probability for entry in score_continuations(make_model("llama"), requests, batch_size=5)]
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    with quiet_libraries():
        adapted = get_peft_model(make_model("llama"), lora).eval()
    found = score_continuations(adapted, requests, batch_size=5)
    assert [entry.log_probability for entry in found] != pytest.approx(plain, abs=1e-3)
    for entry, request in zip(found, requests, strict=True):
        assert entry.log_probability == pytest.approx(score_plainly(adapted, request, 64)[0], abs=1e-5)


def test_greedy_means_every_token() -> None:
    model = make_model("llama")
    ids = [7, 8, 9]
    with torch.no_grad():
        for _ in range(3):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    best = ids[3:]
    requests = [(ids[:3], best), (ids[:3], [*best[:2], best[2] + 1]), (ids[:3], [best[0] + 1, *best[1:]])]
    found = score_continuations(model, requests, batch_size=3)
    assert [entry.is_greedy for entry in found] == [True, False, False]


# --- encoding -------------------------------------------------------------------------------------------------------


def bos_tokenizer() -> Any:
    """One that puts its start token before every text, as Llama's does."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    assert tokenizer.encode("def")[0] == 0
    return tokenizer


def decoded(tokenizer: Any, pair: tuple[list[int], list[int]]) -> tuple[str, str]:
    return tokenizer.decode(pair[0]), tokenizer.decode(pair[1])


@pytest.mark.parametrize(
    ("context", "continuation", "expected"),
    [
        ("What is", " add", ("What is", " add")),
        ("What is ", "add", ("What is", " add")),
        ("What is \n ", "add", ("What is", " \n add")),
        ("What is", "", None),
        ("Größe →", " 🙂", ("Größe →", " 🙂")),
        ("What is", " ", ("What is", " ")),
    ],
)
def test_trailing_space_belongs_to_the_continuation(
    context: str, continuation: str, expected: tuple[str, str] | None
) -> None:
    tokenizer = tiny_tokenizer()
    if expected is None:
        with pytest.raises(DataError, match="must add at least one token"):
            encode_continuation(tokenizer, context, continuation)
    else:
        assert decoded(tokenizer, encode_continuation(tokenizer, context, continuation)) == expected


def test_the_start_token_comes_once() -> None:
    tokenizer = bos_tokenizer()
    context, continuation = encode_continuation(tokenizer, "What is", " add")
    assert context[0] == 0
    assert 0 not in context[1:] + continuation
    assert encode_continuation(tokenizer, "<s>What is", " add") == (context, continuation)


@pytest.mark.parametrize("make", [tiny_tokenizer, bos_tokenizer])
@pytest.mark.parametrize("context", ["", "  "])
def test_an_empty_context_is_the_start_token(make: Any, context: str) -> None:
    tokenizer = make()
    ids, continuation = encode_continuation(tokenizer, context, "def add")
    assert ids == [0]
    assert tokenizer.decode(continuation) == context + "def add"


def test_an_empty_context_before_a_start_token_does_not_double_it() -> None:
    assert encode_continuation(tiny_tokenizer(), "", "<s>def") == ([0], tiny_tokenizer().encode("def"))
    with pytest.raises(DataError, match="must add at least one token"):
        encode_continuation(tiny_tokenizer(), "", "<s>")


def test_without_a_start_token_the_end_token_stands_in() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = None
    assert encode_continuation(tokenizer, "", "def")[0] == [1]
    tokenizer.eos_token = None
    assert tokenizer.decode(encode_continuation(tokenizer, "def", " add")[1]) == " add"
    with pytest.raises(ConfigError, match="start or an end token"):
        encode_continuation(tokenizer, "", "def")


def test_a_token_across_the_border_counts_as_the_contexts() -> None:
    """ "answ" ends in the token "w", of "answer" it is "wer": seven tokens either way, so "er" is not scored."""
    tokenizer = tiny_tokenizer()
    context, continuation = encode_continuation(tokenizer, "What is the answ", "er is 5")
    assert tokenizer.decode(context) == "What is the answ"
    assert tokenizer.decode(continuation) == " is 5"
    with pytest.raises(DataError, match="received 'er'"):
        encode_continuation(tokenizer, "What is the answ", "er")


# --- choices and perplexity -----------------------------------------------------------------------------------------


def option(total: float, tokens: int = 1) -> Continuation:
    return Continuation(total, tokens, False)


@pytest.mark.parametrize(
    ("by", "expected"),
    [("sum", 0), ("per_token", 1), ("per_character", 2), ("per_byte", 3)],
)
def test_each_norm_can_choose_another_option(by: Any, expected: int) -> None:
    scores = [option(-4.0, 2), option(-9.0, 9), option(-10.0, 5), option(-11.0, 4)]
    texts = ["ab", "abcd", "a" * 20, "é" * 12]  # a character: -2, -2.25, -0.5, -0.92; a byte: ..., -0.5, -0.46
    assert pick_choice(scores, by, texts) == expected


def test_ties_go_to_the_first_and_an_empty_option_wins_nothing() -> None:
    assert pick_choice([option(-2.0), option(-1.0), option(-1.0)]) == 1
    assert pick_choice([option(-1.0), option(-9.0)], "per_byte", ["", "ab"]) == 1
    assert pick_choice([option(-math.inf), option(-9.0)]) == 1


def test_choices_that_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="at least one option"):
        pick_choice([])
    with pytest.raises(ValueError, match="one text an option"):
        pick_choice([option(-1.0)], "per_byte")
    with pytest.raises(ValueError, match="one text an option"):
        pick_choice([option(-1.0)], "per_character", ["a", "b"])


def test_perplexity_weighs_tokens_and_skips_rows_without_any() -> None:
    found = compute_perplexity([2 * math.log(3.0), 0.0, 6 * math.log(9.0)], [2, 0, 6])
    assert found.value == pytest.approx(math.exp((2 * math.log(3.0) + 6 * math.log(9.0)) / 8))
    assert found.item_nlls[0] == pytest.approx(math.log(3.0))
    assert math.isnan(found.item_nlls[1])
    assert compute_perplexity([800.0], [1]).value == math.inf
    with pytest.raises(DataError, match="at least one scored token"):
        compute_perplexity([0.0], [0])


def test_perplexity_of_a_corpus_agrees_with_its_responses_as_continuations() -> None:
    model, requests = make_model("llama"), make_requests(9)
    rows = [
        {
            "id": str(number),
            "input_ids": context + continuation,
            "is_response": [False] * len(context) + [True] * len(continuation),
        }
        for number, (context, continuation) in enumerate(requests)
    ]
    corpus = TokenisedCorpus(Dataset.from_list(rows), Stamp("tokens", {}))
    by_row = compute_perplexity(*sum_nll(compute_nll(model, corpus)))
    found = score_continuations(model, requests, batch_size=8)
    direct = compute_perplexity([-entry.log_probability for entry in found], [entry.num_tokens for entry in found])
    assert by_row.value == pytest.approx(direct.value, rel=1e-5)
    assert by_row.item_nlls == pytest.approx(direct.item_nlls, rel=1e-5)
