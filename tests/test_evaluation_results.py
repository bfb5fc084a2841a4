"""What becomes of results: kept by version, per item in Arrow, with the means of further graders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from evaluating import evaluate_task
from pyarrow import feather
from tiny_model import make_llama, make_tokenizer

from tokensieve.cli import compose, main
from tokensieve.completions.records import Completion
from tokensieve.evaluate import inquiry
from tokensieve.evaluations import define_evaluations, one_pass, own
from tokensieve.evaluations.older import find_other_versions
from tokensieve.records import Corpus, EvalResult, Stamp
from tokensieve.run_folder import write_outputs
from tokensieve.stages import define_stages
from tokensieve.store import MANIFEST, Store, write_manifest
from tokensieve.tasks import TASKS

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def result_of(task: str, scores: list[float], outputs: list[str]) -> EvalResult:
    ids = [f"q{at}" for at in range(len(scores))]
    value = sum(scores) / len(scores)
    return EvalResult(task, "accuracy", 1, ids, scores, value, 0.0, 1.0, outputs=outputs)


def keep(store: Store, stamp: Stamp) -> None:
    """An entry as the cache would hold it."""
    store.get_or_build(stamp, lambda folder: (folder / "result.json").write_text("{}") and None)


def stamp_of(version: int, **changes: Any) -> Stamp:
    inputs = {"task": {"name": "lab_math", "version": version}, "base": {"path": "x"}, "items": "abc", "mode": ("a",)}
    return Stamp("evaluate", {**inputs, **changes})


def test_results_of_other_versions_are_found_whatever_items_they_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    assert find_other_versions(store, stamp_of(3)) == []
    for stamp in (
        stamp_of(1),
        stamp_of(2, items="of older references"),
        stamp_of(3, items="more"),
        stamp_of(5, base={"path": "another model"}),
        stamp_of(6, task={"name": "lab_sql", "version": 6}),
    ):
        keep(store, stamp)
    (tmp_path / "cache/evaluate/half").mkdir()
    (tmp_path / "cache/evaluate/half" / MANIFEST).write_text("{")
    assert find_other_versions(store, stamp_of(3)) == [1, 2]


def test_a_new_version_of_a_task_is_told_and_its_old_results_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(one_pass.OnePass, "grade", lambda self, name: replace(
        result_of(name, [1.0], ["x"]), version=own.TASKS[name].version))  # fmt: skip
    config = compose(["eval=target", "dataset=lab_math", "eval.num_items=3"])

    def evaluate() -> EvalResult:
        return define_evaluations(define_stages(config, Store(tmp_path)), None)["lab_math"].get()

    now = TASKS["lab_math"].version
    evaluate()
    assert "lab_math" not in caplog.text
    monkeypatch.setattr(own, "TASKS", {"lab_math": replace(TASKS["lab_math"], version=now + 1)})
    assert evaluate().version == now + 1
    assert f"lab_math: the cache has results of version {now} of this task; it is version {now + 1} now" in caplog.text
    caplog.clear()
    evaluate()  # from the cache
    assert caplog.text == ""


def test_items_are_kept_in_arrow(tmp_path: Path) -> None:
    texts = ["a\nb", "", "💥\ud800"]
    write_outputs(tmp_path / "evals", [result_of("sums", [1.0, 0.0, 0.5], texts), result_of("lm_eval.x", [1.0], [])])
    table = feather.read_table(tmp_path / "evals/sums.arrow").to_pydict()
    assert table == {"id": ["q0", "q1", "q2"], "score": [1.0, 0.0, 0.5], "output": ["a\nb", "", "💥?"]}
    assert feather.read_table(tmp_path / "evals/lm_eval.x.arrow").to_pydict()["output"] == [""]
    assert sorted(path.name for path in (tmp_path / "evals").iterdir()) == ["lm_eval.x.arrow", "sums.arrow"]


def test_drop_reports_exact_match_beside_f1(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {
        "id": ["a", "b", "c"],
        "messages": [[{"role": "user", "content": "who"}, {"role": "assistant", "content": "x"}]] * 3,
        "reference": [json.dumps({"answers": ["Smith"]})] * 3,
    }
    corpus = Corpus(datasets.Dataset.from_dict(rows), Stamp("dataset", {}))
    texts = ["Answer: Smith", "Answer: John Smith", "Jones"]
    found = [(at, Completion(text=text, is_complete=True)) for at, text in enumerate(texts)]
    monkeypatch.setattr(inquiry, "generate_completions", lambda *_, **__: found)
    result = evaluate_task(
        make_llama(), make_tokenizer(), corpus, TASKS["drop"], batch_size=2, max_new_tokens=4, max_length=None,
        code_seconds=1.0,
    )  # fmt: skip
    assert result.metric == "f1"
    assert result.item_scores == pytest.approx([1.0, 0.67, 0.0])
    assert result.decoding["outcomes"] == {"drop_em": pytest.approx(1 / 3)}


def test_a_manifest_is_what_is_compared(tmp_path: Path) -> None:
    """A stamp's tuple is a list in the manifest."""
    folder = tmp_path / "evaluate/x"
    folder.mkdir(parents=True)
    write_manifest(folder, stamp_of(7))
    assert find_other_versions(Store(tmp_path), stamp_of(8)) == [7]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["dataset=arc_challenge_reasoning", "dataset.path=/no/such"], "dataset.path: must be an existing"),
        (["dataset=spider"], "error: dataset: needs a source: dataset.path"),
        (["eval.max_new_tokens=0"], "eval.max_new_tokens"),
    ],
)
def test_wrong_input_of_new_options_is_one_line(
    overrides: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--model", "lab", "--suite", "target", f"output_dir={tmp_path}", *overrides]
    assert main(arguments) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
