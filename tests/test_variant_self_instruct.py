from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from fake_variants import RuleBackend, make_variant, responses, row

from tokensieve.completions.records import Completion, Messages
from tokensieve.errors import DataError
from tokensieve.records import Corpus
from tokensieve.store import Artefact
from tokensieve.variant import read_variant_ledger
from tokensieve.variant.novelty import NoveltyFilter, split_words
from tokensieve.variant.self_instruct import parse_list

SEEDS = [row(number, "A", question=f"Name {word} of the sea.") for number, word in enumerate(("a bird", "three fish"))]


def lists(*items: str) -> RuleBackend:
    """Lists the same items whenever asked for tasks; answers anything else with its length."""

    def rule(messages: Messages, sample: int) -> str:
        text = messages[-1]["content"]
        return "\n".join(f"{at}. {item}" for at, item in enumerate(items, 1)) if "numbered" in text else f"{len(text)}"

    return RuleBackend(rule)


def build(folder: Path, backend: RuleBackend, rows: list[dict[str, Any]] = SEEDS, **changes: Any) -> Artefact[Corpus]:
    return make_variant(folder, rows, backend, name="self_instruct", **changes)


def questions(variant: Artefact[Corpus]) -> list[str]:
    return [turns[-2]["content"] for turns in variant.get().rows["messages"]]


def test_novel_tasks_are_kept_and_answered(tmp_path: Path) -> None:
    backend = lists(
        "Explain how tides work", "Write a poem about salt", "Name a bird of the sea!", "Explain how tides work"
    )
    variant = build(tmp_path, backend, num_new=2)
    assert questions(variant) == ["Explain how tides work", "Write a poem about salt"]
    assert list(responses(variant).values()) == ["22", "23"]
    assert all(key.startswith("self_instruct/") for key in responses(variant))
    assert set(variant.get().rows["reference"]) == {"{}"}


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("Too short", "2 words"),
        ("word " * 13, "13 words"),
        ("Describe this picture of a whale", "names 'picture'"),
        ("Please go  to, the shop and return", "names 'go to'"),
        ("Name a bird of the North Sea", "ROUGE-L 0.92 to train/0"),
    ],
)
def test_why_a_task_is_refused(tmp_path: Path, item: str, reason: str) -> None:
    backend = lists(item, "Explain how the tides work")
    variant = build(tmp_path, backend, num_new=1, max_words=12, blocked_words=["picture", "go to"])
    assert questions(variant) == ["Explain how the tides work"]
    refused = [line for line in read_variant_ledger(variant) if line["action"] == "dropped"]
    assert [line["reason"] for line in refused] == [reason]
    assert refused[0]["instruction"] == item.strip()


def test_a_blocked_word_is_a_whole_word(tmp_path: Path) -> None:
    assert questions(build(tmp_path, lists("Explain what profiles are good for"), num_new=1, blocked_words=["file"]))


def test_it_gives_up_when_nothing_new_comes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        variant = build(tmp_path, lists("Explain how tides work"), num_new=50)
    assert len(variant.get()) == 1
    assert "1 of 50 new examples" in caplog.text


def test_nothing_new_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"variant self_instruct: .*ROUGE-L 1\.00 to train/0"):
        build(tmp_path, lists("Name a bird of the sea")).get()


def test_seeds_may_stay(tmp_path: Path) -> None:
    variant = build(tmp_path, lists("Explain how tides work"), num_new=1, keep_seeds=True)
    assert list(responses(variant))[:2] == ["train/0", "train/1"]
    assert len(variant.get()) == 3


def test_new_tasks_are_shown_in_later_prompts(tmp_path: Path) -> None:
    def rule(messages: Messages, sample: int) -> str:
        text = messages[-1]["content"]
        if "numbered" not in text:
            return "fine"
        return f"1. Invent word{len(text)} for a{len(text)} boat{len(text)}"

    backend = RuleBackend(rule)
    variant = build(tmp_path, backend, num_new=3, num_seed_tasks=3)
    first = questions(variant)[0]
    assert any(
        "numbered" in messages[-1]["content"] and first in messages[-1]["content"] for messages, _ in backend.asked
    )
    assert len(variant.get()) == 3


def test_a_system_turn_is_kept(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Arr."}, *SEEDS[0]["messages"]]
    variant = build(tmp_path, lists("Explain how tides work"), [SEEDS[0] | {"messages": turns}], num_new=1)
    assert [turn["role"] for turn in variant.get().rows[0]["messages"]] == ["system", "user", "assistant"]


def test_an_item_that_was_cut_off_is_not_a_task() -> None:
    assert parse_list("1. One two three\n2. Four fi", is_complete=False) == ["One two three"]
    assert parse_list("1. One\n2. Two") == ["One", "Two"]
    assert parse_list("no list") == []
    assert parse_list("") == []
    assert parse_list("Task 1: Eins\nTask 2: 2024 was a year") == ["Eins", "2024 was a year"]


def test_a_cut_off_answer_is_refused(tmp_path: Path) -> None:
    def rule(messages: Messages, sample: int) -> Completion | str:
        if "numbered" in messages[-1]["content"]:
            return "1. Explain how tides work\n2. Write a poem about salt"
        return Completion(text="Because", is_complete="poem" in messages[-1]["content"], mean_nll=1.0)

    variant = build(tmp_path, RuleBackend(rule), num_new=2)
    assert questions(variant) == ["Write a poem about salt"]


def test_rouge_l_agrees_with_its_definition() -> None:
    known = NoveltyFilter()
    assert known.find_similar("anything", 0.0) is None
    known.add("a b c d", "x")
    known.add("b d c e f", "y")
    # longest common subsequences with "b c d e": b c d (of 4 and 4 words); b c e (of 5 and 4)
    assert known.find_similar("b c d e", 0.7) == ("x", 0.75)
    assert known.find_similar("b c d e", 0.75) is None
    assert known.find_similar("q", 0.0) is None


def test_scripts_without_blanks_are_compared_by_character() -> None:
    assert split_words("東京へ行く") == ["東", "京", "へ", "行", "く"]
    assert split_words("Straße_ 2") == ["strasse", "2"]
    known = NoveltyFilter()
    known.add("東京へ行く", "x")
    assert known.find_similar("京都へ行く", 0.7) == ("x", 0.8)
    assert known.find_similar("зелёный чай", 0.1) is None
