"""Repeats within train, overlap with evaluation sets, shuffle, limit, bad rows: what a corpus leaves out, and says."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest

from tokensieve.dataset import define_corpus
from tokensieve.dataset.duplicates import Duplicate, find_overlap, find_repeats, shingles
from tokensieve.errors import DataError
from tokensieve.noise.plan import order_key
from tokensieve.records import Corpus
from tokensieve.sources import LocalSource
from tokensieve.store import Artefact, Store

WORDS = [
    "river",
    "stone",
    "light",
    "paper",
    "cloud",
    "green",
    "seven",
    "music",
    "window",
    "garden",
    "silver",
    "bread",
    "winter",
    "north",
    "candle",
]


def sentence(seed: int, length: int = 40) -> str:
    return " ".join(random.Random(f"{seed}").choices(WORDS, k=length))


def changed(text: str, place: int) -> str:
    words = text.split()
    return " ".join([*words[:place], "CHANGED", *words[place + 1 :]])


def corpus(
    tmp_path: Path, rows: list[Any], split: str = "train", name: str = "rows", **changes: Any
) -> Artefact[Corpus]:
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    settings: dict[str, Any] = {
        "task": None, "prompt": None, "response": None, "system_prompt": None, "reference": {}, "id_field": None,
        "limit": None, "val_fraction": 0.0, "test_fraction": 0.0, "seed": 0,
    }  # fmt: skip
    return define_corpus(Store(tmp_path / "cache"), LocalSource(path, None, {}), split, **(settings | changes))


def folder(artefact: Artefact[Corpus]) -> Path:
    return artefact.store.folder(artefact.stamp)


def questions(artefact: Artefact[Corpus]) -> list[str]:
    return [turns[0]["content"] for turns in artefact.get().rows["messages"]]


def test_near_finds_what_true_similarity_says() -> None:
    base = [sentence(seed) for seed in range(60)]
    twins = {20 + place: place for place in range(20)}  # text 20 + k differs from text k in one word of forty
    texts = [changed(base[twins[place]], 20) if place in twins else base[place] for place in range(60)]
    found = list(find_repeats(texts, "near", 0.8))
    assert {pair.row: pair.of for pair in found} == twins
    for pair in found:
        own, other = shingles(texts[pair.row]), shingles(texts[pair.of])
        assert pair.similarity == len(own & other) / len(own | other) >= 0.8
    assert list(find_repeats(texts, "exact", 0.8)) == []
    assert list(find_repeats(texts, "near", 0.99)) == []


def test_equal_texts_in_another_form_are_equal() -> None:
    texts = ["The  Answer", "the answer", "ＴＨＥ answer\n", "the answers", "", " "]
    assert list(find_repeats(texts, "exact", 0.8)) == [
        Duplicate(1, 0, 1.0), Duplicate(2, 0, 1.0), Duplicate(5, 4, 1.0)
    ]  # fmt: skip
    assert [pair.row for pair in find_repeats(texts, "near", 0.8)] == [1, 2, 5]


def test_signs_and_scripts_without_spaces_count() -> None:
    assert shingles("12 + 3 = 15") != shingles("12 - 3 = 15")
    one = "我今天在学校的图书馆里读了一本关于数学的书然后回家吃饭"
    assert [pair.row for pair in find_repeats([one, one.replace("饭", "面")], "near", 0.8)] == [1]


def test_a_chain_of_near_texts_keeps_the_first() -> None:
    first = sentence(1, 60)
    second = changed(first, 10)
    third = changed(second, 50)
    assert [(pair.row, pair.of) for pair in find_repeats([first, second, third], "near", 0.75)] == [(1, 0), (2, 0)]


def test_overlap_leaves_repeats_among_the_training_texts_alone() -> None:
    texts = [sentence(1), sentence(1), sentence(2), changed(sentence(3), 5)]
    found = list(find_overlap(texts, [sentence(9), sentence(3), sentence(2)], "near", 0.8))
    assert [(pair.row, pair.of) for pair in found] == [(2, 2), (3, 1)]
    assert list(find_overlap([], [sentence(1)], "near", 0.8)) == []


def test_thousands_of_texts_in_one_bucket_end() -> None:
    shared = sentence(1, 30)
    texts = [f"{shared} {n} {n * 7} {n * 13}" for n in range(1500)]  # similar, below the threshold
    assert list(find_repeats(texts, "near", 0.95)) == []


def test_corpus_drops_contamination_then_repeats_and_reports_both(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    test = corpus(tmp_path, [{"question": sentence(3), "answer": "three"}], "train", "held")
    rows = [
        {"question": sentence(1), "answer": "one"},
        {"question": sentence(1), "answer": "ONE"},
        {"question": sentence(1), "answer": "another answer to the same question"},
        {"question": sentence(3).upper(), "answer": "leaked"},
        {"question": sentence(2), "answer": "two"},
    ]
    caplog.set_level(logging.INFO)
    built = corpus(tmp_path, rows, deduplicate="exact", evaluation={"test": test})
    kept = built.get().rows
    assert kept["id"] == ["train/0", "train/2", "train/4"]
    assert json.loads(kept[0]["provenance"][1]) == {
        "stage": "deduplicate",
        "num_repeats": 1,
        "stands_for": ["train/1"],
    }
    assert len(kept[1]["provenance"]) == 1
    pairs = [json.loads(line) for line in (folder(built) / "duplicates.jsonl").read_text().splitlines()]
    assert pairs == [
        {"row": "train/3", "of": "train/0", "where": "test", "similarity": 1.0},
        {"row": "train/1", "of": "train/0", "where": "train", "similarity": 1.0},
    ]
    report = json.loads((folder(built) / "duplicates.json").read_text())
    assert report == {
        "mode": "exact", "threshold": None, "num_examples": 5, "num_contaminated": {"test": 1}, "num_repeats": 1,
        "num_kept": 3,
    }  # fmt: skip
    assert "3 of 5 training examples kept; 1 repeats; 1 also in test" in caplog.text
    assert not (folder(built) / "unselected.arrow").exists()


def test_stamp_follows_the_evaluation_sets_only_where_they_are_compared(tmp_path: Path) -> None:
    rows = [{"question": sentence(n), "answer": "x"} for n in range(3)]
    one = corpus(tmp_path, [{"question": "a", "answer": "b"}], name="one")
    two = corpus(tmp_path, [{"question": "c", "answer": "d"}], name="two")
    digests = {
        (mode, name): corpus(tmp_path, rows, deduplicate=mode, evaluation={"test": held}).digest
        for mode in ("none", "exact")
        for name, held in (("one", one), ("two", two))
    }
    assert digests["none", "one"] == digests["none", "two"] == corpus(tmp_path, rows).digest
    assert digests["exact", "one"] != digests["exact", "two"]


def test_all_contaminated_is_an_error(tmp_path: Path) -> None:
    rows = [{"question": "a b c", "answer": "d"}]
    held = corpus(tmp_path, rows, name="held")
    with pytest.raises(DataError, match=r"dataset\.deduplicate.*1 also in test"):
        corpus(tmp_path, rows, deduplicate="near", evaluation={"test": held}).get()


def test_shuffle_permutes_and_limits_are_nested(tmp_path: Path) -> None:
    rows = [{"question": f"q {n}", "answer": "x"} for n in range(300)]
    plain, shuffled = corpus(tmp_path, rows), corpus(tmp_path, rows, shuffle_seed=1)
    assert questions(shuffled) != questions(plain)
    assert sorted(questions(shuffled)) == sorted(questions(plain))
    assert questions(corpus(tmp_path, rows, shuffle_seed=1, limit=20)) == questions(shuffled)[:20]
    assert questions(corpus(tmp_path, rows, shuffle_seed=2)) != questions(shuffled)
    assert questions(corpus(tmp_path, rows, limit=7)) == questions(plain)[:7]
    rebuilt = corpus(tmp_path / "elsewhere", rows, shuffle_seed=1) if (tmp_path / "elsewhere").mkdir() is None else None
    assert rebuilt is not None
    assert questions(rebuilt) == questions(shuffled)


def test_a_shuffle_does_not_put_what_noise_chooses_in_front(tmp_path: Path) -> None:
    rows = [{"question": f"q {n}", "answer": "x"} for n in range(400)]
    names = corpus(tmp_path, rows, shuffle_seed=0).get().rows["id"]
    noisy = set(sorted(names, key=lambda name: order_key(0, name))[:120])
    assert 40 < sum(name in noisy for name in names[:200]) < 80


def test_plain_text_is_compared_as_a_whole(tmp_path: Path) -> None:
    rows = [{"text": sentence(1)}, {"text": sentence(1)}, {"text": sentence(2)}, {"text": sentence(4)}]
    held = corpus(tmp_path, [{"text": sentence(4)}], name="held")
    built = corpus(tmp_path, rows, deduplicate="exact", evaluation={"test": held})
    assert built.get().rows["id"] == ["train/0", "train/2"]


GOOD = [{"question": f"q {n}", "answer": "x"} for n in range(60)]


def test_bad_rows_are_skipped_with_a_ledger(tmp_path: Path) -> None:
    rows = [*GOOD[:3], "{broken", *GOOD[3:10], {"question": "q", "answer": " "}, "[1]", *GOOD[10:]]
    built = corpus(tmp_path, rows, on_bad_row="skip")
    assert len(built.get()) == 60
    ledger = [json.loads(line) for line in (folder(built) / "bad_rows.jsonl").read_text().splitlines()]
    assert [(entry["file"], entry["row"]) for entry in ledger] == [
        (str(tmp_path / "rows.jsonl"), row) for row in (4, 12, 13)
    ]
    assert "one JSON object" in ledger[0]["reason"]
    assert "non-empty assistant turn" in ledger[1]["reason"]
    with pytest.raises(DataError, match=r"rows\.jsonl:4"):
        corpus(tmp_path, rows).get()


@pytest.mark.parametrize("bad", ["{broken", {"question": "q"}, {"question": "q", "answer": ""}])
def test_more_than_a_twentieth_of_bad_rows_is_refused(tmp_path: Path, bad: Any) -> None:
    assert len(corpus(tmp_path, [*GOOD[:57], *[bad] * 3], on_bad_row="skip").get()) == 57  # 3 of 60: 5 %
    with pytest.raises(DataError, match=r"at most 5%.*4 bad rows of 60.*rows\.jsonl:57"):
        corpus(tmp_path, [*GOOD[:56], *[bad] * 4], on_bad_row="skip").get()
    assert not list((tmp_path / "cache" / "dataset").glob("*.partial"))


def test_all_rows_bad_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 bad rows of 2"):
        corpus(tmp_path, ["{", "{"], on_bad_row="skip").get()


def test_a_repeated_id_is_a_bad_row(tmp_path: Path) -> None:
    rows = [{"question": f"q {n}", "answer": "x", "key": n if n != 30 else 29} for n in range(60)]
    built = corpus(tmp_path, rows, id_field="key", on_bad_row="skip")
    assert len(built.get()) == 59
    assert json.loads((folder(built) / "bad_rows.jsonl").read_text())["row"] == 31


def test_a_run_compares_its_training_data_with_all_that_it_evaluates(tmp_path: Path) -> None:
    from tokensieve.config import DatasetConfig, EvalConfig, RunConfig
    from tokensieve.stages import define_stages

    source = tmp_path / "data"
    source.mkdir()
    shared = {"question": sentence(5), "answer": "#### 7"}
    sets = {
        "train": [{"question": sentence(1), "answer": "1"}, shared, {"question": sentence(6), "answer": "6"}],
        "validation": [shared],
        "test": [{"question": sentence(6), "answer": "another answer"}],
    }
    for split, rows in sets.items():
        (source / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = DatasetConfig(name="sums", task=None, path=str(source), layout="question_answer", deduplicate="near")
    other = DatasetConfig(
        name="lab_math", task="lab_math", lab_family="lab_math", prompt="{{ question }}", response="{{ response }}"
    )
    evaluated = EvalConfig(tasks=["lab_math"], datasets={"lab_math": other})
    config = RunConfig(dataset=dataset, eval=evaluated, output_dir=str(tmp_path))
    built = define_stages(config, Store(tmp_path / "cache")).train
    assert built is not None
    assert built.get().rows["id"] == ["train/0"]
    report = json.loads((folder(built) / "duplicates.json").read_text())
    assert report["num_contaminated"] == {"validation": 1, "test": 1, "lab_math": 0}
