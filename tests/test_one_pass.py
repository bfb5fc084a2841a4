"""The answers to all tasks of a suite from one pass over the model, whatever ends it and whatever is there already."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tokensieve.cli import compose
from tokensieve.evaluate import inquiry
from tokensieve.evaluations import Evaluations, define_evaluations, one_pass
from tokensieve.records import EvalResult
from tokensieve.stages import define_stages
from tokensieve.store import Store

ROOT = Path(__file__).parents[1]
LAB = ["lab_code", "lab_math", "lab_choice", "lab_sql"]


class Passes:
    """What the model was asked, a list a pass of the decoding loop and a list a pass over options."""

    def __init__(self) -> None:
        self.prompts: list[list[Any]] = []
        self.options: list[list[Any]] = []
        self.dies_after: int | None = None  # passes of the decoding loop

    def note_prompts(self, real: Any) -> Any:
        def generate(model: Any, tokenizer: Any, prompts: list[Any], *how: Any, **options: Any) -> Iterator[Any]:
            if len(self.prompts) == self.dies_after:
                raise KeyboardInterrupt
            if prompts:
                self.prompts.append(list(prompts))
            return real(model, tokenizer, prompts, *how, **options)

        return generate

    def note_options(self, real: Any) -> Any:
        def score(model: Any, requests: list[Any], **options: Any) -> Any:
            if requests:
                self.options.append(list(requests))
            return real(model, requests, **options)

        return score


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    monkeypatch.chdir(ROOT)
    noted = Passes()
    monkeypatch.setattr(inquiry, "generate_completions", noted.note_prompts(inquiry.generate_completions))
    monkeypatch.setattr(inquiry, "score_continuations", noted.note_options(inquiry.score_continuations))
    return noted


def evaluations(tiny_folder: Path, cache: Path, *overrides: str) -> Evaluations:
    model = ["model=path", f"model.path={tiny_folder}", "trainer.accelerator=cpu"]
    config = compose(["eval=lab", *model, "eval.num_items=4", "eval.max_new_tokens=5", "eval.batch_size=3", *overrides])
    return define_evaluations(define_stages(config, Store(cache)), None)


def results(tiny_folder: Path, cache: Path, *overrides: str) -> dict[str, EvalResult]:
    return {name: result.get() for name, result in evaluations(tiny_folder, cache, *overrides).items()}


def test_all_tasks_are_answered_in_one_pass_and_as_if_alone(tiny_folder: Path, tmp_path: Path, passes: Passes) -> None:
    mixed = ["eval.mode=log_likelihood", "eval.samples_per_item=2"]
    found = results(tiny_folder, tmp_path / "all", *mixed)
    assert list(found) == LAB
    assert [len(one) for one in passes.prompts] == [4 * 2 + 4 + 4]  # two programs an item, and a text for two tasks
    assert [len(one) for one in passes.options] == [4 * 4]
    assert {result.decoding["method"] for result in found.values()} == {"greedy", "sampled", "log_likelihood"}
    for task, result in found.items():
        alone = results(tiny_folder, tmp_path / task, *mixed, f"eval.tasks=[{task}]", "eval=target", f"dataset={task}")
        assert alone == {task: result}


def test_a_pass_is_kept_before_anything_is_graded(tiny_folder: Path, tmp_path: Path, passes: Passes) -> None:
    undisturbed = results(tiny_folder, tmp_path / "undisturbed")
    passes.prompts.clear()
    killed = evaluations(tiny_folder, tmp_path / "killed")
    killed["lab_math"].get()
    again = evaluations(tiny_folder, tmp_path / "killed")  # of another process, as far as they know
    assert again["lab_math"].is_cached
    assert {name: result.get() for name, result in again.items()} == undisturbed
    assert len(passes.prompts) == 1


def test_a_killed_pass_goes_on_after_its_last_whole_part(
    tiny_folder: Path, tmp_path: Path, passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_pass, "_ROWS_OF_A_PART", 6)
    undisturbed = results(tiny_folder, tmp_path / "undisturbed")
    expected = passes.prompts.copy()
    assert [len(part) for part in expected] == [6, 6, 4]
    passes.prompts.clear()
    passes.dies_after = 2
    with pytest.raises(KeyboardInterrupt):
        results(tiny_folder, tmp_path / "killed")
    passes.dies_after = None
    # meanwhile another command, with batches of another size, does one of the tasks by itself
    other = ["eval=target", "dataset=lab_sql", "eval.batch_size=2"]
    assert results(tiny_folder, tmp_path / "killed", *other) == {"lab_sql": undisturbed["lab_sql"]}
    assert len(passes.prompts.pop()) == 4
    assert results(tiny_folder, tmp_path / "killed", "eval.batch_size=1") == undisturbed
    assert passes.prompts == expected  # the same rows side by side, and none of them twice


def test_results_that_are_there_are_not_asked_for_again(tiny_folder: Path, tmp_path: Path, passes: Passes) -> None:
    whole = results(tiny_folder, tmp_path / "whole")
    passes.prompts.clear()
    first = evaluations(tiny_folder, tmp_path / "cache", "eval=target", "dataset=lab_sql")
    assert list(first) == ["lab_sql"]
    assert first["lab_sql"].get() == whole["lab_sql"]
    assert results(tiny_folder, tmp_path / "cache") == whole
    assert [len(one) for one in passes.prompts] == [4, 12]
    results(tiny_folder, tmp_path / "cache")
    evaluations(tiny_folder, tmp_path / "cache").answer()  # nothing to do
    assert len(passes.prompts) == 2
    # one that the pass left out was pruned: its texts are still there; and if they are not, it alone is asked again
    for kept in (True, False):
        shutil.rmtree(tmp_path / "cache/evaluate" / first["lab_sql"].digest)
        if not kept:
            for part in (tmp_path / "cache/answer").glob("*/replies.json"):
                if "lab_sql" not in part.read_text():  # not the list of what a pass is over
                    shutil.rmtree(part.parent)
        assert results(tiny_folder, tmp_path / "cache") == whole
        assert [len(one) for one in passes.prompts] == ([4, 12] if kept else [4, 12, 4])
