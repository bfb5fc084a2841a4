"""The endpoint back end against a server that fails in every way we know."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_endpoint as fake
import pytest
from fake_endpoint import FakeEndpoint

from tokensieve.completions.chat_protocol import EndpointError
from tokensieve.completions.complete import complete
from tokensieve.completions.endpoint import EndpointBackend
from tokensieve.completions.records import Completion, Decoding
from tokensieve.completions.store import CompletionStore
from tokensieve.errors import ConfigError

GREEDY = Decoding(max_new_tokens=8)
SAMPLED = Decoding(max_new_tokens=8, temperature=0.7, top_p=0.9, seed=3)
KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    yield
    assert not [thread for thread in threading.enumerate() if "portal" in thread.name]


def ask(*contents: str, sample: int = 0) -> list[tuple[list[dict[str, str]], int]]:
    return [([{"role": "user", "content": content}], sample) for content in contents]


def open_backend(server: FakeEndpoint, **options: Any) -> EndpointBackend:
    quick = {"first_backoff_seconds": 0.01, "timeout_seconds": 20.0, "max_attempts": 4}
    return EndpointBackend(server.base_url, "m", **(quick | options))


def complete_one(server: FakeEndpoint, decoding: Decoding = GREEDY, **options: Any) -> Completion:
    [(number, completion)] = open_backend(server, **options).complete(ask("a"), decoding)
    assert number == 0
    return completion


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fake.drop, id="dropped connection"),
        pytest.param(fake.truncate, id="truncated body"),
        pytest.param(fake.stall, id="stall"),
        pytest.param(fake.drip, id="endless drip"),
        pytest.param(fake.failing(500), id="500"),
        pytest.param(fake.failing(503, b"<html>overloaded</html>"), id="503 in HTML"),
        pytest.param(fake.failing(429), id="429"),
        pytest.param(fake.failing(429, None, {"Retry-After": "0"}), id="429 with Retry-After"),
        pytest.param(fake.failing(429, None, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), id="a date gone by"),
        pytest.param(fake.failing(429, None, {"Retry-After": "soon"}), id="nonsense in Retry-After"),
        pytest.param(fake.failing(408), id="408"),
        pytest.param(fake.saying(b"{not json"), id="garbage"),
        pytest.param(fake.saying(b"\xff\xfe\x00"), id="not text"),
        pytest.param(fake.saying(b"[" * 100_000), id="deeply nested"),
        pytest.param(fake.saying(b""), id="empty body"),
        pytest.param(fake.saying([]), id="a list"),
        pytest.param(fake.saying({"choices": []}), id="no choice"),
        pytest.param(fake.saying({"choices": None}), id="null choices"),
        pytest.param(fake.saying(fake.choice(["a"])), id="content of parts"),
        pytest.param(fake.saying({"error": {"message": "overloaded"}}), id="an error with status 200"),
    ],
)
def test_what_may_pass_is_tried_again(fault: fake.Answer) -> None:
    with FakeEndpoint({"a": [fault, fault]}) as server:
        completion = complete_one(server, timeout_seconds=0.5 if fault in (fake.stall, fake.drip) else 20.0)
        assert completion.text.startswith("about a w0")
        assert server.attempts["a"] == 3


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (400, {"error": {"message": f"context too long; you sent Bearer {KEY}"}}, "context too long"),
        (401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}, "OPENAI_API_KEY"),
        (403, {"error": {"message": "no"}}, "OPENAI_API_KEY"),
        (404, b"<html>\nnot\nhere</html>", "base_url"),
        (302, b"", "base_url"),
        (422, {"detail": "field x"}, "field x"),
        (501, {"error": {"message": "never"}}, "never"),
        (429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}, "credit"),
    ],
)
def test_what_will_not_pass_ends_at_once_in_one_line(status: int, body: Any, says: str) -> None:
    with FakeEndpoint(default=fake.failing(status, body)) as server, pytest.raises(EndpointError) as caught:
        list(open_backend(server, max_concurrency=1).complete(ask("a", "b"), GREEDY))
    message = str(caught.value)
    assert says in message
    assert f"HTTP {status}" in message
    assert "Remedy" in message
    assert "\n" not in message
    assert KEY not in message
    assert len(server.seen) == 1


def test_retry_after_holds_back_every_request() -> None:
    limited = fake.failing(429, None, {"Retry-After": "1"})
    with FakeEndpoint({"a": [limited]}) as server:
        assert len(list(open_backend(server, max_concurrency=1).complete(ask("a", "b", "c"), GREEDY))) == 3
        assert server.attempts == {"a": 2, "b": 1, "c": 1}
        assert server.times[1] - server.times[0] >= 1.0


def test_a_wait_that_is_too_long_is_an_error() -> None:
    with (
        FakeEndpoint(default=fake.failing(429, None, {"Retry-After": "3600"})) as server,
        pytest.raises(EndpointError, match="Retry-After 3600 s"),
    ):
        complete_one(server)


def test_failing_for_too_long_keeps_the_rest() -> None:
    with FakeEndpoint({"b": [fake.failing(500)] * 9}) as server:
        answers = open_backend(server, max_concurrency=1).complete(ask("a", "b", "c"), GREEDY)
        assert next(answers)[0] == 0
        with pytest.raises(EndpointError, match="within 4 attempts; received 'HTTP 500: broken'"):
            next(answers)
        assert server.attempts == {"a": 1, "b": 4}


def test_what_is_in_flight_when_another_fails_is_kept() -> None:
    both = threading.Barrier(2)

    def refuse(server: FakeEndpoint, handler: Any, body: Any) -> None:
        both.wait(20)
        fake.failing(400)(server, handler, body)

    def answer_later(server: FakeEndpoint, handler: Any, body: Any) -> None:
        both.wait(20)
        threading.Event().wait(0.3)
        fake.answer_well(server, handler, body)

    with FakeEndpoint({"a": [refuse], "b": [answer_later]}) as server:
        answers = open_backend(server, max_concurrency=2).complete(ask("a", "b", "c"), GREEDY)
        assert next(answers)[0] == 1
        with pytest.raises(EndpointError, match="request 0"):
            next(answers)
        assert server.attempts == {"a": 1, "b": 1}


def test_a_server_that_is_not_there() -> None:
    with FakeEndpoint() as server:
        pass
    with pytest.raises(EndpointError, match="ConnectError"):
        complete_one(server, max_attempts=2)


def test_the_budget_counts_repetitions_and_keeps_what_was_paid(tmp_path: Path) -> None:
    conversations = [[{"role": "user", "content": name}] for name in "abcdef"]
    with FakeEndpoint({"b": [fake.failing(500)]}) as server, CompletionStore(tmp_path / "c.sqlite") as store:
        poor = open_backend(server, max_requests=4, max_concurrency=1)
        with pytest.raises(EndpointError, match=r"budget of 4 requests is spent.*raise it"):
            list(complete(poor, store, conversations, GREEDY))
        assert server.attempts == {"a": 1, "b": 2, "c": 1}
        assert len(store) == 3
        with pytest.raises(EndpointError, match="budget"):  # of the object's life
            list(complete(poor, store, conversations, GREEDY))
        assert len(server.seen) == 4
        assert len(list(complete(open_backend(server), store, conversations, GREEDY))) == 6
        assert server.attempts == {"a": 1, "b": 2, "c": 1, "d": 1, "e": 1, "f": 1}


def test_requests_run_side_by_side_up_to_the_limit() -> None:
    gate = threading.Barrier(5)
    inside, most, lock = 0, 0, threading.Lock()

    def answer_together(server: FakeEndpoint, handler: Any, body: Any) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        gate.wait(20)  # broken, and the test fails, unless five are in flight at once
        with lock:
            inside -= 1
        fake.answer_well(server, handler, body)

    with FakeEndpoint(default=answer_together) as server:
        requests = ask(*(f"n{number}" for number in range(20)))
        assert len(list(open_backend(server, max_concurrency=5).complete(requests, GREEDY))) == 20
    assert most == 5


def test_answers_come_as_they_arrive_and_closing_early_ends_the_work() -> None:
    with FakeEndpoint({"a": [fake.stall]}) as server:
        answers = open_backend(server).complete(ask("a", "b"), GREEDY)
        assert next(answers)[0] == 1  # while a stalls
        answers.close()
        assert not [thread for thread in threading.enumerate() if "portal" in thread.name]


def test_ctrl_c_stores_all_that_had_arrived(tmp_path: Path) -> None:
    """One worker stalls at a; the other answers b..e, then stalls at f: when f is seen, b..e have arrived."""
    names = "abcdefg"
    waited = threading.Event()

    def interrupt(number: int, completion: Completion) -> bool:
        while not server.attempts["f"]:
            waited.wait(0.01)
        raise KeyboardInterrupt

    with (
        FakeEndpoint({"a": [fake.stall], "f": [fake.stall]}) as server,
        CompletionStore(tmp_path / "c.sqlite") as store,
    ):
        backend = open_backend(server, max_concurrency=2, timeout_seconds=60)
        conversations = [[{"role": "user", "content": name}] for name in names]
        with pytest.raises(KeyboardInterrupt):
            list(complete(backend, store, conversations, GREEDY, check=interrupt))
        assert len(store) == 4
        assert server.attempts["g"] == 0
        assert not [thread for thread in threading.enumerate() if "portal" in thread.name]
        assert len(list(complete(backend, store, conversations, GREEDY))) == 7
        assert server.attempts == {"a": 2, "b": 1, "c": 1, "d": 1, "e": 1, "f": 2, "g": 1}


def test_ctrl_c_while_waiting_for_an_answer() -> None:
    import _thread

    def interrupt(server: FakeEndpoint, handler: Any, body: Any) -> None:
        _thread.interrupt_main()
        fake.stall(server, handler, body)

    with FakeEndpoint({"b": [interrupt]}) as server:
        answers = open_backend(server, max_concurrency=1, timeout_seconds=60).complete(ask("a", "b"), GREEDY)
        assert next(answers)[0] == 0
        with pytest.raises(KeyboardInterrupt):
            next(answers)


CHILD = """
import sys, threading
from pathlib import Path
from tokensieve.completions import Decoding
from tokensieve.completions.complete import complete
from tokensieve.completions.endpoint import EndpointBackend
from tokensieve.completions.store import CompletionStore
talk = [[{"role": "user", "content": str(number)}] for number in range(100_000)]
backend = EndpointBackend(sys.argv[1], "m", max_concurrency=8)
with CompletionStore(Path(sys.argv[2])) as store:
    try:
        list(complete(backend, store, talk, Decoding(max_new_tokens=5)))
    except KeyboardInterrupt:
        threads = [thread for thread in threading.enumerate() if "portal" in thread.name]
        print(len(store), backend.budget.num_sent, len(threads))
"""


def test_ctrl_c_at_any_moment_costs_only_what_was_in_flight(tmp_path: Path) -> None:
    with FakeEndpoint() as server:
        command = [sys.executable, "-c", CHILD, server.base_url, str(tmp_path / "c.sqlite")]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            while len(server.seen) < 60:
                assert child.poll() is None
                threading.Event().wait(0.01)
            child.send_signal(signal.SIGINT)
            num_stored, num_sent, num_threads = map(int, child.communicate(timeout=60)[0].split())
        finally:
            child.kill()
            child.wait()
    assert 40 <= num_sent - 8 <= num_stored <= num_sent
    assert num_threads == 0


def test_the_key_goes_to_the_server_and_nowhere_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with FakeEndpoint({"a": [fake.failing(500)]}) as server:
        backend = open_backend(server)
        [(_, completion)] = backend.complete(ask("a"), GREEDY)
        assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    seen = caplog.text + json.dumps(backend.identity()) + repr(vars(backend)) + repr(backend) + completion.text
    assert KEY not in seen


def test_no_key_where_none_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeEndpoint() as server:
        complete_one(server, api_key_variable=None)
        complete_one(server, api_key_variable="TOKENSIEVE_TEST_NO_SUCH_KEY")
        monkeypatch.setenv("OPENAI_API_KEY", f"  {KEY}\n")  # as a file read by a shell would leave it
        complete_one(server)
        found = [headers.get("authorization") for headers in server.headers]
    assert found == [None, None, f"Bearer {KEY}"]


def test_a_proxy_is_not_asked_for_a_server_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with FakeEndpoint() as server:
        assert complete_one(server, max_attempts=1).text


def test_a_key_that_is_none_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk secret\nkey")
    with FakeEndpoint() as server, pytest.raises(ConfigError, match="OPENAI_API_KEY") as caught:
        complete_one(server)
    assert "secret" not in str(caught.value)
    assert not server.seen


@pytest.mark.parametrize(
    ("content", "reason", "expected"),
    [
        ("hello", "stop", ("hello", True)),
        ("hello", "length", ("hello", False)),
        ("hello", "content_filter", ("hello", False)),
        ("hello", None, ("hello", False)),
        ("hello", "eos_token", ("hello", True)),
        (None, "stop", ("", True)),
        ("", "length", ("", False)),
        ("one END two", "stop", ("one ", True)),  # a server that leaves the stop string in
        ("one END two", "length", ("one ", True)),
        ("\ud83d half", "stop", ("\ufffd half", True)),
        ("\ud83d\ude00 whole \x00", "stop", ("\U0001f600 whole \x00", True)),
    ],
)
def test_how_an_answer_is_read(content: Any, reason: Any, expected: tuple[str, bool]) -> None:
    with FakeEndpoint(default=fake.saying(fake.choice(content, reason))) as server:
        completion = complete_one(server, Decoding(max_new_tokens=5, stop=("END",)))
    assert (completion.text, completion.is_complete) == expected
    assert completion.mean_nll is None
    assert completion.mean_entropy is None


@pytest.mark.parametrize(
    ("logprobs", "expected"),
    [
        ({"content": [{"token": "ab", "logprob": -1.0}, {"token": "c", "logprob": -2.0}]}, 1.5),
        # the end token of some servers, and what comes after the stop string, are not of the text
        ({"content": [{"token": "abc", "logprob": -1.0}, {"token": "<end>", "logprob": -9.0}]}, 1.0),
        ({"content": [{"token": "?", "bytes": [97, 98, 99], "logprob": -0.5}]}, 0.5),
        ({"content": [{"token": "ab", "logprob": -1.0}]}, None),  # not all of the text
        # a thought before it, which is not of the text, though as long
        ({"content": [{"token": "xyz", "logprob": -8.0}, {"token": "abc", "logprob": -1.0}]}, 1.0),
        ({"content": [{"token": "xyzxyz", "logprob": -8.0}]}, None),
        ({"content": [{"token": "abc", "logprob": None}]}, None),
        ({"content": [{"token": "abc", "logprob": float("nan")}]}, None),
        ({"content": []}, None),
        ({"content": None}, None),
        (None, None),
    ],
)
def test_log_probabilities_become_the_mean_nll(logprobs: Any, expected: float | None) -> None:
    with FakeEndpoint(default=fake.saying(fake.choice("abc", logprobs=logprobs))) as server:
        assert complete_one(server, with_logprobs=True).mean_nll == expected
        assert server.seen[0]["logprobs"] is True


def test_what_is_sent() -> None:
    decoding = Decoding(max_new_tokens=8, temperature=0.7, top_p=0.9, seed=3, stop=("x", "y"))
    with FakeEndpoint() as server:
        complete_one(server)
        complete_one(server, decoding)
        options = {"token_limit_field": "max_completion_tokens", "extra": {"temperature": None, "top_k": 5}}
        complete_one(server, decoding, **options)
    greedy, sampled, odd = server.seen
    messages = [{"role": "user", "content": "a"}]
    assert greedy == {"model": "m", "messages": messages, "max_tokens": 8, "temperature": 0.0}
    seed = sampled.pop("seed")
    assert 0 <= seed < 2**31
    assert sampled == greedy | {"temperature": 0.7, "top_p": 0.9, "stop": ["x", "y"]}
    assert odd == {"model": "m", "messages": messages, "max_completion_tokens": 8, "top_p": 0.9, "stop": ["x", "y"], "seed": seed, "top_k": 5}  # fmt: skip


def test_each_sample_has_its_own_seed() -> None:
    with FakeEndpoint() as server:
        backend = open_backend(server, max_concurrency=1)
        requests = ask("a") + ask("a", sample=1) + ask("b") + ask("a")
        list(backend.complete(requests, SAMPLED))
        list(backend.complete(ask("a"), Decoding(max_new_tokens=8, temperature=0.7, top_p=0.9, seed=4)))
    first, second, other, again, later = (body["seed"] for body in server.seen)
    assert first == again
    assert len({first, second, other, later}) == 4


def test_the_identity_tells_what_decides_an_answer() -> None:
    def identity(url: str = "http://h:1/v1", model: str = "m", **options: Any) -> str:
        return json.dumps(EndpointBackend(url, model, **options).identity(), sort_keys=True)

    assert identity() == identity("http://h:1/v1/") == identity("http://h:1/v1/chat/completions")
    assert identity() == identity(max_concurrency=3, timeout_seconds=1, max_requests=5, max_attempts=1)
    assert identity(deployment="mine") == identity("http://h:2/v1", deployment="mine")
    different = {identity(), identity("http://h:2/v1"), identity(model="n"), identity(extra={"top_k": 1}), identity(with_logprobs=True)}  # fmt: skip
    assert len(different) == 5


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://h/v1",
        "http://",
        "",
        "http://h:99999/v1",
        "http://u:hunter2@h/v1",
        "https://h/v1?key=hunter2",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="base_url") as caught:
        EndpointBackend(url, "m")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("options", [{"max_concurrency": 0}, {"max_requests": 0}, {"max_attempts": 0}, {"timeout_seconds": 0}, {"first_backoff_seconds": -1}])  # fmt: skip
def test_numbers_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        EndpointBackend("http://h/v1", "m", **options)
