"""lm-evaluation-harness as a back end: the same log-likelihoods, its tasks as our results, clear lines for what fails."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generating import generate
from tiny_checkpoint import tiny_model, tiny_tokenizer
from tokenizers.processors import TemplateProcessing

from tokensieve.errors import ConfigError, DataError, TokensieveError
from tokensieve.harness import evaluate_with_harness, find
from tokensieve.harness.find import Found
from tokensieve.harness.results import collect_results
from tokensieve.log_likelihood import encode_continuation, pick_choice, score_continuations
from tokensieve.model import quiet_libraries

HAS_HARNESS = importlib.util.find_spec("lm_eval") is not None
needs_harness = pytest.mark.skipif(not HAS_HARNESS, reason="lm-eval is not installed: pip install -e '.[eval]'")
# what lm-eval and its own libraries say when they are imported is theirs
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

ITEMS = [
    {"question": "What is 2 + 3?", "choices": ["5", "four and a half", "none of them"], "answer": 0},
    {"question": "select name from ", "choices": ["t", "tables", "where"], "answer": 1},
    {"question": "Write a function", "choices": [" to add", "add", "numbers.", "Größe 🙂"], "answer": 2},
    {"question": "def add(a, b):\n", "choices": ["return a + b", "return"], "answer": 0},
    {"question": "The answer is", "choices": ["5", "6"], "answer": 1},
]
CHOICE = """
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
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_bytes, aggregation: mean, higher_is_better: true}}
metadata: {{version: 2.0}}
"""
GENERATE = """
task: tiny_generate
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8, do_sample: false}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
ROLLING = """
task: tiny_rolling
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list:
  - {{metric: word_perplexity}}
metadata: {{version: 1.0}}
"""
GROUP = """
group: tiny_group
task: [tiny_choice, tiny_other]
aggregate_metric_list:
  - {metric: acc_norm, weight_by_size: true}
metadata: {version: 1.0}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Task declarations over local rows, and a cache of their own."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = tmp_path / "items.jsonl"
    data.write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps(item) + "\n" for item in ITEMS[:2]))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "choice.yaml").write_text(CHOICE.format(name="tiny_choice", data=data))
    (tasks / "other.yaml").write_text(CHOICE.format(name="tiny_other", data=few))
    (tasks / "generate.yaml").write_text(GENERATE.format(data=data))
    (tasks / "rolling.yaml").write_text(ROLLING.format(data=data))
    (tasks / "group.yaml").write_text(GROUP)
    (tasks / "outer.yaml").write_text(
        GROUP.replace("tiny_group", "tiny_outer").replace("tiny_choice, tiny_other", "tiny_group")
    )
    (tasks / "loose.yaml").write_text("group: tiny_loose\ntask: [tiny_choice, tiny_other]\n")
    (tasks / "lost.yaml").write_text(CHOICE.format(name="tiny_lost", data=tmp_path / "nowhere.jsonl"))
    (tasks / "programs.yaml").write_text(CHOICE.format(name="tiny_programs", data=data) + "unsafe_code: true\n")
    return tasks


def evaluate(folder: Path, *tasks: str, model: Any = None, tokenizer: Any = None, **changes: Any) -> Any:
    options: dict[str, Any] = {"num_items": None, "num_fewshot": None, "batch_size": 4, "include_path": folder}
    return evaluate_with_harness(
        model or tiny_model(), tokenizer or tiny_tokenizer(), list(tasks), **(options | changes)
    )


# --- agreement --------------------------------------------------------------------------------------------------------


def bos_tokenizer() -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


def softcapped_model(limit: int) -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, head_dim=8,
        num_key_value_heads=2, sliding_window=8, final_logit_softcapping=3.0, max_position_embeddings=limit,
        bos_token_id=0, eos_token_id=1, pad_token_id=2, initializer_range=0.4,
    )  # fmt: skip
    return Gemma2ForCausalLM(config).eval()


def texts() -> list[tuple[str, str]]:
    """Pairs with what the encoding can stumble over: spaces, no context, a start token in the text, unicode, length."""
    pairs = [(item["question"], " " + choice) for item in ITEMS for choice in item["choices"]]  # type: ignore[attr-defined]
    pairs += [("", "def add"), ("", "<s>def"), ("<s>What is", " 5"), ("The answer is  ", "5"), ("a\n\n", "b")]
    pairs += [("add numbers. " * 30, "The answer is 5."), ("What is 2 + 3? The answ", "er is 5"), ("x", "🙂 é")]
    return [*pairs, *((context, continuation[::-1]) for context, continuation in pairs[:6])]


@needs_harness
@pytest.mark.parametrize("make_tokenizer", [tiny_tokenizer, bos_tokenizer])
@pytest.mark.parametrize("make_model", [lambda: tiny_model(max_position_embeddings=48), lambda: softcapped_model(48)])
def test_log_likelihoods_agree_with_the_harness(make_tokenizer: Any, make_model: Any) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = make_model(), make_tokenizer()
    requests = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0) for pair in texts()]
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3).loglikelihood(requests, disable_tqdm=True)
    pairs = [encode_continuation(tokenizer, *pair) for pair in texts()]
    assert any(len(context) + len(continuation) > 49 for context, continuation in pairs)
    ours = score_continuations(model, pairs, batch_size=5)
    for (their_sum, their_greedy), our in zip(theirs, ours, strict=True):
        assert our.log_probability == pytest.approx(their_sum, abs=1e-4)
        assert our.is_greedy == their_greedy


@needs_harness
def test_choices_agree_with_the_harness_item_by_item(folder: Path) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    (found,) = evaluate(folder, "tiny_choice", model=model)
    expected: dict[str, list[float]] = {"sum": [], "per_character": [], "per_byte": []}
    for item in ITEMS:
        choices: Any = item["choices"]
        pairs = [encode_continuation(tokenizer, str(item["question"]), " " + choice) for choice in choices]
        scores = score_continuations(model, pairs, batch_size=8)
        for by, kept in expected.items():
            kept.append(float(pick_choice(scores, by, choices) == item["answer"]))  # type: ignore[arg-type]
    assert found.item_scores == expected["per_character"]
    means = found.decoding["harness_metrics"]
    assert means["acc,none"] == pytest.approx(np.mean(expected["sum"]))
    assert means["acc_bytes,none"] == pytest.approx(np.mean(expected["per_byte"]))
    assert 0 < sum(found.item_scores) < len(ITEMS)


# --- results ----------------------------------------------------------------------------------------------------------


@needs_harness
def test_a_task_becomes_a_result(folder: Path) -> None:
    (found,) = evaluate(folder, "tiny_choice", num_items=3, seed=7)
    assert (found.task, found.metric, found.version) == ("tiny_choice", "acc_norm", 2)
    assert found.item_ids == ["tiny_choice-0", "tiny_choice-1", "tiny_choice-2"]
    assert found.value == pytest.approx(np.mean(found.item_scores))
    assert found.low <= found.value <= found.high
    assert all(
        output.strip() in map(str.strip, item["choices"]) for output, item in zip(found.outputs, ITEMS, strict=False)
    )  # type: ignore[attr-defined]
    assert found.decoding["num_items"] == 3
    assert found.decoding["seed"] == 7
    assert found.decoding["num_fewshot"] == 0
    json.dumps(found.decoding)


@needs_harness
def test_a_group_pools_its_items(folder: Path) -> None:
    pooled, generated = evaluate(folder, "tiny_group", "tiny_generate")
    alone = [evaluate(folder, name)[0] for name in ("tiny_choice", "tiny_other")]
    assert pooled.task == "tiny_group"
    assert pooled.item_ids == [*alone[0].item_ids, *alone[1].item_ids]
    assert pooled.item_scores == [*alone[0].item_scores, *alone[1].item_scores]
    assert pooled.value == pytest.approx(pooled.decoding["harness_metrics"]["acc_norm,none"])
    assert generated.task == "tiny_generate"


@needs_harness
def test_groups_of_groups_pool_and_groups_without_a_score_do_not(folder: Path) -> None:
    (outer,), (inner,) = evaluate(folder, "tiny_outer"), evaluate(folder, "tiny_group")
    assert (outer.task, outer.item_ids, outer.value) == ("tiny_outer", inner.item_ids, inner.value)
    assert [result.task for result in evaluate(folder, "tiny_loose")] == ["tiny_choice", "tiny_other"]


@needs_harness
def test_generated_texts_are_kept_and_equal_our_own(folder: Path) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    (found,) = evaluate(folder, "tiny_generate", model=model)
    prompts = [tokenizer.encode(str(item["question"])) for item in ITEMS]
    ours = generate(model, tokenizer, prompts, max_new_tokens=8, stop=["\n"], batch_size=2)
    assert list(found.outputs) == ours
    assert found.metric == "exact_match"


@needs_harness
def test_a_metric_that_is_no_score_of_items_has_no_items(folder: Path) -> None:
    (found,) = evaluate(folder, "tiny_rolling")
    assert found.metric == "word_perplexity"
    assert found.value > 1
    assert found.num_items == 0
    assert math.isnan(found.low)


@needs_harness
def test_examples_are_drawn_by_the_seed_and_the_callers_random_states_stay(folder: Path) -> None:
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = random.random(), np.random.random(), torch.rand(1).item()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    model = tiny_model().train()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    (found,) = evaluate(folder, "tiny_choice", model=model, num_fewshot=2)
    assert (random.random(), np.random.random(), torch.rand(1).item()) == expected
    assert found.decoding["num_fewshot"] == 2
    assert model.training
    assert logging.getLogger("lm_eval.models.huggingface").filters == []


@needs_harness
def test_an_adapter_is_evaluated(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    lora = LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    with quiet_libraries():
        adapted = get_peft_model(tiny_model(), lora).eval()
    (found,) = evaluate(folder, "tiny_rolling", model=adapted)
    (base,) = evaluate(folder, "tiny_rolling")
    assert found.value != pytest.approx(base.value, rel=1e-3)


@needs_harness
def test_cut_contexts_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="tokensieve"):
        evaluate(folder, "tiny_choice", max_length=16)
    assert "lost their beginnings" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="tokensieve"):
        evaluate(folder, "tiny_choice")
    assert caplog.text == ""


# --- what fails -------------------------------------------------------------------------------------------------------


@needs_harness
@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        (["tiny_lost"], "tiny_lost must load in lm-evaluation-harness; received .FileNotFoundError"),
        (["tiny_programs"], "runs the model's programs outside the sandbox; received 'tiny_programs'"),
        (["tiny_choice", "tiny_choice"], "must name each task once; received 'tiny_choice'"),
        (["tiny_group", "tiny_other"], "tiny_group and tiny_other both have tiny_other"),
        ([], "must name at least one task"),
    ],
)
def test_tasks_that_cannot_be_had(folder: Path, tasks: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        evaluate(folder, *tasks)
    assert "\n" not in str(caught.value)


@needs_harness
@pytest.mark.parametrize(
    ("task", "changes", "said"),
    [
        ("tiny_choice", {"num_fewshot": 50}, "Sample larger than population"),
        ("tiny_choice", {"max_length": 2}, r"assert len\(continuation_enc\) <= self.max_length"),
        ("tiny_generate", {"max_length": 6}, "requested max tokens to generate"),
    ],
)
def test_items_that_cannot_be_put_to_the_model(folder: Path, task: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(
        DataError, match=f"tasks {task}: must run in lm-evaluation-harness; received .*{said}"
    ) as caught:
        evaluate(folder, task, **changes)
    assert "\n" not in str(caught.value)


@needs_harness
def test_nothing_is_printed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tokenizer = tiny_tokenizer()
    capfd.readouterr()  # the training of the tokenizer prints
    evaluate(folder, "tiny_choice", "tiny_generate", tokenizer=tokenizer, chat_template=True, num_fewshot=1)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""


@needs_harness
def test_no_batch(folder: Path) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        evaluate(folder, "tiny_choice", batch_size=0)


@needs_harness
def test_an_unknown_task_names_its_neighbours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    # the harness's own 14,000 files take half a minute to read; the test's are enough
    monkeypatch.setattr(find, "_read_index", lambda path, _: TaskManager(include_path=path, include_defaults=False))
    with pytest.raises(ConfigError, match=r"received 'tiny_choise'. Remedy: did you mean tiny_choice"):
        evaluate(folder, "tiny_choise")
    with pytest.raises(ConfigError, match="lm-eval ls tasks"):
        evaluate(folder, "qqqqqqqqqqqqqq")


@needs_harness
def test_an_empty_task(folder: Path) -> None:
    source = folder.parent / "items.jsonl"
    (folder / "empty.yaml").write_text(
        CHOICE.format(name="tiny_empty", data=source) + "process_docs: !function empty.drop_all\n"
    )
    (folder / "empty.py").write_text("def drop_all(rows):\n    return rows.select([])\n")
    with pytest.raises(TokensieveError, match="tiny_empty"):
        evaluate(folder, "tiny_empty")


def test_without_the_harness_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"eval=lm_eval: needs the package lm-eval. Remedy: pip install -e '\.\[eval\]'"
    ):
        evaluate(tmp_path, "arc_easy")


@needs_harness
def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"eval\.include_path: must be an existing folder"):
        evaluate(tmp_path / "none", "arc_easy")


# --- headline metrics, on results as the harness writes them ----------------------------------------------------------


def raw_results(samples: list[dict[str, Any]], version: object = "1.5", **metrics: float) -> dict[str, Any]:
    return {
        "samples": {"t": samples},
        "results": {"t": {"name": "t", "sample_len": 2, "acc_stderr,none": "N/A"} | metrics},
        "versions": {"t": version},
        "n-shot": {"t": 5},
    }


def sample(doc: int, filter_name: str = "none", **metrics: object) -> dict[str, Any]:
    return {
        "doc_id": doc, "filter": filter_name, "metrics": list(metrics), "resps": [["text"]], "arguments": [("a", "b")]
    } | metrics  # fmt: skip


@needs_harness
@pytest.mark.parametrize(
    ("samples", "metric", "scores"),
    [
        ([sample(0, acc=1, acc_norm=0.0), sample(1, acc=True, acc_norm=1.0)], "acc_norm", [0.0, 1.0]),
        ([sample(0, "strict", em=1.0), sample(0, "flexible", em=0.0)], "em", [1.0]),
        ([sample(0, f1=("a", "b"), acc=np.float64(0.25))], "acc", [0.25]),
        ([sample(0, bleu=41.5, acc=1.0)], "acc", [1.0]),
        ([sample(0, em=1.0), sample(1, em=math.nan)], "none", []),
        ([sample(0, em=1.0), sample(1)], "em", [1.0]),
    ],
)
def test_headline_metric(samples: list[dict[str, Any]], metric: str, scores: list[float]) -> None:
    (found,) = collect_results(Found("t", None, {"t": None}), raw_results(samples), {})
    assert found.metric == metric
    assert found.item_scores == scores
    assert found.version == 1


@needs_harness
def test_versions_that_are_no_numbers() -> None:
    (found,) = collect_results(Found("t", None, {"t": None}), raw_results([sample(0, acc=1)], version="Yaml"), {})
    assert found.version == 0
    assert found.decoding["task_version"] == "Yaml"
