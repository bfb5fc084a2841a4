"""Results as artefacts: what their stamps hold, choices by log-likelihood, pass@k, the harness, `tokensieve evaluate`."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from evaluating import evaluate_task
from tiny_checkpoint import save_tiny
from tiny_model import make_llama, make_tokenizer
from trained_run import make_adapter, make_run

from tokensieve import evaluations
from tokensieve.cli import compose, main
from tokensieve.config import RunConfig
from tokensieve.corpora import find_tasks, open_source
from tokensieve.errors import ConfigError, DataError
from tokensieve.evaluate import inquiry
from tokensieve.evaluate.choices import encode_options
from tokensieve.evaluate.questions import shed_examples
from tokensieve.evaluations import define_evaluations
from tokensieve.log_likelihood import Continuation
from tokensieve.records import Corpus, EvalResult, Stamp
from tokensieve.stages import define_stages
from tokensieve.store import Store
from tokensieve.tasks import Task
from tokensieve.trained_model import BASE_RECORD, choose_model, read_run_config, record_base

ROOT = Path(__file__).parents[1]
HAS_HARNESS = importlib.util.find_spec("lm_eval") is not None
needs_harness = pytest.mark.skipif(not HAS_HARNESS, reason="lm-eval is not installed: pip install -e '.[eval]'")
# what lm-eval and its own libraries say when they are imported is theirs
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
CHOICE = Task(name="letters", grader="choice", metric="accuracy", max_new_tokens=4)
CODE = Task(name="programs", grader="code", metric="pass_at_1", max_new_tokens=6)


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def make_corpus(references: list[dict[str, Any]], question: str = "which") -> Corpus:
    rows = {
        "id": [f"q{at}" for at in range(len(references))],
        "messages": [
            [{"role": "user", "content": f"{question} {at}"}, {"role": "assistant", "content": "secret"}]
            for at in range(len(references))
        ],
        "reference": [json.dumps(reference) for reference in references],
    }
    return Corpus(datasets.Dataset.from_dict(rows), Stamp("dataset", {}))


def score(corpus: Corpus, task: Task = CHOICE, **changes: Any) -> EvalResult:
    options: dict[str, Any] = {"batch_size": 3, "max_new_tokens": None, "max_length": None, "code_seconds": 5.0}
    if task is CHOICE:
        options["mode"] = "log_likelihood"
    return evaluate_task(make_llama(), make_tokenizer(), corpus, task, **(options | changes))


# Choices by log-likelihood


def log_probability(model: Any, context: list[int], continuation: list[int]) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([context + continuation])).logits[0].log_softmax(-1)
    return sum(float(logits[len(context) + at - 1, token]) for at, token in enumerate(continuation))


def test_the_likeliest_label_after_the_chat_prompt_is_chosen() -> None:
    labels = ["1", "2", "3", "4", "5"]
    corpus = make_corpus([{"answer": label, "labels": labels} for label in labels])
    result = score(corpus)
    model, tokenizer = make_llama(), make_tokenizer()
    for at, (output, points) in enumerate(zip(result.outputs, result.item_scores, strict=True)):
        context = tokenizer.encode(f"<user>which {at}<eos><assistant>")
        values = [log_probability(model, context, tokenizer.encode(f"Answer: {label}")) for label in labels]
        chosen = labels[values.index(max(values))]
        assert output == f"Answer: {chosen}"
        assert points == float(chosen == labels[at])
    assert (result.decoding["method"], result.decoding["continuation"]) == ("log_likelihood", "Answer: label")
    assert "outcomes" not in result.decoding
    json.dumps(result.decoding)
    assert score(corpus, batch_size=25) == result


def test_texts_of_options_are_scored_by_sum_and_by_character(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(model: Any, requests: list[Any], **_: Any) -> list[Continuation]:
        assert [len(continuation) for _, continuation in requests] == [3, 12] * 2
        return [Continuation(-3.0, 3, False), Continuation(-6.0, 12, False)] * 2  # -1 and -0.5 a character

    monkeypatch.setattr(inquiry, "score_continuations", fake)
    options = {"labels": ["A", "B"], "options": ["red", "greenish ink"]}
    result = score(make_corpus([{"answer": "A", **options}, {"answer": "B", **options}]))
    assert result.item_scores == [1.0, 0.0]
    assert result.outputs == ["red", "red"]
    assert result.decoding["outcomes"] == {"accuracy_per_character": 0.5}
    swapped = score(make_corpus([{"answer": "B", **options}] * 2))
    assert (swapped.value, swapped.decoding["outcomes"]) == (0.0, {"accuracy_per_character": 1.0})


def test_an_item_that_does_not_fit_scores_zero_in_this_mode_too(caplog: pytest.LogCaptureFixture) -> None:
    corpus = make_corpus([{"answer": "A"}] * 2, question="x" * 200)
    result = score(corpus)
    assert (result.item_scores, list(result.outputs)) == ([0.0, 0.0], ["", ""])
    assert result.decoding["prompts_too_long"] == 2
    assert "2 of 2 prompts" in caplog.text


@pytest.mark.parametrize(
    "reference",
    [{}, {"answer": "E"}, {"answer": "A", "options": ["one"]}, {"answer": "A", "options": ["a", "b", "", "d"]}],
    ids=["no answer", "no such label", "too few options", "an empty option"],
)
def test_a_reference_without_a_choice_names_the_item(reference: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="task letters, item q1, reference"):
        score(make_corpus([{"answer": "A"}, reference]))


def test_white_space_at_the_end_of_a_prompt_belongs_to_the_continuation(tiny_folder: Path) -> None:
    from tokensieve.model import load_tokenizer

    tokenizer = load_tokenizer(str(tiny_folder), None)
    pairs = encode_options(tokenizer, [{"role": "user", "content": "2 + 3"}], ["Answer: A", "Answer: B"])
    context, option = pairs[1]
    assert pairs[0][0] == context
    assert tokenizer.decode(context) == "<s><|user|>\n2 + 3\n<|assistant|>"  # one start token: the template's
    assert tokenizer.decode(option) == "\nAnswer: B"


def test_what_a_template_puts_before_an_answer_is_there_in_this_mode_too() -> None:
    tokenizer, messages = make_tokenizer(), [{"role": "user", "content": "2 + 3"}]
    before = "{% for m in messages %}{{ '[A]<think></think> ' if m.role == 'assistant' else '[U]' }}{{ m.content }};{% endfor %}"
    tokenizer.chat_template = before + "{% if add_generation_prompt %}[A]{% endif %}"
    ((context, option),) = encode_options(tokenizer, messages, ["5"])
    assert (tokenizer.decode(context), tokenizer.decode(option)) == ("[U]2 + 3;[A]<think></think>", " 5")
    # a template that writes another prompt than it then continues: the prompt that is also generated from stands
    tokenizer.chat_template = before + "{% if add_generation_prompt %}(A){% endif %}"
    ((context, option),) = encode_options(tokenizer, messages, ["5"])
    assert (tokenizer.decode(context), tokenizer.decode(option)) == ("[U]2 + 3;(A)", "5")


@pytest.mark.parametrize("system", [False, True])
def test_a_prompt_too_long_loses_its_first_examples(system: bool) -> None:
    head = [{"role": "system", "content": "s"}] if system else []
    turns = [{"role": role, "content": f"{role}{n}"} for n in range(4) for role in ("user", "assistant")]
    messages = [*head, *turns, {"role": "user", "content": "question"}]
    provenance = ['{"stage": "dataset"}', '{"stage": "few_shot", "examples": ["a", "b", "c"], "num_turns": [4, 2, 2]}']
    for room, num, kept in (
        (99, 0, 9),
        (9 + system, 0, 9),
        (8, 1, 5),
        (4 + system, 2, 3),
        (1 + system, 3, 1),
        (0, 3, 1),
    ):
        found, lost = shed_examples(messages, provenance, room=room, count_tokens=len)
        assert (lost, len(found)) == (num, kept + system)
        assert found == [*head, *messages[len(messages) - kept :]]
    assert shed_examples(messages, provenance[:1], room=0, count_tokens=len) == (messages, 0)


@pytest.mark.parametrize(("mode", "lost"), [("generate", 1), ("log_likelihood", 3)])
def test_examples_left_out_are_counted_and_told(mode: Any, lost: int, caplog: pytest.LogCaptureFixture) -> None:
    shown = [{"role": role, "content": "x" * 15} for _ in range(3) for role in ("user", "assistant")]
    asked = [{"role": "user", "content": "which"}, {"role": "assistant", "content": "Answer: A"}]
    rows = {
        "id": ["q0"],
        "messages": [[*shown, *asked]],
        "reference": ['{"answer": "A"}'],
        "provenance": [[json.dumps({"stage": "few_shot", "num_turns": [2, 2, 2]})]],
    }
    result = score(Corpus(datasets.Dataset.from_dict(rows), Stamp("few_shot", {})), mode=mode, max_length=127)
    assert result.decoding["examples_left_out"] == lost  # of 127 tokens 4, or 64, are for the answer; an example has 49
    assert result.decoding["prompts_too_long"] == 0
    assert "1 of 1 prompts" in caplog.text


@pytest.mark.parametrize("mode", ["generate", "log_likelihood"])
@pytest.mark.parametrize("max_length", [None, 100])
def test_a_prompt_that_the_template_refuses_names_its_item(mode: Any, max_length: int | None) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
        + str(tokenizer.chat_template)
    )
    shown = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Answer: A"}]
    rows = {
        "id": ["q0", "q1"],
        "messages": [shown, [{"role": "system", "content": "be brief"}, *shown]],
        "reference": ['{"answer": "A"}'] * 2,
        "provenance": [[json.dumps({"stage": "few_shot", "num_turns": []})]] * 2,
    }
    corpus = Corpus(datasets.Dataset.from_dict(rows), Stamp("dataset", {}))
    options: dict[str, Any] = {"batch_size": 3, "max_new_tokens": None, "code_seconds": 5.0, "mode": mode}
    with pytest.raises(DataError, match=r"task letters, item q1, conversation: .*no system turn.*chat_template"):
        evaluate_task(make_llama(), tokenizer, corpus, CHOICE, max_length=max_length, **options)


def test_other_tasks_are_generated_in_either_mode() -> None:
    task = Task(name="sums", grader="number", metric="accuracy", max_new_tokens=3)
    corpus = make_corpus([{"answer": "1"}] * 2)
    assert score(corpus, task, mode="log_likelihood") == score(corpus, task)


# pass@k


def test_several_samples_give_the_unbiased_pass_at_k(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokensieve.evaluate import answers
    from tokensieve.graders import Grade

    seen: list[list[str]] = []

    def grade(name: str, samples: list[list[str]], references: Any, **_: Any) -> list[list[Grade]]:
        seen.extend(samples)
        return [[Grade(float(at < passed), "") for at in range(4)] for passed in (2, 0, 4)]

    monkeypatch.setattr(answers, "grade_samples", grade)
    corpus = make_corpus([{"tests": ["assert f() == 1"]}] * 3)
    result = score(corpus, CODE, samples_per_item=4, temperature=1.0, top_p=1.0, seed=3)
    assert result.item_scores == [0.5, 0.0, 1.0]
    assert result.decoding["outcomes"] == {"pass_at_4": pytest.approx(2 / 3)}
    assert (result.decoding["method"], result.decoding["samples_per_item"]) == ("sampled", 4)
    assert [json.loads(text) for text in result.outputs] == seen
    assert all(len(set(item)) > 1 for item in seen)  # drawn, not repeated
    again = score(corpus, CODE, samples_per_item=4, temperature=1.0, top_p=1.0, seed=3, batch_size=12)
    assert again.outputs == result.outputs
    other = score(corpus, CODE, samples_per_item=4, temperature=1.0, top_p=1.0, seed=4)
    assert other.outputs != result.outputs


def test_a_prompt_without_room_passes_with_no_sample() -> None:
    # "" passes tests that ask nothing of it; a prompt that was never answered must not.
    corpus = make_corpus([{"tests": ["assert True"]}], question="x" * 200)
    result = score(corpus, CODE, samples_per_item=2)
    assert (result.value, result.decoding["outcomes"]) == (0.0, {"pass_at_2": 0.0})


def test_empty_answers_are_told(caplog: pytest.LogCaptureFixture) -> None:
    every_text = tuple(make_tokenizer().decode([token]) for token in range(256))  # ends at its first token
    task = Task(name="sums", grader="number", metric="accuracy", max_new_tokens=4, stop=every_text)
    result = score(make_corpus([{"answer": "1"}] * 2), task)
    assert result.value == 0.0
    assert "sums: 2 of 2 answers are empty" in caplog.text


# Stamps


def base_stamps(*overrides: str, folder: Path) -> dict[str, str]:
    config = compose(["eval=lab", *overrides])
    found = define_evaluations(define_stages(config, Store(folder)), None)
    return {name: artefact.digest for name, artefact in found.items()}


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("eval.mode=log_likelihood", {"lab_choice"}),
        ("eval.samples_per_item=5", {"lab_code"}),
        ("eval.temperature=0.2", set()),
        ("eval.seed=1", set()),
        ("eval.num_fewshot=1", {"lab_code", "lab_math", "lab_choice", "lab_sql"}),
        ("eval.datasets.lab_sql.num_fewshot=1", {"lab_sql"}),
        ("eval.batch_size=7", set()),
        ("eval.num_items=7", {"lab_code", "lab_math", "lab_choice", "lab_sql"}),
    ],
)
def test_a_setting_changes_the_results_that_read_it(override: str, changed: set[str], tmp_path: Path) -> None:
    before, after = base_stamps(folder=tmp_path), base_stamps(override, folder=tmp_path)
    assert {name for name in before if before[name] != after[name]} == changed


def test_samples_and_examples_are_stamped_with_their_seed(tmp_path: Path) -> None:
    for option, name in (("eval.samples_per_item=2", "lab_code"), ("eval.num_fewshot=1", "lab_math")):
        one, other = (base_stamps(option, f"eval.seed={seed}", folder=tmp_path) for seed in (0, 1))
        assert one[name] != other[name]


# lm-evaluation-harness

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 2.0}}
"""


@pytest.fixture
def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    data = tmp_path / "items.jsonl"
    data.write_text("".join(json.dumps({"question": f"{n} + 1", "choices": ["a", "bb"], "answer": n % 2}) + "\n" for n in range(5)))  # fmt: skip
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name in ("gsm8k", "tiny"):
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=data))
    (folder / "loose.yaml").write_text("group: loose\ntask: [gsm8k, tiny]\n")
    return folder


def harness_config(model: Path, declared: Path, tmp_path: Path, *overrides: str) -> RunConfig:
    rows = [{"question": f"{n} + {n}?", "answer": f"#### {2 * n}"} for n in range(40)]
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return compose(
        ["model=path", f"model.path={model}", "dataset=gsm8k", f"dataset.path={path}", "eval=lm_eval",
         f"eval.include_path={declared}", "eval.tasks=[tiny,gsm8k]", "eval.num_items=3", "eval.max_new_tokens=4",
         "trainer.accelerator=cpu", f"output_dir={tmp_path / 'out'}", *overrides]
    )  # fmt: skip


@needs_harness
def test_the_harness_s_tasks_stand_beside_the_target_s_own(tiny_folder: Path, declared: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    stages = define_stages(harness_config(tiny_folder, declared, tmp_path), store)
    found = define_evaluations(stages, None)
    assert list(found) == ["gsm8k", "lm_eval.tiny", "lm_eval.gsm8k"]
    results = [artefact.get() for artefact in found.values()]
    assert [result.task for result in results] == list(found)
    assert (results[0].metric, results[0].decoding["method"]) == ("accuracy", "greedy")
    assert results[1].num_items == 3
    assert results[1].decoding["method"].startswith("lm-evaluation-harness")
    again = define_evaluations(define_stages(harness_config(tiny_folder, declared, tmp_path, "seed=2"), store), None)
    assert all(artefact.is_cached for artefact in again.values())  # the base's are shared by a sweep


@needs_harness
def test_what_the_harness_reads_is_in_the_stamp(tiny_folder: Path, declared: Path, tmp_path: Path) -> None:
    def stamp(*overrides: str) -> str:
        config = harness_config(tiny_folder, declared, tmp_path, *overrides)
        return define_evaluations(define_stages(config, Store(tmp_path / "cache")), None)["lm_eval.tiny"].digest

    one = stamp()
    changes = (
        "eval.num_items=2",
        "eval.num_fewshot=1",
        "eval.seed=5",
        "eval.chat_template=true",
        "model.max_length=64",
    )
    assert len({one, *(stamp(change) for change in changes)}) == 6
    assert stamp("eval.batch_size=3", "eval.tasks=[tiny]") == one
    (declared / "functions.py").write_text("x = 1\n")
    assert stamp() != one


@needs_harness
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["eval.tasks=[tinny]"],
            r"eval\.tasks: must name tasks or groups of lm-evaluation-harness; received 'tinny'.*tiny",
        ),
        (["eval.tasks=[loose]"], r"eval\.tasks: must name tasks, or groups with a score of their own; received 'loose"),
        (["eval.tasks=null"], r"eval\.tasks: must name at least one task"),
        (["eval.include_path=/no/such"], r"eval\.include_path: must be an existing folder"),
    ],
    ids=["misspelt", "no score", "none", "no folder"],
)
def test_faults_of_harness_tasks_are_told_before_anything_loads(
    overrides: list[str], said: str, tiny_folder: Path, declared: Path, tmp_path: Path
) -> None:
    config = harness_config(tiny_folder, declared, tmp_path, *overrides)
    with pytest.raises(ConfigError, match=said):
        find_tasks(config, open_source(config.dataset))


def test_without_the_harness_the_remedy_is_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokensieve.harness.find.find_spec", lambda name: None)
    config = compose(["eval=lm_eval", "eval.tasks=[tiny]"])
    with pytest.raises(ConfigError, match=r"needs the package lm-eval"):
        find_tasks(config, open_source(config.dataset))


# tokensieve evaluate


def evaluate(out: Path, *arguments: str) -> int:
    return main(["evaluate", *arguments, f"output_dir={out}", "eval.max_new_tokens=4"])


def test_a_run_is_evaluated_on_a_suite_and_once(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run, file = make_run(tmp_path / "run", tiny_folder), tmp_path / "scores.json"
    command = [str(run), "--accelerator", "cpu", "--suite", "lab", "--num-items", "3", "--tasks", "lab_math,lab_choice"]
    assert evaluate(tmp_path / "out", *command, "--output", str(file)) == 0
    shown = capsys.readouterr().out
    written = json.loads(file.read_text())
    assert [entry["task"] for entry in written["results"]] == ["lab_math", "lab_choice"]
    assert all(len(entry["item_scores"]) == 3 for entry in written["results"])
    assert written["weights"] == str(run / "adapter")
    assert set(written["stamps"]) == {"lab_math", "lab_choice"}
    for entry in written["results"]:
        line = next(line for line in shown.splitlines() if entry["task"] in line)
        for part in (f"{100 * entry['value']:.1f}", f"{100 * entry['high']:.1f}", " 3 ", "accuracy"):
            assert part in line
    caplog.clear()
    assert evaluate(tmp_path / "out", *command) == 0
    assert caplog.text.count("found in the cache") == 2
    assert capsys.readouterr().out == shown


def test_the_target_of_a_run_is_asked_of_its_own_data_and_first(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def note(subject: Any, items: Any) -> dict[str, Any]:
        asked.append(list(items))
        return {}

    monkeypatch.setattr(evaluations, "define_results", note)
    run = str(make_run(tmp_path / "run", tiny_folder))
    for options in (
        [run, "--suite", "lab"],
        [run, "--suite", "target"],
        [run, "--suite", "lab", "--tasks", "lab_sql"],
        ["--model", str(tiny_folder), "--suite", "lab"],
        ["--model", str(tiny_folder), "--suite", "target", "dataset=lab_math"],
        ["dataset=lab_math", "--model", str(tiny_folder), "--suite", "target"],
    ):
        assert evaluate(tmp_path / "out", *options) == 0
    lab = ["lab_code", "lab_math", "lab_choice", "lab_sql"]
    assert asked == [lab, ["lab_code"], ["lab_sql"], lab, ["lab_math"], ["lab_math"]]


def test_base_and_adapters_have_results_of_their_own(tiny_folder: Path, tmp_path: Path) -> None:
    adapters = [make_adapter(tiny_folder, tmp_path / name, scale=scale) for name, scale in (("a", 0.3), ("b", 0.6))]
    models = [["--model", str(tiny_folder)], *(["--adapter", str(folder)] for folder in adapters)]
    stamps = []
    for number, model in enumerate(models):
        file = tmp_path / f"{number}.json"
        options = ["--accelerator", "cpu", "--suite", "lab", "--tasks", "lab_sql", "--num-items", "2", "--output"]
        assert evaluate(tmp_path / "out", *model, *options, str(file)) == 0
        stamps.append(json.loads(file.read_text())["stamps"]["lab_sql"])
    assert len(set(stamps)) == 3


def test_an_adapter_of_another_base_is_one_line(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = make_adapter(tiny_folder, tmp_path / "adapter")
    other = save_tiny(tmp_path / "other", hidden_size=48, num_attention_heads=4)
    options = ["--adapter", str(adapter), "--accelerator", "cpu", "--suite", "lab", "--tasks", "lab_sql"]
    assert evaluate(tmp_path / "out", "--model", str(other), *options, "--num-items", "1") == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: adapter: must have been trained on this base model")
    assert str(tiny_folder) in said


@pytest.mark.parametrize("damage", ["cut", "absent"])
def test_an_adapter_without_readable_weights_is_one_line(
    damage: str, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = make_adapter(tiny_folder, tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    if damage == "absent":
        weights.unlink()
    options = ["--adapter", str(adapter), "--accelerator", "cpu", "--suite", "lab", "--tasks", "lab_sql"]
    assert evaluate(tmp_path / "out", "--model", str(tiny_folder), *options, "--num-items", "1") == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: adapter: must hold weights that can be read")


def test_a_base_that_changed_under_its_name_is_told(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = shutil.copytree(tiny_folder, tmp_path / "base")
    run = make_run(tmp_path / "run", base)
    record_base(read_run_config(run), run)
    choose_model(run, accelerator="cpu")
    choose_model(adapter=run / "adapter", accelerator="cpu")
    moved = shutil.copytree(base, tmp_path / "elsewhere")
    (moved / "README.md").write_text("the same weights in another place")
    choose_model(run, model=str(moved), accelerator="cpu")
    assert "another model" not in caplog.text
    caplog.clear()
    save_tiny(base, seed=5)
    for options in ({"run": run}, {"adapter": run / "adapter"}):
        choose_model(**options, accelerator="cpu")
        assert "trained on a base with another model.safetensors than" in caplog.text
        assert len(caplog.records) == 1
        caplog.clear()
    (run / BASE_RECORD).write_text("[")  # says nothing
    choose_model(run, accelerator="cpu")
    assert not caplog.records


def test_perplexities_of_base_and_adapter_differ_and_are_exp_of_the_mean_nll(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rows = [{"instruction": f"Say {n}.", "input": "", "output": "ab" * (n + 1)} for n in range(30)]
    path, adapter = tmp_path / "rows.json", make_adapter(tiny_folder, tmp_path / "adapter")
    path.write_text(json.dumps(rows))
    found = []
    for number, model in enumerate((["--model", str(tiny_folder)], ["--adapter", str(adapter)])):
        file = tmp_path / f"{number}.json"
        options = ["--accelerator", "cpu", "--suite", "target", "--perplexity", "--output", str(file)]
        assert evaluate(tmp_path / "out", *model, *options, "dataset=alpaca", f"dataset.path={path}") == 0
        (entry,) = json.loads(file.read_text())["results"]
        found.append(entry)
    base, tuned = found
    assert base["dataset"] == "alpaca"  # it has no task, and needs none
    assert base["item_ids"] == tuned["item_ids"]
    assert 0 < len(base["item_ids"]) < 30  # the rows held out for the test
    assert base["perplexity"] != tuned["perplexity"]
    assert f"{base['perplexity']:.5g}" in capsys.readouterr().out
    command = ["--model", str(tiny_folder), "--accelerator", "cpu", "--suite", "target", "--perplexity"]
    caplog.clear()
    assert evaluate(tmp_path / "out", *command, "dataset=alpaca", f"dataset.path={path}") == 0
    assert "alpaca: found in the cache" in caplog.text
    assert evaluate(tmp_path / "out", *command, "--tasks", "lab_code") == 1
    assert "--tasks: must name sets of the suite" in capsys.readouterr().err


def test_perplexity_is_of_the_response_tokens_alone(tiny_folder: Path, tmp_path: Path) -> None:
    from tokensieve.evaluations.perplexity import measure_perplexity
    from tokensieve.model import load_tokenizer
    from tokensieve.resident import ResidentModel

    config = harness_config(tiny_folder, tmp_path / "tasks", tmp_path, "eval=target", "eval.tasks=[]")
    subject = evaluations.Subject(config, Store(tmp_path / "cache"), ResidentModel(config), None)
    corpus = define_stages(config, subject.store).items["gsm8k"]
    result = measure_perplexity(subject, "sums", corpus, "last")
    model, tokenizer = subject.load_model(), load_tokenizer(str(tiny_folder), None)
    sums, counts = [], []
    for messages in corpus.get().rows["messages"]:
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
        context = tokenizer.encode(prompt, add_special_tokens=False)
        response = tokenizer.encode(f"{messages[-1]['content']}</s>", add_special_tokens=False)
        sums.append(-log_probability(model, context, response))
        counts.append(len(response))
    assert result.num_tokens == sum(counts)
    assert result.item_nlls == pytest.approx([nll / num for nll, num in zip(sums, counts, strict=True)], rel=1e-5)
    assert result.perplexity == pytest.approx(torch.tensor(sum(sums) / sum(counts)).exp().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "lab", "--tasks", "lab_sqll"], "eval.tasks: must name known tasks; received 'lab_sqll'"),
        (["--suite", "lab", "--tasks", "mbpp"], "needs its data in eval.datasets"),
        (["--suite", "target"], "--suite: must give at least one task"),
        (["--suite", "nosuch"], "must be one of"),
        (["--suite", "paper_stm", "eval.datasets.bird.path=/no/such"], "eval.datasets.bird.path: must be an existing"),
        (["--suite", "lab", "--output", "/no/such/folder/x.json"], "--output: must be a file in an existing folder"),
        (["--suite", "lab", "model.path=x"], "takes overrides of eval, dataset, output_dir alone"),
        (["--suite", "lab", "eval.mode=guess"], "eval.mode"),
        (["/no/such/run", "--suite", "lab"], "must be a run folder"),
        (["--suite", "lab", "--model", "/no/such/model"], "model.path"),
        (["--suite", "lab", "--adapter", "/no/such/adapter"], "--adapter: must be a folder"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tmp_path / "out", *arguments) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
