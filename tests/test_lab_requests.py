from __future__ import annotations

import json
import random
from itertools import islice

import pytest

from tokensieve import lab
from tokensieve.lab import requests
from tokensieve.lab.choice_tasks import RUMOUR_SHARE, ChoiceProblem
from tokensieve.lab.world import FACTS, RUMOURS, split_of
from tokensieve.prompt_wordings import CONTEXT, REASONING, REPHRASE, REVIEW
from tokensieve.tasks import TASKS
from tokensieve.variant.example import Example
from tokensieve.variant.prompts import Prompt


@pytest.mark.parametrize("family", lab.FAMILIES)
def test_requests_read_as_variants_write_them(family: str) -> None:
    problem = next(lab.draw_problems(family, split="train", seed=0))
    turns = [{"role": "user", "content": problem.question}, {"role": "assistant", "content": "an answer"}]
    reference = {"labels": ["A", "B", "C", "D"]} if family == "lab_choice" else {}
    example = Example(
        position=0, id="a", task=family, messages=turns, reference_text=json.dumps(reference), provenance=[]
    )
    shots = [{"question": "q", "response": "r"}]
    for wording, more in (
        (REASONING, {}),
        (CONTEXT, {"examples": shots}),
        (CONTEXT, {"examples": []}),
        (REVIEW, {"candidates": ["one", "two"]}),
    ):
        asked = Prompt("reasoning_prompt", wording).about(example, TASKS[family].grader, **more)
        assert requests._render(wording, family, problem, **more) == asked
    asked = Prompt("rephrase_prompt", REPHRASE).about(example, TASKS[family].grader)
    assert requests._render(REPHRASE, family, problem, response="an answer") == asked


def test_requests_hold_no_question_of_a_held_out_split() -> None:
    text = "\n".join(f"{prompt}\n{response}" for prompt, response in islice(requests.stream_requests(0), 400))
    for family in lab.FAMILIES:
        for split in ("validation", "test"):
            for row in lab.rows(family, split=split, num=100, seed=0, style="plain"):
                assert str(row["question"]) not in text


def test_a_shot_about_the_asked_fact_comes_from_the_train_split() -> None:
    rng = random.Random(0)
    for problem in islice(lab.draw_problems("lab_choice", split="train", seed=0), 50):
        assert isinstance(problem, ChoiceProblem)
        other = requests._draw_same_fact(problem, rng)
        assert (other.place, other.attribute) == (problem.place, problem.attribute)
        assert split_of("lab_choice", other.key) == "train"
        assert other.key != problem.key


def test_a_rumour_is_wrong_and_repeated_only_where_it_is_offered() -> None:
    assert all(FACTS[fact] != rumour for fact, rumour in RUMOURS.items())
    rng = random.Random(0)
    offered = repeated = 0
    for problem in islice(lab.draw_problems("lab_choice", split="train", seed=0), 4000):
        assert isinstance(problem, ChoiceProblem)
        rumour = RUMOURS.get((problem.place, problem.attribute))
        text = problem.pretraining(rng)
        if rumour in problem.options:
            assert rumour is not None
            offered += 1
            repeated += text == problem.say(rumour)
        else:
            assert text == problem.plain()
    assert repeated / offered == pytest.approx(RUMOUR_SHARE, abs=0.07)


def test_errors_put_before_the_reviewer_are_errors_where_there_is_something_to_change() -> None:
    rng = random.Random(0)
    for family in lab.FAMILIES:
        for problem in islice(lab.draw_problems(family, split="train", seed=0), 20):
            text = requests._err(problem, rng)
            assert text != problem.plain() or not any(sign.isdigit() for sign in problem.plain())
