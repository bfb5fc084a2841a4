"""What each kind of noise does to a response, by hand."""

from __future__ import annotations

import collections
import itertools
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise_corpora import example, family_examples, make_corpus, responses

from tokensieve.errors import DataError
from tokensieve.graders import grade_texts
from tokensieve.graders.number import find_numbers
from tokensieve.noise import define_noise, read_ledger, read_noise_stats
from tokensieve.noise.final_answer import LabelFlip, WrongNumber
from tokensieve.noise.mutations import draw_mutants
from tokensieve.noise.rows import Example
from tokensieve.noise.wording import Repeat, Truncate, Typo
from tokensieve.noise.wrong_code import wrong_versions
from tokensieve.records import Corpus


def row(response: str, **reference: Any) -> Example:
    return Example(0, "a", response, json.dumps(reference))


def outcomes(noise: Any, response: str, draws: int = 200, **reference: Any) -> collections.Counter[str]:
    found = row(response, **reference)
    assert noise.applies(found)
    return collections.Counter(noise.corrupt(found, random.Random(draw)) for draw in range(draws))


def corrupted(tmp_path: Path, rows: list[Any], kind: str, ratio: float = 1.0, seed: int = 0) -> Corpus:
    clean = make_corpus(tmp_path, rows)
    return define_noise(clean.store, clean, kind=kind, ratio=ratio, seed=seed).get()


@pytest.mark.parametrize(
    ("response", "flipped"),
    [
        ("B", ["A", "C"]),
        (" **(B)**.\n", [" **(A)**.\n", " **(C)**.\n"]),
        ("b", ["a", "c"]),
        ("Grass is green. B\nAnswer: B", ["Grass is green. B\nAnswer: A", "Grass is green. B\nAnswer: C"]),
        ("So the answer is B.", ["So the answer is A.", "So the answer is C."]),
        (r"Answer: \boxed{B}", [r"Answer: \boxed{A}", r"Answer: \boxed{C}"]),
    ],
)
def test_label_flip_changes_the_stated_label_alone(response: str, flipped: list[str]) -> None:
    assert sorted(outcomes(LabelFlip(), response, answer="B", labels=["A", "B", "C"])) == flipped


def test_label_flip_draws_the_others_uniformly() -> None:
    counts = outcomes(LabelFlip(), "Answer: B", 3000, answer="B", labels=list("ABCD"))
    assert set(counts) == {"Answer: A", "Answer: C", "Answer: D"}
    assert all(900 < count < 1100 for count in counts.values())  # 1000 expected, standard deviation 26


def test_label_flip_of_words_and_numbers() -> None:
    moods = ["negative", "neutral", "positive"]
    assert set(outcomes(LabelFlip(), "Neutral", answer="neutral", labels=moods)) == {"Negative", "Positive"}
    assert set(outcomes(LabelFlip(), "Answer: 10", answer="10", labels=[1, 10])) == {"Answer: 1"}


def test_label_flip_never_corrects_a_wrong_label() -> None:
    assert set(outcomes(LabelFlip(), "A", answer="B", labels=["A", "B", "C"])) == {"C"}
    assert not LabelFlip().applies(row("A", answer="B", labels=["A", "B"]))


@pytest.mark.parametrize(
    "response", ["It is green.", "A or B", "Answer: A\nAnswer: B", "Answer: E", "Answer: B) green"]
)
def test_label_flip_needs_a_clear_label(tmp_path: Path, response: str) -> None:
    rows = [example(number, text, {"answer": "A", "labels": ["A", "B"]}) for number, text in enumerate(["A", response])]
    with pytest.raises(DataError, match=r"rows\.jsonl:2: label_flip needs a response that is one of A, B.*Remedy"):
        corrupted(tmp_path, rows, "label_flip", ratio=0.5)


def test_label_flip_needs_all_labels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:1: label_flip needs the labels.*answer_swap"):
        corrupted(tmp_path, [example(0, "A", {"answer": "A"})], "label_flip")


def test_label_flip_is_wrong_for_the_grader(tmp_path: Path) -> None:
    rows = family_examples("label_flip", 30)
    references = [json.loads(found["reference"]) for found in rows]
    grades = grade_texts("choice", responses(corrupted(tmp_path, rows, "label_flip")), references)
    assert [grade.score for grade in grades] == [0] * 30
    assert {grade.reason for grade in grades} <= set("ABCD")  # each still states one label


def test_answer_swap_is_a_derangement_that_uses_every_response_once(tmp_path: Path) -> None:
    rows = [example(number, f"text {number}") for number in range(50)]
    swapped = responses(corrupted(tmp_path, rows, "answer_swap"))
    assert sorted(swapped) == sorted(f"text {number}" for number in range(50))
    assert all(text != f"text {number}" for number, text in enumerate(swapped))


def test_answer_swap_never_gives_an_equal_text(tmp_path: Path) -> None:
    texts = ["A"] * 40 + ["B", "A ", "C"]
    swapped = responses(corrupted(tmp_path, [example(at, text) for at, text in enumerate(texts)], "answer_swap"))
    assert all(old.strip() != new.strip() for old, new in zip(texts, swapped, strict=True))
    assert set(swapped) == {"A", "B", "C"} | ({"A "} & set(swapped))


@given(st.lists(st.sampled_from("AB"), min_size=1, max_size=12))
def test_next_different_against_a_search(values: list[str]) -> None:
    import numpy as np

    from tokensieve.noise.swap import _next_different

    found = _next_different(np.array([ord(value) for value in values], np.uint64))
    for at, value in enumerate(values):
        ring = [*range(at + 1, len(values)), *range(at)]
        wanted = next((place for place in ring if values[place] != value), None)
        assert wanted is None or found[at] == wanted


@pytest.mark.parametrize(
    ("response", "pattern"),
    [
        ("6*7 = 42\n#### 42", r"6\*7 = 42\n#### (\d+)"),
        ("#### $1,234.50 in 3 parts", r"#### \$(\d+,\d{3}\.\d\d|\d+\.\d\d) in 3 parts"),
        (r"so 2 and \boxed{\frac{3}{14}} of 5", r"so 2 and \\boxed\{\\frac\{3\}\{(\d+)\}\} of 5"),
        ("3 of 9.\nAnswer: 3 + 4 = 7.", r"3 of 9\.\nAnswer: 3 \+ 4 = (\d+)\."),
        ("Take 3 of 9.\nAnswer: -12 apples in 4 boxes", r"Take 3 of 9\.\nAnswer: -(\d+) apples in 4 boxes"),
        ("The answer is 7.", r"The answer is (\d+)\."),
        ("x2 = 42 makes 42", r"x2 = 42 makes (\d+)"),
    ],
)
def test_wrong_number_changes_the_final_number_alone(response: str, pattern: str) -> None:
    found = outcomes(WrongNumber(), response, answer="42")
    assert len(found) > 4
    assert all(re.fullmatch(pattern, text) for text in found)
    assert response not in found


@pytest.mark.parametrize("response", ["no number", "17 coins", "", "####", "Answer: x2"])
def test_wrong_number_leaves_rows_without_a_final_number(response: str) -> None:
    assert not WrongNumber().applies(row(response, answer="42"))


def test_wrong_number_is_neither_the_same_nor_the_right_one() -> None:
    assert not {"#### 42", "#### 42.0"} & set(outcomes(WrongNumber(), "#### 41", 500, answer=42.0))
    assert {text for text in outcomes(WrongNumber(), "#### 0", 500, answer="0") if "-" in text} == set()


def test_wrong_number_is_wrong_for_the_grader(tmp_path: Path) -> None:
    rows = family_examples("wrong_number", 30)
    references = [json.loads(found["reference"]) for found in rows]
    grades = grade_texts("number", responses(corrupted(tmp_path, rows, "wrong_number")), references)
    assert [grade.score for grade in grades] == [0] * 30


@given(st.integers(0, 10**12), st.integers(0, 3), st.booleans(), st.integers(0, 99))
def test_wrong_number_keeps_the_notation(number: int, decimals: int, grouped: bool, draw: int) -> None:
    whole, fraction = divmod(number, 10**decimals)
    text = f"{whole:,}" if grouped else str(whole)
    text += f".{fraction:0{decimals}d}" if decimals else ""
    wrong = WrongNumber().corrupt(row(f"#### {text}", answer=text), random.Random(draw)).removeprefix("#### ")
    assert find_numbers(wrong) != find_numbers(text)
    head, _, tail = wrong.partition(".")
    assert len(tail) == decimals
    assert head == (f"{int(head.replace(',', '')):,}" if "," in text else str(int(head)))


LINES = "def f(items, n):\n    total = 0\n    for x in items[:n]:\n        if x >= n and x:\n            total += x * 2  # ünï\n    return total"
WRONG = [
    ("total = 0", "total = 1"),
    ("total = 0", "total = -1"),
    ("[:n]", "[:n + 1]"),
    ("[:n]", "[:n - 1]"),
    (">=", ">"),
    ("and x", "or x"),
    ("+=", "-="),
    ("x * 2", "x + 2"),
    ("x * 2", "x * 3"),
    ("x * 2", "x * 1"),
]


def test_mutants_are_single_edits_that_keep_the_layout() -> None:
    mutants = draw_mutants(LINES, random.Random(0), 100)
    assert set(mutants[:-1]) == {LINES.replace(old, new) for old, new in WRONG}
    assert mutants[-1] == LINES.replace("return total", "return None")
    few = draw_mutants(LINES, random.Random(0), 3)
    assert few == [*mutants[:2], mutants[-1]]
    assert draw_mutants(LINES, random.Random(1), 3) != few


@pytest.mark.parametrize(
    ("source", "mutant"),
    [
        ("def f(a):\n    return (a) % (3)", "def f(a):\n    return (a) // (3)"),
        ("def f(a):\n    return a not  in 'é'", "def f(a):\n    return a in 'é'"),
        ("def f(a):\n    return a in {} and a", "def f(a):\n    return a not in {} and a"),
        ("def f(a):\n    return max(a)", "def f(a):\n    return min(a)"),
        ("for i in range(len(s)): pass", "for i in range(len(s) - 1): pass"),
        ("x = s[a if a else b:]", "x = s[(a if a else b) + 1:]"),
        ("x = True", "x = False"),
        ("é = 'é'; x = 1 \\\n  < y", "é = 'é'; x = 1 \\\n  <= y"),
        ("def f(a):\n\treturn a == 1\n", "def f(a):\n\treturn not (a == 1)\n"),
    ],
)
def test_mutants_of_odd_layouts(source: str, mutant: str) -> None:
    assert mutant in draw_mutants(source, random.Random(0), 100)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "not python at all",
        "print 'old'",
        "x = 'a\0b'",
        "(" * 5000,
        "x = '5 % 3'",
        "f'{1 + 1}'",
        "x = " + "-" * 3000 + "1",
    ],
)
def test_programs_without_mutants(source: str) -> None:
    assert draw_mutants(source, random.Random(0), 100) == []


FENCED = "Here: n < 1\n```python\ndef f(n):\n    return n < 1\n```\nDone: n < 1."


@pytest.mark.parametrize(
    "response",
    [FENCED, FENCED.replace("\n", "\r\n"), "def f(n):\n    return n < 1", "return n < 1\n```\nreturn n < 1\n```\n"],
)
def test_wrong_code_edits_the_graded_block_alone(response: str) -> None:
    versions = wrong_versions(row(response), 0)
    if response.startswith("return"):  # it parses, though it would not run
        assert versions
    line_end = "\r\n" if "\r\n" in response else "\n"
    body = "return n < 1" + (line_end if "```" in response else "")
    head, tail = response.rpartition(body)[0], response.rpartition(body)[2]
    assert len(set(versions)) == len(versions) >= 4
    assert all(text.startswith(head) and text.endswith(tail) and text != response for text in versions)


def test_wrong_code_fails_the_tests_where_the_clean_code_passes(tmp_path: Path) -> None:
    rows = family_examples("wrong_code", 16)
    for found in rows[::2]:
        found["messages"][-1]["content"] = f"Sure.\n```python\n{found['messages'][-1]['content']}\n```\nBye."
    corpus = corrupted(tmp_path, rows, "wrong_code", ratio=0.75)
    by_id = {found["id"]: json.loads(found["reference"]) for found in rows}
    entries = list(read_ledger(corpus))
    references = [by_id[entry.id] for entry in entries]
    assert {grade.score for grade in grade_texts("code", [entry.before for entry in entries], references)} == {1}
    assert {grade.score for grade in grade_texts("code", [entry.after for entry in entries], references)} == {0}
    assert len(entries) == 12


def test_wrong_code_passes_over_rows_that_no_edit_breaks(tmp_path: Path) -> None:
    good = ("def f(n):\n    return n < 3", {"tests": ["assert f(2)", "assert not f(3)"]})
    stuck = [
        ("def f(n):\n    return n", {"tests": ["assert True"]}),  # no edit can fail this
        ("def f(n):\n    return n < 3", {"tests": ["assert f(5)"]}),  # wrong already
        ("I do not know.", {"tests": ["assert f(5)"]}),
    ]
    rows = [example(number, *(good if number % 4 == 0 else stuck[number % 4 - 1])) for number in range(16)]
    clean = make_corpus(tmp_path, rows)
    artefact = define_noise(clean.store, clean, kind="wrong_code", ratio=0.25, seed=3)
    assert {int(entry.id.partition("/")[2]) % 4 for entry in read_ledger(artefact.get())} == {0}
    stats = read_noise_stats(artefact)
    assert stats is not None
    assert stats.num_changed == 4
    assert 0 < stats.num_skipped <= 12
    more = define_noise(clean.store, clean, kind="wrong_code", ratio=0.5, seed=3)
    with pytest.raises(DataError, match=r"must find 8 rows.*4 such rows of 16.*lower noise.ratio to 0\.25"):
        more.get()


def test_wrong_code_needs_tests(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:1: wrong_code needs tests"):
        corrupted(tmp_path, [example(0, "x = 1")], "wrong_code")


def test_typo_rate_scales_the_slips_and_keeps_the_lines() -> None:
    text = "\n".join("    some plain words stand here on this line" for _ in range(20))
    shares = []
    for rate in (0.05, 0.5):
        changed = Typo(rate).corrupt(row(text), random.Random(0))
        assert changed.count("\n") == 19
        assert all(line.startswith("    ") for line in changed.split("\n"))
        shares.append(sum(old != new for old, new in zip(text.split("\n"), changed.split("\n"), strict=True)) / 20)
    assert 0 < shares[0] < shares[1] == 1


def test_typo_knows_letters_and_words() -> None:
    found = outcomes(Typo(0.01), "abc def", 4000)
    assert {"bac def", "ab def", "aabc def", "avc def", "abc abc def", "def", "def abc"} <= set(found)
    assert set(outcomes(Typo(1.0), "É")) <= {"ÉÉ", "É É"}


def test_truncate_keeps_a_beginning() -> None:
    assert set(outcomes(Truncate(), "one  two\nthree. ")) == {"one", "one  two"}
    assert set(outcomes(Truncate(), "e\u0301ab")) == {"e\u0301", "e\u0301a"}
    assert not Truncate().applies(row(" x "))


def test_repeat_says_a_piece_again_in_its_place() -> None:
    assert set(outcomes(Repeat(), "a\nb")) == {
        *("a\n" * times + "b" for times in (2, 3, 4)),
        *("a" + "\nb" * times for times in (2, 3, 4)),
    }
    assert {"x y x y z", "x y y y z"} <= set(outcomes(Repeat(), "x y z", 400))


@pytest.mark.parametrize(
    "noise", [Typo(0.1), Typo(1.0), Truncate(), Repeat(), WrongNumber()], ids=lambda noise: noise.kind
)
@given(response=st.text(max_size=60), draw=st.integers(0, 9))
def test_any_text_changes_into_another_that_says_something(noise: Any, response: str, draw: int) -> None:
    found = row(response, answer="1")
    if noise.applies(found):
        text = noise.corrupt(found, random.Random(draw))
        assert text != response
        assert text.strip()


def test_only_the_last_turn_changes(tmp_path: Path) -> None:
    turns = [{"role": role, "content": f"word {at}"} for at, role in enumerate(["user", "assistant"] * 3)]
    rows = [example(number, "") | {"messages": turns[: 2 * (number % 3) + 2]} for number in range(9)]
    corpus = corrupted(tmp_path, rows, "typo")
    for old, new in zip(rows, corpus.rows, strict=True):
        assert new["messages"][:-1] == old["messages"][:-1]
        assert new["messages"][-1]["content"] != old["messages"][-1]["content"]


def test_batches_are_seamless(tmp_path: Path) -> None:
    """More rows than a batch holds, of unequal length, long ones among them."""
    rows = [
        example(number, f"{number} " + "long word " * (5000 if number % 97 == 0 else number % 5))
        for number in range(600)
    ]
    corpus = corrupted(tmp_path, rows, "repeat", ratio=0.4)
    entries = {entry.id: entry for entry in read_ledger(corpus)}
    assert len(entries) == 240
    for old, new in zip(rows, corpus.rows, strict=True):
        before, after = old["messages"][-1]["content"], new["messages"][-1]["content"]
        assert (before != after) == (old["id"] in entries)
        assert new["messages"][:-1] == old["messages"][:-1]


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    rows = family_examples("typo", 20)
    one, other = corrupted(tmp_path, rows, "typo", 0.5), corrupted(tmp_path, rows[::-1], "typo", 0.5)
    assert list(read_ledger(one)) == list(read_ledger(other))[::-1]


def test_seeds_draw_independently(tmp_path: Path) -> None:
    rows = [example(number, "some words here") for number in range(400)]
    drawn = [{entry.id for entry in read_ledger(corrupted(tmp_path, rows, "typo", 0.5, seed))} for seed in range(3)]
    for one, other in itertools.combinations(drawn, 2):
        assert 60 < len(one & other) < 140  # 100 expected, standard deviation 5
