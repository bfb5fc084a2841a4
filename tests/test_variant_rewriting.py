"""self_output, larger_model, rephrase and filter_correct: which samples are used."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from fake_variants import NUMBER, RuleBackend, entry_of, make_variant, responses, row

from tokensieve.completions.records import Completion, Messages
from tokensieve.config.variant import VariantConfig
from tokensieve.errors import ConfigError
from tokensieve.variant import read_variant_ledger, read_variant_report

# Four samples of one row whose answer is B: right, wrong, right, right; perplexities e^0.5, e^0.1, e^0.2, e^0.9.
SAMPLES = [
    Completion(text="first\nAnswer: B", is_complete=True, mean_nll=0.5),
    Completion(text="second\nAnswer: C", is_complete=True, mean_nll=0.1),
    Completion(text="third\nAnswer: B", is_complete=True, mean_nll=0.2),
    Completion(text="fourth\nAnswer: B", is_complete=True, mean_nll=0.9),
]


def four(messages: Messages, sample: int) -> Completion:
    return SAMPLES[sample]


def one_row(folder: Path, **changes: Any) -> Any:
    settings = {"name": "self_output", "num_samples": 4, "temperature": 0.7} | changes
    return make_variant(folder, [row(0, "B")], RuleBackend(four), **settings)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "third\nAnswer: B"),
        ({"pick": "highest"}, "fourth\nAnswer: B"),
        ({"accept": "wrong"}, "second\nAnswer: C"),
        ({"accept": "any"}, "second\nAnswer: C"),
        ({"accept": "any", "pick": "highest"}, "fourth\nAnswer: B"),
        ({"verify": False}, "second\nAnswer: C"),
        ({"num_samples": 2}, "first\nAnswer: B"),
    ],
)
def test_which_sample_becomes_the_response(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    assert responses(one_row(tmp_path, **changes)) == {"train/0": text}


def test_lineage_and_ledger_of_a_choice(tmp_path: Path) -> None:
    variant = one_row(tmp_path)
    entry = entry_of(variant, "train/0")
    assert entry["perplexity"] == pytest.approx(math.exp(0.2))
    assert {
        key: entry[key] for key in ("variant", "source", "action", "reason", "num_samples", "num_verified", "chosen")
    } == {
        "variant": "self_output",
        "source": "train/0",
        "action": "rewritten",
        "reason": "lowest of 3 accepted",
        "num_samples": 4,
        "num_verified": 3,
        "chosen": 2,
    }
    (line,) = read_variant_ledger(variant)
    assert line["samples"] == [sample.text for sample in SAMPLES]
    assert line["verified"] == [True, False, True, True]
    assert line["perplexities"] == [pytest.approx(math.exp(sample.mean_nll or 0)) for sample in SAMPLES]


def test_verification_off_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    variant = one_row(tmp_path, verify=False)
    assert entry_of(variant, "train/0")["num_verified"] is None
    assert "no response is checked" in caplog.text


def test_random_picks_by_row_and_seed(tmp_path: Path) -> None:
    rows = [row(number, "B") for number in range(40)]
    settings = {"name": "self_output", "num_samples": 4, "temperature": 0.7, "pick": "random"}
    first = responses(make_variant(tmp_path / "1", rows, RuleBackend(four), **settings))
    same = responses(make_variant(tmp_path / "2", rows[::-1], RuleBackend(four), **settings))
    other = responses(make_variant(tmp_path / "3", rows, RuleBackend(four), **settings, seed=1))
    assert first == same
    assert first != other
    assert set(first.values()) == {SAMPLES[at].text for at in (0, 2, 3)}


def test_equal_perplexities_take_the_first(tmp_path: Path) -> None:
    same = RuleBackend(lambda _, sample: Completion(text=f"{sample}\nAnswer: B", is_complete=True, mean_nll=0.5))
    settings = {"name": "self_output", "num_samples": 4, "temperature": 0.7}
    assert responses(make_variant(tmp_path, [row(0, "B")], same, **settings)) == {"train/0": "0\nAnswer: B"}


def test_a_back_end_without_log_probabilities_cannot_rank(tmp_path: Path) -> None:
    silent = RuleBackend(lambda _, sample: Completion(text=f"{sample}\nAnswer: B", is_complete=True))
    settings = {"name": "self_output", "num_samples": 3, "temperature": 0.7}
    with pytest.raises(ConfigError, match=r"variant\.pick: .*Remedy: set variant\.pick=random"):
        make_variant(tmp_path / "1", [row(0, "B")], silent, **settings).get()
    assert len(make_variant(tmp_path / "2", [row(0, "B")], silent, **settings, pick="random").get()) == 1
    assert len(make_variant(tmp_path / "3", [row(0, "B")], silent, **settings | {"num_samples": 1}).get()) == 1


def test_what_is_cut_off_may_be_allowed(tmp_path: Path) -> None:
    cut = RuleBackend(lambda *_: Completion(text="Answer: B and", is_complete=False, mean_nll=1.0))
    assert len(make_variant(tmp_path, [row(0, "B")], cut, name="self_output", keep_truncated=True).get()) == 1


def test_self_output_sees_the_prompt_alone(tmp_path: Path) -> None:
    backend = RuleBackend(lambda *_: "Answer: B")
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "First?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Second?"},
        {"role": "assistant", "content": "Secret.\nAnswer: B"},
    ]
    variant = make_variant(tmp_path, [row(0, "B") | {"messages": turns}], backend, name="self_output")
    assert variant.get().rows[0]["messages"] == [*turns[:-1], {"role": "assistant", "content": "Answer: B"}]
    assert backend.asked == [(turns[:-1], 0)]


def test_rephrase_shows_the_response_in_the_last_turn(tmp_path: Path) -> None:
    backend = RuleBackend(lambda *_: "In my words.\nAnswer: B")
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Which {{ letter }}?"},
        {"role": "assistant", "content": "It is so.\nAnswer: B"},
    ]
    variant = make_variant(tmp_path, [row(0, "B") | {"messages": turns}], backend, name="rephrase")
    assert responses(variant) == {"train/0": "In my words.\nAnswer: B"}
    ((asked, _),) = backend.asked
    assert asked[0] == turns[0]
    assert asked[1]["role"] == "user"
    assert "Which {{ letter }}?" in asked[1]["content"]
    assert "It is so.\nAnswer: B" in asked[1]["content"]
    assert variant.get().rows[0]["messages"][:-1] == turns[:-1]


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    backend = RuleBackend(lambda *_: "Answer: B")
    prompt = "{{ question }}|{{ response }}|{{ labels | join }}|{{ answer_form }}"
    make_variant(tmp_path, [row(0, "B")], backend, name="rephrase", rephrase_prompt=prompt).get()
    form = "End with one line that reads `Answer: X`, where X is one of A, B, C, D."
    assert backend.asked[0][0][-1]["content"] == f"Question 0: which letter?|I say so.\nAnswer: B|ABCD|{form}"


@pytest.mark.parametrize("prompt", ["{{ question", "{{ answer }}", "{{ question.x.y }}", "{{ 1 / 0 }}"])
def test_a_broken_template_is_a_config_error(tmp_path: Path, prompt: str) -> None:
    with pytest.raises(ConfigError, match=r"variant\.rephrase_prompt"):
        make_variant(tmp_path, [row(0, "B")], RuleBackend(four), name="rephrase", rephrase_prompt=prompt)


def test_a_template_may_fail_on_one_row(tmp_path: Path) -> None:
    variant = make_variant(
        tmp_path,
        [row(0, "B")],
        RuleBackend(four),
        name="rephrase",
        rephrase_prompt="{{ 1 / (question | length - 25) }}",
    )
    with pytest.raises(ConfigError, match=r"variant\.rephrase_prompt: .*division by zero"):
        variant.get()


def test_filter_correct_keeps_the_datas_own_words(tmp_path: Path) -> None:
    rows = [row(0, "A"), row(1, "B"), row(2, "C")]
    solver = RuleBackend(lambda *_: "Answer: B")
    kept = make_variant(tmp_path, rows, solver, name="filter_correct")
    assert responses(kept) == {"train/1": "I say so.\nAnswer: B"}
    unsolved = make_variant(tmp_path, rows, solver, name="filter_correct", accept="wrong")
    assert list(responses(unsolved)) == ["train/0", "train/2"]


@pytest.mark.parametrize(("threshold", "num_kept"), [(0.01, 1), (0.75, 1), (0.76, 0)])
def test_filter_correct_counts_samples(tmp_path: Path, threshold: float, num_kept: int) -> None:
    rows = [row(0, "B"), row(1, "C", question="easy")]
    solver = RuleBackend(lambda messages, at: "Answer: C" if messages[0]["content"] == "easy" else SAMPLES[at])
    settings = {"name": "filter_correct", "num_samples": 4, "temperature": 0.7, "agreement_threshold": threshold}
    assert len(make_variant(tmp_path, rows, solver, **settings).get()) == num_kept + 1


def test_numbers_are_verified_as_numbers(tmp_path: Path) -> None:
    rows = [row(0, "So 42.\n#### 42") | {"reference": json.dumps({"answer": "42"})}]
    backend = RuleBackend(lambda *_: "40 + 2 = 42\n#### 42.0")
    assert responses(make_variant(tmp_path, rows, backend, NUMBER, name="self_output")) == {
        "train/0": "40 + 2 = 42\n#### 42.0"
    }


def test_wholly_wrong_data_for_the_control(tmp_path: Path) -> None:
    rows = [row(number, "B") for number in range(3)]
    settings = {"name": "self_output", "num_samples": 4, "temperature": 0.7, "accept": "wrong"}
    variant = make_variant(tmp_path, rows, RuleBackend(four), **settings)
    assert set(responses(variant).values()) == {"second\nAnswer: C"}
    assert read_variant_report(variant)["rewritten"] == 3


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"name": "self_output", "num_samples": 2}, "variant.temperature"),
        ({"temperature": -0.1}, "variant.temperature"),
        ({"top_p": 0}, "variant.top_p"),
        ({"num_samples": 0}, "variant.num_samples"),
        ({"max_new_tokens": 0}, "variant.max_new_tokens"),
        ({"max_requests": 0}, "variant.max_requests"),
        ({"timeout_seconds": 0}, "variant.timeout_seconds"),
        ({"keep_fraction": 1.1}, "variant.keep_fraction"),
        ({"agreement_threshold": 0}, "variant.agreement_threshold"),
        ({"num_experts": -1}, "variant.num_experts"),
        ({"num_seed_tasks": 1}, "variant.num_seed_tasks"),
        ({"min_words": 9, "max_words": 8}, "variant.max_words"),
        ({"backend": "openai"}, "variant.base_url"),
        ({"backend": "openai", "base_url": "http://h/v1"}, "variant.endpoint_model"),
        (
            {"backend": "openai", "base_url": "http://h/v1", "endpoint_model": "m", "embedding": "model"},
            "variant.embedding",
        ),
        ({"max_attempts": 0}, "variant.max_attempts"),
        ({"name": "larger_model"}, "variant.backend"),
        ({"name": "self_output", "verify": False, "accept": "wrong"}, "variant.accept"),
        ({"name": "filter_correct", "accept": "any"}, "variant.filter_correct"),
        ({"name": "filter_correct", "on_no_correct": "ground_truth"}, "variant.filter_correct"),
        ({"compat": "paper", "keep_fraction": 0.4}, "variant.keep_fraction"),
    ],
)
def test_what_cannot_work_is_refused_with_its_key(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        VariantConfig(**changes)
    assert caught.value.subject == key
    assert caught.value.remedy


def test_a_prompt_file_replaces_the_prompt(tmp_path: Path) -> None:
    file = tmp_path / "prompt.j2"
    file.write_text("Five tasks, bitte: {{ examples }}", encoding="utf-8")
    config = VariantConfig(name="self_instruct", instruct_prompt_path=str(file))
    assert config.settings().instruct_prompt == "Five tasks, bitte: {{ examples }}"
    with pytest.raises(ConfigError, match="instruct_prompt_path"):
        VariantConfig(name="self_instruct", instruct_prompt_path=str(tmp_path / "none")).settings()


def test_which_variants_make_noise_pointless() -> None:
    assert VariantConfig(name="self_output").rewrites_responses
    assert not VariantConfig(name="self_output", on_no_correct="ground_truth").rewrites_responses
    assert not VariantConfig(name="rephrase").rewrites_responses
    assert not VariantConfig(name="robustft").rewrites_responses
