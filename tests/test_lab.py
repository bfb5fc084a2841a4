from __future__ import annotations

import json
from itertools import islice

import pytest

from tokensieve import lab
from tokensieve.graders import grade_texts
from tokensieve.tasks import TASKS

SPLITS = ("train", "validation", "test")


@pytest.mark.parametrize("family", lab.FAMILIES)
def test_rows_repeat_and_a_smaller_number_is_a_prefix(family: str) -> None:
    whole = list(lab.rows(family, split="train", num=30, seed=3, style="human"))
    assert whole == list(lab.rows(family, split="train", num=30, seed=3, style="human"))
    assert whole[:10] == list(lab.rows(family, split="train", num=10, seed=3, style="human"))
    assert whole != list(lab.rows(family, split="train", num=30, seed=4, style="human"))
    assert len({row["id"] for row in whole}) == 30


@pytest.mark.parametrize("family", lab.FAMILIES)
def test_splits_share_no_question_whatever_the_seed(family: str) -> None:
    asked = {
        split: {
            str(row["question"])
            for seed in (0, 1)
            for row in lab.rows(family, split=split, num=60, seed=seed, style="plain")
        }
        for split in SPLITS
    }
    assert not asked["train"] & asked["test"]
    assert not asked["train"] & asked["validation"]
    assert not asked["validation"] & asked["test"]


@pytest.mark.parametrize("style", ["plain", "human"])
@pytest.mark.parametrize("family", lab.FAMILIES)
def test_every_response_is_correct_in_either_style(family: str, style: str) -> None:
    rows = list(islice(lab.rows(family, split="train", num=40, seed=0, style=style), 40))
    references = [json.loads(json.dumps(row["reference"])) for row in rows]
    grades = grade_texts(TASKS[family].grader, [str(row["response"]) for row in rows], references, seconds=10.0)
    assert [(row["response"], grade.reason) for row, grade in zip(rows, grades, strict=True) if grade.score != 1] == []


def test_styles_pose_the_same_questions() -> None:
    plain, human = (
        list(lab.rows("lab_code", split="train", num=20, seed=0, style=style)) for style in ("plain", "human")
    )
    assert [row["question"] for row in plain] == [row["question"] for row in human]
    assert all(one["response"] != other["response"] for one, other in zip(plain, human, strict=True))


def test_packaged_base_is_an_ordinary_folder_of_at_most_6_mb() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tokensieve.model import quiet_libraries

    assert sum(path.stat().st_size for path in lab.base_path().iterdir()) <= 6 * 1024 * 1024
    tokenizer = AutoTokenizer.from_pretrained(lab.base_path())
    assert "{%- generation" in tokenizer.chat_template
    with quiet_libraries():
        model = AutoModelForCausalLM.from_pretrained(lab.base_path())
    assert model.config.vocab_size >= len(tokenizer)


def test_unknown_names_are_errors() -> None:
    with pytest.raises(ValueError, match="family"):
        lab.rows("lab_poetry", split="train", num=1, seed=0, style="plain")
    with pytest.raises(ValueError, match="num"):
        lab.rows("lab_code", split="train", num=-1, seed=0, style="plain")
