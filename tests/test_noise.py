"""Contracts that every kind of noise passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from noise_corpora import Example, example, family_examples, make_corpus, responses

from tokensieve.errors import ConfigError, DataError
from tokensieve.noise import (
    KINDS,
    define_noise,
    fitting_kind,
    read_ledger,
    read_noise_stats,
    score_detection,
)
from tokensieve.records import Corpus
from tokensieve.store import Artefact
from tokensieve.tasks import TASKS

NUM_ROWS = 24


def noisy(clean: Artefact[Corpus], kind: str, ratio: float = 0.5, seed: int = 0, **more: Any) -> Artefact[Corpus]:
    return define_noise(clean.store, clean, kind=kind, ratio=ratio, seed=seed, **more)


@pytest.fixture(scope="module")
def cleans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact[Corpus]]:
    root = tmp_path_factory.mktemp("noise")
    return {kind: make_corpus(root, family_examples(kind, NUM_ROWS)) for kind in KINDS}


def changes(corpus: Corpus) -> dict[str, tuple[str, str]]:
    return {entry.id: (entry.before, entry.after) for entry in read_ledger(corpus)}


def restored(row: Example) -> Example:
    """The row as it was: the ledger's `before` put back, its entry taken off."""
    entry = json.loads(row["provenance"][-1])
    if entry["stage"] != "noise":
        return row
    assert entry["after"] == row["messages"][-1]["content"]
    turns = [*row["messages"][:-1], {"role": "assistant", "content": entry["before"]}]
    return row | {"messages": turns, "provenance": row["provenance"][:-1]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("ratio", "count"), [(0.3, 7), (0.5, 12)])
def test_exact_count_and_complete_reversible_ledger(
    cleans: dict[str, Artefact[Corpus]], kind: str, ratio: float, count: int
) -> None:
    clean = cleans[kind].get()
    corpus = noisy(cleans[kind], kind, ratio).get()
    assert corpus.rows.features == clean.rows.features
    assert corpus.rows["id"] == clean.rows["id"]
    differing = [old != new for old, new in zip(responses(clean), responses(corpus), strict=True)]
    entries = list(read_ledger(corpus))
    assert sum(differing) == len(entries) == count == round(ratio * NUM_ROWS)
    assert [entry.id for entry in entries] == [
        row_id for row_id, differs in zip(clean.rows["id"], differing, strict=True) if differs
    ]
    assert {entry.kind for entry in entries} == {kind}
    assert all(entry.after.strip() for entry in entries)
    # Putting `before` back gives the clean corpus: nothing else has changed in any row.
    assert [restored(row) for row in corpus.rows] == list(clean.rows)


@pytest.mark.parametrize("kind", KINDS)
def test_smaller_ratio_is_inside_larger_with_the_same_errors(cleans: dict[str, Artefact[Corpus]], kind: str) -> None:
    few, more = (changes(noisy(cleans[kind], kind, ratio).get()) for ratio in (0.3, 0.5))
    assert few.items() < more.items()


@pytest.mark.parametrize("kind", KINDS)
def test_seed_decides_rows_and_errors(cleans: dict[str, Artefact[Corpus]], kind: str, tmp_path: Path) -> None:
    first = changes(noisy(cleans[kind], kind).get())
    elsewhere = make_corpus(tmp_path, family_examples(kind, NUM_ROWS))
    assert changes(noisy(elsewhere, kind).get()) == first
    assert set(changes(noisy(cleans[kind], kind, seed=1).get())) != set(first)


@pytest.mark.parametrize("kind", KINDS)
def test_second_run_hits_the_cache_and_upstream_changes_do_not(cleans: dict[str, Artefact[Corpus]], kind: str) -> None:
    noisy(cleans[kind], kind).get()
    again = noisy(cleans[kind], kind)
    assert again.is_cached
    again.get()
    assert not again.built_here
    others = [noisy(cleans[kind], kind, ratio=0.25), noisy(cleans[kind], kind, seed=9)]
    other_clean = make_corpus(cleans[kind].store.root.parent, family_examples(kind, NUM_ROWS - 1))
    digests = {found.digest for found in (again, *others, noisy(other_clean, kind))}
    assert len(digests) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_empty_corpus(tmp_path: Path, kind: str) -> None:
    artefact = noisy(make_corpus(tmp_path, []), kind, ratio=1.0)
    assert len(artefact.get()) == 0
    assert list(read_ledger(artefact.get())) == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "wrong_code"])
def test_every_row(cleans: dict[str, Artefact[Corpus]], kind: str) -> None:
    assert len(changes(noisy(cleans[kind], kind, ratio=1.0).get())) == NUM_ROWS


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "wrong_code"])
def test_rows_that_cannot_change_are_passed_over_up_to_what_there_is(tmp_path: Path, kind: str) -> None:
    # One label only; nothing but a blank, which no kind can change (and no other text to swap with).
    row = example(0, "B", {"answer": "B", "labels": ["B"]}) if kind == "label_flip" else example(0, " ")
    artefact = noisy(make_corpus(tmp_path, [row]), kind, ratio=1.0)
    with pytest.raises(DataError, match=r"noise\.ratio: .*must find 1 rows.*0 such rows of 1.*lower noise\.ratio to 0"):
        artefact.get()


def unicode_examples(kind: str) -> list[Example]:
    texts = {
        "label_flip": "Étude 東京 🗼 naïve\nAnswer: {label}",
        "wrong_number": "Σ = {number} 円 🧮\n#### −{number}",
        "wrong_code": "def f(x):  # 東京 🗼\n    naïve = 'é' * {number}\n    return len(naïve) + x < {number} + 2\n",
    }
    text = texts.get(kind, "Ünïcödé e\u0301 東京 👩‍👩‍👧 Привет, мир №{number}")
    rows = []
    for number in range(8):
        reference = {"answer": "AB"[number % 2], "labels": ["A", "B"]}
        if kind == "wrong_number":
            reference = {"answer": f"-{number}"}
        if kind == "wrong_code":
            reference = {"tests": [f"assert f({n}) == ({number} + {n} < {number} + 2)" for n in (0, 1, 2, 3)]}  # type: ignore[dict-item]
        rows.append(example(number, text.format(label="AB"[number % 2], number=number), reference))
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_text_beyond_ascii(tmp_path: Path, kind: str) -> None:
    clean = make_corpus(tmp_path, unicode_examples(kind))
    corpus = noisy(clean, kind, ratio=1.0).get()
    assert len(changes(corpus)) == 8
    assert [restored(row) for row in corpus.rows] == list(clean.get().rows)


def test_no_noise_is_the_corpus_itself(tmp_path: Path) -> None:
    clean = make_corpus(tmp_path, family_examples("typo", 2))
    assert noisy(clean, "none", ratio=0.5) is clean
    assert noisy(clean, "label_flip", ratio=0) is clean
    assert read_noise_stats(clean) is None
    assert list(read_ledger(clean.get())) == []


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ({"kind": "lable_flip"}, "noise.name"),
        ({"kind": "typo", "ratio": 1.5}, "noise.ratio"),
        ({"kind": "typo", "ratio": float("nan")}, "noise.ratio"),
        ({"kind": "typo", "rate": 0.0}, "noise.rate"),
        ({"kind": "from_file"}, "noise.path"),
    ],
)
def test_impossible_settings_are_refused_at_once(tmp_path: Path, setting: dict[str, Any], key: str) -> None:
    clean = make_corpus(tmp_path, family_examples("typo", 2))
    with pytest.raises(ConfigError) as caught:
        noisy(clean, **setting)
    assert caught.value.subject == key
    assert caught.value.remedy


def test_kinds_that_fit_are_kinds() -> None:
    assert {fitting_kind(task.grader) for task in TASKS.values()} <= set(KINDS)
    assert fitting_kind(TASKS["lab_code"].grader) == "wrong_code"


def test_detection_scores_by_hand() -> None:
    score = score_detection(["a", "b", "c"], ["b", "c", "d", "d"], "abcdefgh")
    assert (score.precision, score.recall, score.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert (score.num_noisy, score.num_flagged, score.num_found) == (3, 3, 2)
    uneven = score_detection(["a", "b", "c", "d"], ["a"], "abcdefgh")
    assert (uneven.precision, uneven.recall, uneven.f1) == pytest.approx((1, 1 / 4, 0.4))


def test_detection_without_anything_to_find() -> None:
    nothing = score_detection([], [], ["a"])
    assert all(value != value for value in (nothing.precision, nothing.recall, nothing.f1))  # NaN
    silent = score_detection(["a"], [], ["a", "b"])
    assert silent.precision != silent.precision
    assert (silent.recall, silent.f1) == (0, 0)
    false_alarm = score_detection([], ["a"], ["a", "b"])
    assert false_alarm.recall != false_alarm.recall
    assert (false_alarm.precision, false_alarm.f1) == (0, 0)
    with pytest.raises(DataError, match="must name rows of the corpus; received 'z'"):
        score_detection(["a"], ["z"], ["a"])
