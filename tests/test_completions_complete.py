"""Asking for what is missing: in order, once, whatever ends the run before."""

from __future__ import annotations

import io
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tokensieve.completions import Completion, Decoding, Messages
from tokensieve.completions import complete as module
from tokensieve.completions.complete import complete
from tokensieve.completions.local import LocalBackend
from tokensieve.completions.store import CompletionStore
from tokensieve.errors import CacheError, DataError

GREEDY = Decoding(max_new_tokens=8)
SAMPLED = Decoding(max_new_tokens=8, temperature=1.0)


class Counting:
    """Answers in reverse order, and remembers what it was asked."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.asked: list[tuple[str, int]] = []
        self.calls: list[int] = []
        self.fail_after = fail_after

    def identity(self) -> Mapping[str, Any]:
        return {"name": "counting"}

    def complete(
        self, requests: Sequence[tuple[Messages, int]], decoding: Decoding
    ) -> Iterator[tuple[int, Completion]]:
        self.calls.append(len(requests))
        for number in reversed(range(len(requests))):
            messages, sample = requests[number]
            if self.fail_after is not None and len(self.asked) >= self.fail_after:
                raise OSError("the machine burns")
            self.asked.append((messages[-1]["content"], sample))
            yield number, Completion(text=f"{messages[-1]['content']}/{sample}", is_complete=True)


def talk(num: int, first: int = 0) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": str(number)}] for number in range(first, first + num)]


def texts(found: Iterator[list[Completion]]) -> list[list[str]]:
    return [[completion.text for completion in own] for own in found]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CompletionStore]:
    with CompletionStore(tmp_path / "c.sqlite") as opened:
        yield opened


def test_answers_come_in_order_and_the_second_time_from_the_store(store: CompletionStore) -> None:
    backend = Counting()
    expected = [[f"{number}/{sample}" for sample in range(3)] for number in range(5)]
    assert texts(complete(backend, store, talk(5), SAMPLED, num_samples=3)) == expected
    assert len(backend.asked) == 15
    assert texts(complete(backend, store, talk(5), SAMPLED, num_samples=3)) == expected
    assert len(backend.asked) == 15
    # More conversations and more samples cost only what is new.
    assert len(texts(complete(backend, store, talk(6), SAMPLED, num_samples=4))) == 6
    assert sorted(backend.asked[15:]) == sorted([(str(n), 3) for n in range(6)] + [("5", s) for s in range(3)])


def test_what_another_asked_is_not_taken(store: CompletionStore) -> None:
    backend = Counting()
    list(complete(backend, store, talk(3), SAMPLED))
    list(complete(backend, store, talk(3), GREEDY))
    list(complete(backend, store, talk(3), Decoding(max_new_tokens=8, temperature=1.0, seed=1)))
    backend.identity = lambda: {"name": "another"}  # type: ignore[method-assign]
    list(complete(backend, store, talk(3), SAMPLED))
    assert len(backend.asked) == 12


def test_the_same_conversation_is_asked_once(store: CompletionStore) -> None:
    backend = Counting()
    found = texts(complete(backend, store, talk(2) + talk(2), SAMPLED, num_samples=2))
    assert found == [["0/0", "0/1"], ["1/0", "1/1"]] * 2
    assert len(backend.asked) == 4


def test_greedy_samples_are_one(store: CompletionStore) -> None:
    backend = Counting()
    assert texts(complete(backend, store, talk(2), GREEDY, num_samples=3)) == [["0/0"] * 3, ["1/0"] * 3]
    assert len(backend.asked) == 2


def test_nothing_to_do(store: CompletionStore) -> None:
    backend = Counting()
    assert list(complete(backend, store, [], GREEDY)) == []
    assert backend.calls == []


def test_no_model_loads_when_nothing_is_missing(store: CompletionStore) -> None:
    from tiny_model import make_llama, make_tokenizer

    loads: list[int] = []

    def load() -> Any:
        loads.append(1)
        return make_llama(), make_tokenizer()

    def run() -> list[list[str]]:
        return texts(complete(LocalBackend(load, {"model": "tiny"}, 4), store, talk(3), SAMPLED, num_samples=2))

    first = run()
    assert loads == [1]
    assert run() == first
    assert loads == [1]
    list(complete(LocalBackend(load, {"model": "other"}, 4), store, talk(3), SAMPLED, num_samples=2))
    assert loads == [1, 1]


def test_conversations_are_read_group_by_group(store: CompletionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COMPLETIONS_AT_ONCE", 4)
    read: list[int] = []

    def stream() -> Iterator[list[dict[str, str]]]:
        for number in range(9):
            read.append(number)
            yield talk(1, number)[0]

    backend = Counting()
    answers = complete(backend, store, stream(), SAMPLED, num_samples=2)
    assert next(answers)[0].text == "0/0"
    assert read == [0, 1]
    assert len(list(answers)) == 8
    assert backend.calls == [4, 4, 4, 4, 2]
    # More samples than a group holds: still a conversation at a time.
    assert len(list(complete(backend, store, talk(2), SAMPLED, num_samples=7))) == 2


def test_a_failure_keeps_what_had_arrived(store: CompletionStore) -> None:
    with pytest.raises(OSError, match="burns"):
        list(complete(Counting(fail_after=4), store, talk(10), GREEDY))
    assert len(store) == 4
    backend = Counting()
    assert texts(complete(backend, store, talk(10), GREEDY)) == [[f"{number}/0"] for number in range(10)]
    assert len(backend.asked) == 6


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_a_failing_check_keeps_what_had_arrived(store: CompletionStore, error: type[BaseException]) -> None:
    seen: list[int] = []

    def check(number: int, completion: Completion) -> bool:
        seen.append(number)
        if len(seen) == 3:
            raise error
        return True

    with pytest.raises(error):
        list(complete(Counting(), store, talk(10), GREEDY, check=check))
    assert len(store) == 3


def test_an_interruption_before_the_commit_loses_nothing(
    store: CompletionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = CompletionStore.put, []

    def put(self: CompletionStore, key: bytes, completion: Completion) -> Completion:
        calls.append(key)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, key, completion)

    monkeypatch.setattr(CompletionStore, "put", put)
    with pytest.raises(KeyboardInterrupt):
        list(complete(Counting(), store, talk(5), GREEDY))
    assert len(store) == 2


def test_a_store_that_fails_ends_the_run(store: CompletionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(self: CompletionStore, key: bytes, completion: Completion) -> Completion:
        raise CacheError("c.sqlite", "must be writable")

    monkeypatch.setattr(CompletionStore, "put", put)
    backend = Counting()
    with pytest.raises(CacheError):
        list(complete(backend, store, talk(5), GREEDY))
    assert len(backend.asked) == 1, "nothing more is paid for that cannot be kept"


def test_what_another_process_stored_meanwhile_is_what_counts(store: CompletionStore) -> None:
    class Overtaken(Counting):
        def complete(self, requests: Any, decoding: Decoding) -> Iterator[tuple[int, Completion]]:
            with CompletionStore(store.path) as other:
                list(complete(Counting(), other, talk(1), SAMPLED))
            yield 0, Completion(text="mine", is_complete=False)

    assert texts(complete(Overtaken(), store, talk(1), SAMPLED)) == [["0/0"]]


class Forgetful(Counting):
    def complete(self, requests: Any, decoding: Decoding) -> Iterator[tuple[int, Completion]]:
        return iter(list(super().complete(requests, decoding))[1:])


def test_a_back_end_that_leaves_one_out_is_not_believed(store: CompletionStore) -> None:
    with pytest.raises(RuntimeError, match="1 of 5 requests unanswered"):
        list(complete(Forgetful(), store, talk(5), GREEDY))


def test_wrong_arguments(store: CompletionStore) -> None:
    with pytest.raises(ValueError, match="num_samples"):
        complete(Counting(), store, talk(1), GREEDY, num_samples=0)
    broken = [*talk(2), [{"role": "user", "content": "half \ud83d"}]]
    with pytest.raises(DataError, match="conversation 2, turn 0, content: must be valid Unicode"):
        list(complete(Counting(), store, broken, GREEDY))


@pytest.mark.parametrize(
    "change",
    [
        {"max_new_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"stop": ("a", "")},
    ],
)
def test_decodings_that_are_none(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Decoding(**({"max_new_tokens": 1} | change))


def test_the_bar_shows_acceptance_and_counts_what_was_found(
    store: CompletionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def show(check: Callable[[int, Completion], bool] | None) -> str:
        screen = Terminal()
        monkeypatch.setattr(sys, "stderr", screen)
        list(complete(Counting(), store, talk(4), SAMPLED, num_samples=2, progress="ask", check=check))
        return screen.getvalue().split("\r")[-1]

    clock = itertools.count(time.time(), 10.0)  # past the delay at once
    monkeypatch.setattr("tqdm.std.time", lambda: next(clock))
    checked: list[tuple[int, str]] = []

    def check(number: int, completion: Completion) -> bool:
        checked.append((number, completion.text))
        return completion.text.endswith("/1") or number == 0

    first = show(check)
    assert sorted(checked) == [(number, f"{number}/{sample}") for number in range(4) for sample in range(2)]
    for line in (first, show(check)):  # new, then from the store
        assert "ask: 100%" in line
        assert "8/8" in line
        assert "62% accepted" in line
    assert "accepted" not in show(None)
    assert show(None)


CHILD = """
import sys, time
from pathlib import Path
from tokensieve.completions import Completion, Decoding
from tokensieve.completions.complete import complete
from tokensieve.completions.store import CompletionStore

class Slow:
    def identity(self):
        return {"name": "counting"}
    def complete(self, requests, decoding):
        for number, (messages, sample) in enumerate(requests):
            time.sleep(0.02)
            yield number, Completion(text=f"{messages[-1]['content']}/{sample}", is_complete=True)

talk = [[{"role": "user", "content": str(number)}] for number in range(500)]
with CompletionStore(Path(sys.argv[1])) as store:
    list(complete(Slow(), store, talk, Decoding(max_new_tokens=8, temperature=1.0), num_samples=2))
"""


def test_a_killed_run_goes_on_without_asking_twice(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(CHILD), str(path)])
    try:
        with CompletionStore(path) as store:
            while len(store) < 40:
                assert child.poll() is None
                time.sleep(0.01)
            os.kill(child.pid, signal.SIGKILL)
            assert child.wait(60) == -signal.SIGKILL
    finally:
        child.kill()
        child.wait()
    with CompletionStore(path) as store:
        kept = len(store)
        assert 40 <= kept < 1000
        backend = Counting()
        found = texts(complete(backend, store, talk(500), SAMPLED, num_samples=2))
        assert found == [[f"{number}/0", f"{number}/1"] for number in range(500)]
        assert len(backend.asked) == 1000 - kept
        assert len(store) == 1000
