"""RobustFT and its baselines: which labels are taken for noise, which new ones are proposed, which are kept."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_variants import CHOICE, RuleBackend, entry_of, make_corpus, make_variant, question_number, responses, row

from tokensieve.completions.records import Completion, Messages
from tokensieve.config.variant import VariantConfig
from tokensieve.errors import AlignmentError, ConfigError
from tokensieve.records import Corpus, TokenisedCorpus, TokenScores
from tokensieve.store import Artefact, Store
from tokensieve.variant import define_variant, read_variant_ledger, read_variant_report

LABELS = "ABCD"
PROMPTS = {
    "reasoning_prompt": "REASON {{ question }}",
    "context_prompt": "CONTEXT {% for e in examples %}[{{ e.question }} -> {{ e.response }}]{% endfor %} {{ question }}",
    "review_prompt": "REVIEW {% for c in candidates %}({{ c }}){% endfor %} {{ question }}",
}


def truth(number: int) -> str:
    return LABELS[number % 4]


def noisy_rows(num: int = 12, noisy: Sequence[int] = (1, 4, 6, 9)) -> list[dict[str, Any]]:
    """Rows whose label is the truth, but for `noisy`, which carry the next letter."""
    return [
        row(at, LABELS[(at + 1) % 4], answer=truth(at), noise=truth(at)) if at in noisy else row(at, truth(at))
        for at in range(num)
    ]


def step_of(messages: Messages) -> str:
    word = messages[-1]["content"].split()[0]
    return {"REASON": "reasoning", "CONTEXT": "context", "REVIEW": "review"}.get(word, "base")


class Model(RuleBackend):
    """Knows the truth, but for what `wrong` says: step -> number of the question -> letter."""

    def __init__(self, wrong: Mapping[str, Mapping[int, str]] | None = None, *, entropies: bool = True) -> None:
        super().__init__(self._answer)
        self.wrong, self.entropies = wrong or {}, entropies

    def _answer(self, messages: Messages, sample: int) -> Completion:
        step, number = step_of(messages), question_number(messages)
        letter = self.wrong.get(step, {}).get(number, truth(number))
        text = f"{step} {number}\nAnswer: {letter}" if letter else f"{step} cannot say"
        # entropy rises with the number of the question, NLL falls
        entropy = 0.1 * number if self.entropies else None
        return Completion(text=text, is_complete=True, mean_nll=5 - 0.1 * number, mean_entropy=entropy)


def build(
    folder: Path, model: RuleBackend, rows: list[dict[str, Any]] | None = None, **changes: Any
) -> Artefact[Corpus]:
    return make_variant(folder, rows or noisy_rows(), model, **{"name": "robustft"} | PROMPTS | changes)


def test_a_model_that_knows_finds_and_mends_all_noise(tmp_path: Path) -> None:
    variant = build(tmp_path, Model(), use_selection=False)
    found = responses(variant)
    assert len(found) == 12
    for at in range(12):
        expected = f"context {at}\nAnswer: {truth(at)}" if at in (1, 4, 6, 9) else f"I say so.\nAnswer: {truth(at)}"
        assert found[f"train/{at}"] == expected
    report = read_variant_report(variant)
    expected_figures = {
        "rows": 12,
        "own": 8,
        "relabelled": 4,
        "dropped": 0,
        "noisy": 4,
        "flagged": 4,
        "noise_precision": 1,
        "noise_recall": 1,
        "noise_f1": 1,
        "relabel_accuracy": 1,
        "proposal_accuracy": 1,
    }
    assert {key: report[key] for key in expected_figures} == expected_figures


def test_selection_keeps_the_half_of_lowest_entropy(tmp_path: Path) -> None:
    variant = build(tmp_path, Model())
    assert set(responses(variant)) == {f"train/{at}" for at in range(12)} - {"train/6", "train/9"}
    dropped = {line["id"]: line["reason"] for line in read_variant_ledger(variant) if line["action"] == "dropped"}
    assert dropped == {"train/6": "not among the most confident", "train/9": "not among the most confident"}
    assert entry_of(variant, "train/1")["entropy"] == pytest.approx(0.1)


def test_beta_rounds_half_up(tmp_path: Path) -> None:
    for fraction, kept in ((0.1, 0), (0.125, 1), (0.3, 1), (0.75, 3), (1.0, 4)):
        variant = build(tmp_path / str(fraction), Model(), keep_fraction=fraction)
        assert read_variant_report(variant)["relabelled"] == kept


def test_the_papers_code_selects_below_the_median_loss(tmp_path: Path) -> None:
    # losses of rows 1, 4, 6, 9: 4.9, 4.6, 4.4, 4.1; median 4.5
    variant = build(tmp_path, Model(), compat="paper")
    assert {"train/6", "train/9"} <= set(responses(variant))
    assert not {"train/1", "train/4"} & set(responses(variant))
    three = build(tmp_path / "odd", Model(), noisy_rows(noisy=(1, 4, 6)), compat="paper")
    assert read_variant_report(three)["relabelled"] == 1  # strictly below: the middle one is out


def test_losses_stand_in_for_missing_entropies(tmp_path: Path) -> None:
    variant = build(tmp_path, Model(entropies=False))
    assert {"train/6", "train/9"} <= set(responses(variant))
    assert not {"train/1", "train/4"} & set(responses(variant))


def test_a_back_end_that_tells_nothing_cannot_select(tmp_path: Path) -> None:
    silent = RuleBackend(
        lambda messages, _: Completion(text=f"Answer: {truth(question_number(messages))}", is_complete=True)
    )
    with pytest.raises(ConfigError, match=r"variant\.use_selection: .*Remedy: "):
        build(tmp_path / "1", silent).get()
    assert len(build(tmp_path / "2", silent, use_selection=False).get()) == 12


def test_the_checker_wants_both_predictions(tmp_path: Path) -> None:
    model = Model({"reasoning": {0: "D"}, "base": {2: "D"}})
    flagged = [line["id"] for line in read_variant_ledger(build(tmp_path, model)) if line["flagged"]]
    assert flagged == [f"train/{at}" for at in (0, 1, 2, 4, 6, 9)]
    report = read_variant_report(build(tmp_path, model))
    assert report["noise_precision"] == pytest.approx(4 / 6)
    assert report["noise_recall"] == 1
    assert report["noise_f1"] == pytest.approx(0.8)


def test_without_reasoning_the_base_alone_checks(tmp_path: Path) -> None:
    model = Model({"reasoning": {0: "D"}, "base": {2: "D"}})
    variant = build(tmp_path, model, use_reasoning=False)
    assert [line["id"] for line in read_variant_ledger(variant) if line["flagged"]] == [
        f"train/{at}" for at in (1, 2, 4, 6, 9)
    ]
    assert not [messages for messages, _ in model.asked if step_of(messages) == "reasoning"]


@pytest.mark.parametrize(("threshold", "is_clean"), [(0.5, True), (0.75, False), (0.25, True)])
def test_experts_vote(tmp_path: Path, threshold: float, is_clean: bool) -> None:
    """Two of four experts give the label: sample 0 of the base prompt and sample 1 of the reasoning one."""
    base = Completion(text="Answer: B", is_complete=True, mean_nll=1.0, mean_entropy=1.0)
    other = Completion(text="Answer: C", is_complete=True, mean_nll=1.0, mean_entropy=1.0)
    model = RuleBackend(lambda messages, at: base if (at == 0) == (step_of(messages) == "base") else other)
    rows = [row(0, "B"), row(1, "C")]
    variant = build(tmp_path, model, rows, num_experts=4, agreement_threshold=threshold, use_selection=False)
    lines = list(read_variant_ledger(variant))
    assert lines[0]["flagged"] == (not is_clean)
    assert lines[0]["steps"][:6] == ["base", "reasoning", *(f"expert {number}" for number in range(4))]


def test_what_gives_no_answer_has_no_say(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mute = Model({"reasoning": dict.fromkeys(range(12), "")})
    variant = build(tmp_path, mute, use_selection=False)
    assert [line["id"] for line in read_variant_ledger(variant) if line["flagged"]] == [
        f"train/{at}" for at in (1, 4, 6, 9)
    ]
    report = read_variant_report(variant)
    assert (report["answered_base"], report["answered_reasoning"], report["answered_context"]) == (1, 0, 1)
    assert "0 % of reasoning completions give an answer: raise variant.max_new_tokens" in caplog.text
    assert "base completions" not in caplog.text
    strict = build(tmp_path, mute, use_selection=False, compat="paper")
    assert read_variant_report(strict)["flagged"] == 12


def test_where_nothing_gives_an_answer_the_label_is_suspect(tmp_path: Path) -> None:
    mute = {step: {0: ""} for step in ("base", "reasoning")}
    variant = build(tmp_path, Model(mute), use_selection=False)
    assert entry_of(variant, "train/0")["action"] == "relabelled"


def test_experts_ask_for_distinct_samples(tmp_path: Path) -> None:
    model = Model()
    build(tmp_path, model, num_experts=5, use_selection=False).get()
    samples = [(step_of(messages), at) for messages, at in model.asked if question_number(messages) == 0]
    assert sorted(samples) == sorted(
        [("base", 0), ("reasoning", 0), *(("base", at) for at in range(3)), *(("reasoning", at) for at in range(2))]
    )


def test_without_checker_every_row_is_relabelled(tmp_path: Path) -> None:
    model = Model()
    variant = build(tmp_path, model, use_checker=False, use_selection=False)
    assert read_variant_report(variant)["relabelled"] == 12
    assert read_variant_report(variant)["noise_precision"] == pytest.approx(4 / 12)
    neighbours = entry_of(variant, "train/5")["context"]
    assert len(neighbours) == 3
    assert "train/5" not in neighbours


def test_context_is_clean_and_near(tmp_path: Path) -> None:
    rows = noisy_rows()
    rows[9]["messages"][0]["content"] = "Question 9: a whale in the bay?"
    rows[4]["messages"][0]["content"] = "Question 4: a whale in the bay?"  # nearest, but noisy
    rows[7]["messages"][0]["content"] = "Question 7: one whale, one bay?"
    model = Model()
    variant = build(tmp_path, model, rows, use_selection=False)
    context = entry_of(variant, "train/9")["context"]
    assert context[0] == "train/7"
    assert not set(context) & {"train/1", "train/4", "train/6", "train/9"}
    (asked,) = [
        messages[-1]["content"]
        for messages, _ in model.asked
        if step_of(messages) == "context" and question_number(messages) == 9
    ]
    assert asked.startswith("CONTEXT [Question 7: one whale, one bay? -> I say so.\nAnswer: D][")
    assert asked.endswith("Question 9: a whale in the bay?")


def test_without_any_clean_row_there_is_no_context(tmp_path: Path) -> None:
    model = Model()
    variant = build(tmp_path, model, noisy_rows(4, range(4)), use_selection=False)
    assert all(entry_of(variant, key)["context"] == [] for key in responses(variant))
    assert len(variant.get()) == 4


@pytest.mark.parametrize(
    ("wrong", "switches", "step", "letter"),
    [
        # question 1: the truth is B, the noisy label C
        ({}, {}, "context", "B"),
        ({"context": {1: "D"}}, {}, "reasoning", "B"),  # the reviewer sides with the reasoning
        ({"review": {1: "D"}}, {}, "review", "D"),  # the reviewer's own answer
        ({"review": {1: ""}, "context": {1: "A"}}, {}, "context", "A"),  # a reviewer without an answer
        ({"review": {1: ""}, "context": {1: ""}}, {}, "reasoning", "B"),
        ({"review": {1: ""}, "context": {1: ""}, "reasoning": {1: ""}}, {}, "base", "B"),
        ({"context": {1: "D"}}, {"use_review": False}, "context", "D"),
        ({"reasoning": {1: "D"}}, {"use_context": False, "use_review": False}, "reasoning", "D"),
        ({"reasoning": {1: "D"}}, {"use_context": False}, "base", "B"),
        ({"context": {1: "D"}}, {"use_reasoning": False}, "base", "B"),
        ({"base": {1: "D"}}, {"use_reasoning": False, "use_context": False, "use_review": False}, "base", "D"),
    ],
)
def test_whose_text_is_the_new_label(
    tmp_path: Path, wrong: dict[str, dict[int, str]], switches: dict[str, bool], step: str, letter: str
) -> None:
    variant = build(tmp_path, Model(wrong), use_selection=False, **switches)
    entry = entry_of(variant, "train/1")
    assert entry["step"] == step
    expected = f"{step} 1\nAnswer: {letter}"
    assert responses(variant)["train/1"] == expected
    line = next(line for line in read_variant_ledger(variant) if line["id"] == "train/1")
    assert line["samples"][line["chosen"]] == expected
    assert line["steps"][line["chosen"]] == step


def test_a_row_without_any_answer_is_dropped(tmp_path: Path) -> None:
    silent = {step: {4: ""} for step in ("base", "reasoning", "context", "review")}
    variant = build(tmp_path, Model(silent), use_selection=False)
    assert "train/4" not in responses(variant)
    line = next(line for line in read_variant_ledger(variant) if line["id"] == "train/4")
    assert (line["reason"], line["chosen"]) == ("no step gives a usable answer", None)


def test_wrong_relabels_are_counted(tmp_path: Path) -> None:
    wrong = {step: {1: "A", 9: "A"} for step in ("context", "reasoning", "review")}
    report = read_variant_report(build(tmp_path, Model(wrong)))
    # kept: rows 1 (wrong; the truth is B) and 4; proposed besides: 6 and 9 (wrong; the truth is B)
    assert report["relabel_accuracy"] == 0.5
    assert report["proposal_accuracy"] == 0.5


def test_no_ledger_no_figures(tmp_path: Path) -> None:
    variant = build(tmp_path, Model({"base": {0: "D"}}), [row(at, truth(at)) for at in range(4)])
    assert "noise_f1" not in read_variant_report(variant)


def test_nothing_flagged_leaves_precision_undefined(tmp_path: Path) -> None:
    agree = Model({step: {1: "C"} for step in ("base", "reasoning")})
    report = read_variant_report(build(tmp_path, agree, noisy_rows(noisy=(1,))))
    assert math.isnan(report["noise_precision"])
    assert report["noise_recall"] == 0
    assert math.isnan(report["relabel_accuracy"])


def test_no_scratch_files_stay(tmp_path: Path) -> None:
    variant = build(tmp_path, Model())
    variant.get()
    names = {path.name for path in variant.store.folder(variant.stamp).iterdir()}
    assert names == {"data.arrow", "ledger.jsonl", "variant.json", "manifest.json"}


def test_self_label_replaces_every_label(tmp_path: Path) -> None:
    variant = build(tmp_path, Model({"base": {3: "A"}}), name="self_label")
    assert responses(variant)["train/0"] == "base 0\nAnswer: A"
    assert responses(variant)["train/3"] == "base 3\nAnswer: A"
    report = read_variant_report(variant)
    assert report["relabelled"] == 12
    assert report["relabel_accuracy"] == pytest.approx(11 / 12)
    assert report["noise_precision"] == pytest.approx(4 / 5)


def test_rows_without_an_answer_count_against_the_noise(tmp_path: Path) -> None:
    """Rows 1 and 4 of the noisy 1, 4, 6, 9 get no answer, and neither does the clean row 0."""
    mute = Model({"base": {0: "", 1: "", 4: ""}})
    report = read_variant_report(build(tmp_path / "drop", mute, name="self_label"))
    assert (report["noisy"], report["flagged"], report["dropped"]) == (4, 5, 3)
    assert report["noise_precision"] == pytest.approx(4 / 5)
    kept = read_variant_report(build(tmp_path / "keep", mute, name="self_label", on_no_correct="ground_truth"))
    assert (kept["noisy"], kept["flagged"], kept["fallback"]) == (4, 2, 3)
    assert kept["noise_recall"] == 0.5


def test_self_select_keeps_agreeing_labels(tmp_path: Path) -> None:
    variant = build(tmp_path, Model({"base": {1: "C", 0: "D"}}), name="self_select")
    # row 1: the model repeats the noisy label; row 0: it misses the clean one
    assert list(responses(variant)) == [f"train/{at}" for at in (1, 2, 3, 5, 7, 8, 10, 11)]
    assert responses(variant)["train/1"] == "I say so.\nAnswer: C"


def test_self_rag_reads_the_noisy_set_but_not_itself(tmp_path: Path) -> None:
    rows = noisy_rows()
    rows[9]["messages"][0]["content"] = "Question 9: a whale in the bay?"
    rows[4]["messages"][0]["content"] = "Question 4: a whale in the bay?"
    model = Model()
    variant = build(tmp_path, model, rows, name="self_rag", num_neighbours=1)
    assert entry_of(variant, "train/9")["context"] == ["train/4"]
    assert responses(variant)["train/9"] == "context 9\nAnswer: B"
    assert len(model.asked) == 12


class Numbers:
    """Embeds a question as an angle that grows with its number."""

    def identity(self) -> Mapping[str, Any]:
        return {"numbers": 1}

    def __call__(self, texts: Sequence[str]) -> Any:
        angles = np.array([int(text.split()[1].rstrip(":")) for text in texts]) / 100
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_embeddings_may_find_the_context(tmp_path: Path) -> None:
    variant = build(tmp_path, Model(), use_selection=False, embedder=Numbers())
    assert entry_of(variant, "train/9")["context"] == ["train/8", "train/10", "train/7"]
    assert variant.digest != build(tmp_path, Model(), use_selection=False).digest


def losses_of(store: Store, values: Sequence[float]) -> tuple[Artefact[TokenisedCorpus], Artefact[TokenScores]]:
    """Three tokens a row: a prompt token that costs 100, and two of the response around the wanted mean."""
    from datasets import Dataset

    tokens = make_corpus(store, [row(0, "A")])
    scores = make_corpus(store, [row(1, "A")])
    spans = Dataset.from_dict({"is_response": [[False, True, True] for _ in values]})
    nll = Dataset.from_dict({"nll": [[100.0, value - 0.5, value + 0.5] for value in values]})
    tokenised = Artefact(tokens.stamp, store, tokens.build, lambda _: TokenisedCorpus(spans, tokens.stamp))
    return tokenised, Artefact(scores.stamp, store, scores.build, lambda _: TokenScores(nll, scores.stamp))


def test_self_select_by_loss(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    rows = noisy_rows(4, (1,))
    settings = VariantConfig(name="self_select", select_by="loss").settings()
    corpus = make_corpus(store, rows)
    variant = define_variant(store, corpus, settings, task=CHOICE, losses=losses_of(store, [0.5, 3, math.nan, 0.6]))
    assert list(responses(variant)) == ["train/0", "train/3"]
    assert entry_of(variant, "train/0")["loss"] == pytest.approx(0.5)
    assert read_variant_report(variant)["noise_recall"] == 1
    with pytest.raises(ConfigError, match="select_by"):
        define_variant(store, corpus, settings, task=CHOICE)
    with pytest.raises(AlignmentError):
        define_variant(store, make_corpus(store, rows[:3]), settings, losses=losses_of(store, [1, 2, 3, 4])).get()


def test_number_tasks_are_checked_by_number(tmp_path: Path) -> None:
    from fake_variants import NUMBER

    rows = [row(0, "So it is.\n#### 41", noise="It is 42.\n#### 42"), row(1, "It is 42.\n#### 42.0")]
    rows = [entry | {"reference": json.dumps({"answer": "42"})} for entry in rows]
    model = RuleBackend(lambda *_: Completion(text="#### 42", is_complete=True, mean_nll=1.0, mean_entropy=0.5))
    variant = make_variant(tmp_path, rows, model, NUMBER, name="robustft", keep_fraction=1.0, **PROMPTS)
    assert responses(variant) == {"train/0": "#### 42", "train/1": "It is 42.\n#### 42.0"}
    assert read_variant_report(variant)["relabel_accuracy"] == 1


def test_a_row_without_tests_is_named(tmp_path: Path) -> None:
    from tokensieve.errors import DataError
    from tokensieve.tasks import Task

    code = Task(name="code", grader="code", metric="pass_at_1", max_new_tokens=16)
    rows = [row(0, "def f(): return 1"), row(1, "def f(): return 1")]
    rows[0]["reference"] = json.dumps({"tests": ["assert f() == 1"]})
    rows[1]["reference"] = json.dumps({"tests": []})
    model = RuleBackend(lambda *_: "def f(): return 1")
    with pytest.raises(DataError, match=r"row train/1, reference\.tests"):
        make_variant(tmp_path, rows, model, code, name="self_select").get()
    kept = make_variant(tmp_path, rows[:1], model, code, name="self_select")
    assert list(responses(kept)) == ["train/0"]
