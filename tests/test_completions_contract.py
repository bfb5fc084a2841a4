"""What every generation back end promises."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_endpoint import FakeEndpoint
from tiny_model import make_llama, make_tokenizer

from tokensieve.completions import Backend, Completion, Decoding
from tokensieve.completions.endpoint import EndpointBackend
from tokensieve.completions.local import LocalBackend

KEY = "sk-contract-0123456789"
GREEDY = Decoding(max_new_tokens=24)
SAMPLED = Decoding(max_new_tokens=24, temperature=1.0, top_p=0.95, seed=1)
Open = Callable[..., Backend]


@pytest.fixture(params=["local", "endpoint"])
def open_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """`open_backend(at_once)`: a back end that works on so many requests at a time."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    if request.param == "local":
        model, tokenizer = make_llama(), make_tokenizer()
        yield lambda at_once=3: LocalBackend(lambda: (model, tokenizer), {"name": "tiny"}, at_once)
        return
    with FakeEndpoint() as server:
        yield lambda at_once=3: EndpointBackend(server.base_url, "m", max_concurrency=at_once)


def make_requests(num: int, *, samples: int = 1) -> list[tuple[list[dict[str, str]], int]]:
    return [
        ([{"role": "system", "content": "Be short."}, {"role": "user", "content": f"Q{at} " + "ü" * at}], sample)
        for at in range(num)
        for sample in range(samples)
    ]


def collect(backend: Backend, requests: Any, decoding: Decoding = GREEDY) -> dict[int, Completion]:
    pairs = list(backend.complete(requests, decoding))
    found = dict(pairs)
    assert len(found) == len(pairs), "a request was answered twice"
    return found


def test_each_request_is_answered_once(open_backend: Open) -> None:
    requests = make_requests(10)
    found = collect(open_backend(), requests)
    assert sorted(found) == list(range(10))
    assert len({completion.text for completion in found.values()}) == 10
    one = collect(open_backend(), requests[4:5])
    assert (one[0].text, one[0].is_complete) == (found[4].text, found[4].is_complete)


def test_no_request_no_answer(open_backend: Open) -> None:
    assert collect(open_backend(), []) == {}


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_repetition_order_and_batches_change_nothing(open_backend: Open, decoding: Decoding) -> None:
    requests = make_requests(7, samples=2)
    first = collect(open_backend(), requests, decoding)
    texts = {at: (completion.text, completion.is_complete) for at, completion in first.items()}
    for at_once in (1, 14):
        turned = collect(open_backend(at_once), requests[::-1], decoding)
        assert {13 - at: (completion.text, completion.is_complete) for at, completion in turned.items()} == texts


def test_samples_differ_and_seeds_differ(open_backend: Open) -> None:
    requests = make_requests(1, samples=4)
    first = collect(open_backend(), requests, SAMPLED)
    assert len({completion.text for completion in first.values()}) == 4
    other = Decoding(max_new_tokens=24, temperature=1.0, top_p=0.95, seed=2)
    assert collect(open_backend(), requests, other) != first


def test_a_stop_string_ends_a_text_and_is_not_part_of_it(open_backend: Open) -> None:
    requests = make_requests(3)
    whole = collect(open_backend(), requests)
    stop = whole[1].text[3:5]
    cut = collect(open_backend(), requests, Decoding(max_new_tokens=24, stop=(stop, "never")))
    assert cut[1].text == whole[1].text[: whole[1].text.find(stop)]
    assert cut[1].is_complete
    assert not any(stop in completion.text for completion in cut.values())


def test_the_token_limit_leaves_a_text_incomplete(open_backend: Open) -> None:
    found = collect(open_backend(), make_requests(4), Decoding(max_new_tokens=2))
    whole = collect(open_backend(), make_requests(4))
    for at, completion in found.items():
        assert not completion.is_complete
        assert completion.text
        assert whole[at].text.startswith(completion.text.rstrip("\ufffd"))


def test_the_identity_is_json_and_holds_no_secret(open_backend: Open) -> None:
    backend = open_backend()
    before = json.dumps(backend.identity(), sort_keys=True)
    collect(backend, make_requests(2))
    assert json.dumps(backend.identity(), sort_keys=True) == before
    assert json.loads(before) == backend.identity()
    assert KEY not in before
    assert json.dumps(open_backend(9).identity(), sort_keys=True) == before, "how many at once decides no answer"


def test_closing_early_leaves_a_back_end_usable(open_backend: Open) -> None:
    backend = open_backend(1)
    answers: Any = backend.complete(make_requests(5), GREEDY)
    next(answers)
    answers.close()
    assert len(collect(backend, make_requests(5))) == 5


def test_an_exception_thrown_in_comes_out_after_what_had_arrived(open_backend: Open) -> None:
    answers: Any = open_backend(1).complete(make_requests(5), GREEDY)
    next(answers)
    found = []

    def end() -> None:
        found.append(answers.throw(KeyboardInterrupt()))
        found.extend(answers)

    with pytest.raises(KeyboardInterrupt):
        end()
    assert len(found) <= 4
