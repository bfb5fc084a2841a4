"""A task's score, its interval, and items that cannot be answered or graded."""

from __future__ import annotations

import json
from typing import Any

import datasets
import pytest
from evaluating import evaluate_task
from tiny_model import make_llama, make_tokenizer

from tokensieve.completions.records import Completion
from tokensieve.errors import ConfigError, DataError
from tokensieve.evaluate import inquiry
from tokensieve.graders import GRADERS
from tokensieve.records import Corpus, Stamp
from tokensieve.tasks import TASKS, Task, find_task

TASK = Task(name="sums", grader="number", metric="accuracy", max_new_tokens=8)


def make_corpus(questions: list[str], references: list[str]) -> Corpus:
    rows = {
        "id": [f"q{at}" for at in range(len(questions))],
        "task": ["sums"] * len(questions),
        "messages": [[{"role": "user", "content": q}, {"role": "assistant", "content": "secret"}] for q in questions],
        "reference": references,
    }
    return Corpus(datasets.Dataset.from_dict(rows), Stamp("dataset", {}))


def run(corpus: Corpus, task: Task = TASK, **changes: Any) -> Any:
    options: dict[str, Any] = {"batch_size": 4, "max_new_tokens": None, "max_length": None, "code_seconds": 5.0}
    return evaluate_task(make_llama(), make_tokenizer(), corpus, task, **{**options, **changes})


def test_scores_align_with_items(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []

    def answer(
        model: Any, tokenizer: Any, prompts: list[list[int]], decodings: Any, **_: Any
    ) -> list[tuple[int, Completion]]:
        seen.extend(prompts)
        texts = ["#### 1", "#### 5", "#### 3", "none"]
        return [(at, Completion(text=texts[at], is_complete=True)) for at in (2, 0, 3, 1)]  # as they end

    monkeypatch.setattr(inquiry, "generate_completions", answer)
    result = run(make_corpus(["a", "b", "c", "d"], [json.dumps({"answer": str(k)}) for k in range(1, 5)]))
    assert result.item_ids == ["q0", "q1", "q2", "q3"]
    assert result.item_scores == [1.0, 0.0, 1.0, 0.0]
    assert result.outputs[3] == "none"
    assert (result.value, result.num_items) == (0.5, 4)
    assert result.low == pytest.approx(0.15, abs=0.005)
    assert result.high == pytest.approx(0.85, abs=0.005)
    assert make_tokenizer().decode(seen[0]) == "<user>a<eos><assistant>"  # and not the answer
    json.dumps(result.decoding)


def test_a_prompt_without_room_scores_zero_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    # Grading "" would call an empty reference program right; a prompt that did not fit must not.
    corpus = make_corpus(["x", "y" * 500], [json.dumps({"answer": "1"})] * 2)
    result = run(corpus)
    assert result.outputs[1] == ""
    assert result.item_scores[1] == 0.0
    assert result.decoding["prompts_too_long"] == 1
    assert "1 of 2 prompts" in caplog.text


def test_results_do_not_depend_on_the_batch() -> None:
    corpus = make_corpus([f"{k} + {k}?" for k in range(9)], [json.dumps({"answer": str(2 * k)}) for k in range(9)])
    assert run(corpus, batch_size=1) == run(corpus, batch_size=9)


def test_limits_are_taken_from_the_caller() -> None:
    corpus = make_corpus(["x"], [json.dumps({"answer": "1"})])
    assert len(run(corpus, max_new_tokens=2).outputs[0].encode()) <= 2 * 3
    assert run(corpus, max_length=1).decoding["prompts_too_long"] == 1


@pytest.mark.parametrize("reference", ["", "[1]", "{", json.dumps({"other": 1}), json.dumps({"answer": "many"})])
def test_unusable_references_name_task_and_item(reference: str) -> None:
    with pytest.raises(DataError, match=r"task sums, item q1") as caught:
        run(make_corpus(["x", "y"], [json.dumps({"answer": "1"}), reference]))
    assert caught.type is DataError


def test_no_items() -> None:
    with pytest.raises(DataError, match="at least one item"):
        run(make_corpus([], []))


def test_tasks_are_well_formed() -> None:
    for name, task in TASKS.items():
        assert task.name == name
        assert {task.grader, *task.also} <= set(GRADERS)
        assert task.max_new_tokens > 0
    with pytest.raises(ConfigError, match="lab_math"):
        find_task("lab_maths")
