"""What every variant promises, whatever it does."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_variants import (
    CHOICE,
    NUMBER,
    RuleBackend,
    entry_of,
    make_corpus,
    make_variant,
    question_number,
    responses,
    row,
)

from tokensieve.completions.records import Completion, Messages
from tokensieve.config.variant import VariantConfig
from tokensieve.dataset import features
from tokensieve.errors import ConfigError, DataError
from tokensieve.records import Corpus
from tokensieve.store import Artefact, Store
from tokensieve.variant import VARIANTS, define_variant, read_variant_ledger, read_variant_report

LABELS = "ABCD"
ROWS = [row(number, LABELS[number % 4]) for number in range(8)]
ENDPOINT = {"base_url": "http://localhost:8000/v1", "endpoint_model": "big"}
OPTIONS: dict[str, dict[str, Any]] = {
    "self_output": {"num_samples": 3, "temperature": 0.7},
    "larger_model": {"num_samples": 2, "temperature": 0.7, "backend": "openai", **ENDPOINT},
    "rephrase": {},
    "filter_correct": {},
    "self_instruct": {"num_new": 5, "blocked_words": []},
    "robustft": {},
    "self_label": {},
    "self_select": {},
    "self_rag": {},
}
WITH_FALLBACK = ("self_output", "larger_model", "rephrase", "self_label", "self_rag")
WITH_BACKEND = [name for name in VARIANTS if name != "ground_truth"]


def knows(messages: Messages, sample: int) -> str:
    """Right about questions 0 to 5, wrong about 6 and 7; lists new tasks when asked to."""
    text = messages[-1]["content"]
    if "numbered list" in text:
        words = [f"w{len(text)}x{place}" for place in range(4)]
        return "\n".join(f"{at + 1}. Task {word} of {word[::-1]} é 東京" for at, word in enumerate(words))
    if "Question " not in text:
        return f"An answer to {text}"
    number = question_number(messages)
    shift = 0 if number < 6 else 1
    return f"Réponse {number}, {sample} ☃\nAnswer: {LABELS[(number + shift) % 4]}"


def build(
    folder: Path, name: str, backend: RuleBackend, rows: list[dict[str, Any]] = ROWS, **more: Any
) -> Artefact[Corpus]:
    return make_variant(folder, rows, backend, name=name, **(OPTIONS[name] | more))


def test_the_options_cover_every_variant() -> None:
    assert set(OPTIONS) | {"ground_truth"} == set(VARIANTS)


def test_ground_truth_is_the_corpus_itself(tmp_path: Path) -> None:
    store = Store(tmp_path)
    corpus = make_corpus(store, ROWS)
    variant = define_variant(store, corpus, VariantConfig().settings())
    assert variant is corpus
    assert read_variant_report(variant) == {}
    assert list(read_variant_ledger(variant)) == []


@pytest.mark.parametrize("name", WITH_BACKEND)
def test_rows_are_whole_unique_and_traceable(tmp_path: Path, name: str) -> None:
    variant = build(tmp_path, name, RuleBackend(knows))
    rows = variant.get().rows
    sources = {entry["id"]: entry for entry in ROWS}
    assert rows.features == features()
    assert len(set(rows["id"])) == len(rows) > 0
    for written in rows:
        entry = json.loads(written["provenance"][-1])
        assert entry["stage"] == "variant"
        assert entry["variant"] == name
        assert entry["source"] in sources
        assert {"action", "reason", "num_samples", "num_verified", "chosen", "perplexity"} <= set(entry)
        assert written["messages"][-1]["role"] == "assistant"
        assert written["messages"][-1]["content"].strip()
        if entry["action"] == "new":
            assert set(entry["sources"]) & set(sources)
            continue
        source = sources[written["id"]]
        assert entry["source"] == written["id"]
        assert written["messages"][:-1] == source["messages"][:-1]
        assert written["reference"] == source["reference"]
        assert written["provenance"][:-1] == source["provenance"]


@pytest.mark.parametrize("name", WITH_BACKEND)
def test_the_ledger_has_a_line_for_every_decision(tmp_path: Path, name: str) -> None:
    variant = build(tmp_path, name, RuleBackend(knows))
    ledger = list(read_variant_ledger(variant))
    for line in ledger:
        assert {"id", "action", "reason", "samples", "verified", "chosen", "perplexities"} <= set(line)
        assert len(line["samples"]) == len(line["verified"]) == len(line["perplexities"])
    if name != "self_instruct":
        assert [line["id"] for line in ledger] == [entry["id"] for entry in ROWS]
    kept = [line["id"] for line in ledger if line["action"] != "dropped"]
    assert kept == list(variant.get().rows["id"])
    report = read_variant_report(variant)
    assert report["rows"] == len(ledger)
    assert report["kept"] == len(kept)
    assert report["kept"] + report["dropped"] == report["rows"]
    assert report["kept_fraction"] == len(kept) / len(ledger)
    assert sum(report[key] for key in ("own", "rewritten", "relabelled", "new", "fallback")) == len(kept)


@pytest.mark.parametrize("name", WITH_BACKEND)
def test_the_same_settings_make_the_same_bytes(tmp_path: Path, name: str) -> None:
    made = [build(tmp_path / folder, name, RuleBackend(knows)) for folder in ("one", "two")]
    assert made[0].digest == made[1].digest
    for file in ("data.arrow", "ledger.jsonl", "variant.json"):
        contents = []
        for variant in made:
            variant.get()
            contents.append((variant.store.folder(variant.stamp) / file).read_bytes())
        assert contents[0] == contents[1]


@pytest.mark.parametrize("name", WITH_BACKEND)
def test_the_second_build_asks_nothing(tmp_path: Path, name: str) -> None:
    first = build(tmp_path, name, RuleBackend(knows))
    expected = responses(first)
    silent = RuleBackend(knows)
    again = build(tmp_path, name, silent)
    assert again.is_cached
    assert responses(again) == expected
    assert not again.built_here
    assert silent.asked == []


@pytest.mark.parametrize("name", WITH_BACKEND)
def test_a_lost_cache_asks_nothing_either(tmp_path: Path, name: str) -> None:
    """Completions outlive the artefact: a killed factory resumes without paying twice."""
    first = build(tmp_path, name, RuleBackend(knows))
    expected = responses(first)
    (first.store.folder(first.stamp) / "manifest.json").unlink()
    silent = RuleBackend(knows)
    again = build(tmp_path, name, silent)
    assert responses(again) == expected
    assert again.built_here
    assert silent.asked == []


@pytest.mark.parametrize("name", WITH_BACKEND)
def test_nothing_is_asked_before_the_artefact_is_built(tmp_path: Path, name: str) -> None:
    backend = RuleBackend(knows)
    build(tmp_path, name, backend)
    assert backend.asked == []
    assert not (tmp_path / "completions.sqlite").exists()


@pytest.mark.parametrize("name", WITH_BACKEND)
def test_what_changes_the_content_changes_the_stamp(tmp_path: Path, name: str) -> None:
    known = build(tmp_path, name, RuleBackend(knows)).digest
    changed: dict[str, dict[str, Any]] = {
        "temperature": {"temperature": 0.3},
        "max_new_tokens": {"max_new_tokens": 17},
        "seed": {"seed": 9},
    }
    if name in ("self_output", "larger_model", "rephrase"):
        changed |= {
            "pick": {"pick": "random"},
            "accept": {"accept": "any"},
            "fallback": {"on_no_correct": "ground_truth"},
        }
    if name == "rephrase":
        changed["prompt"] = {"rephrase_prompt": "Again: {{ response }}"}
    if name == "robustft":
        switches = ("use_checker", "use_reasoning", "use_context", "use_review", "use_selection")
        changed |= {key: {key: False} for key in switches}
        changed |= {
            "keep_fraction": {"keep_fraction": 0.4},
            "experts": {"num_experts": 4},
            "compat": {"compat": "paper"},
        }
        changed["prompt"] = {"review_prompt": "{{ question }} {{ candidates }}"}
    if name == "self_instruct":
        changed |= {"novelty": {"novelty_threshold": 0.6}, "blocked": {"blocked_words": ["sword"]}}
    digests = {key: build(tmp_path, name, RuleBackend(knows), **change).digest for key, change in changed.items()}
    digests["model"] = build(tmp_path, name, RuleBackend(knows, "another")).digest
    digests["corpus"] = build(tmp_path, name, RuleBackend(knows), rows=ROWS[:-1]).digest
    digests["task"] = make_variant(tmp_path, ROWS, RuleBackend(knows), NUMBER, name=name, **OPTIONS[name]).digest
    assert len(set(digests.values()) | {known}) == len(digests) + 1


def test_what_a_variant_does_not_read_leaves_its_stamp(tmp_path: Path) -> None:
    known = build(tmp_path, "self_output", RuleBackend(knows)).digest
    for change in ({"keep_fraction": 0.9}, {"rephrase_prompt": "x"}, {"max_concurrency": 3}, {"timeout_seconds": 5.0}):
        assert build(tmp_path, "self_output", RuleBackend(knows), **change).digest == known


@pytest.mark.parametrize("name", WITH_BACKEND)
@pytest.mark.parametrize(
    "answer",
    ["", "  \n", Completion(text="Answer: A", is_complete=False, mean_nll=1.0, mean_entropy=1.0)],
    ids=["empty", "blank", "cut off"],
)
def test_nothing_usable_is_one_clear_error(tmp_path: Path, name: str, answer: str | Completion) -> None:
    rows = [row(number, "B") for number in range(3)]
    with pytest.raises(DataError, match=rf"variant {name}: must keep at least one.*none kept: .*Remedy: ") as caught:
        build(tmp_path, name, RuleBackend(lambda *_: answer), rows).get()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", WITH_FALLBACK)
def test_the_fallback_keeps_every_row_as_it_was(tmp_path: Path, name: str) -> None:
    variant = build(tmp_path, name, RuleBackend(lambda *_: ""), on_no_correct="ground_truth")
    assert responses(variant) == {entry["id"]: entry["messages"][-1]["content"] for entry in ROWS}
    assert read_variant_report(variant)["fallback"] == len(ROWS)
    assert entry_of(variant, "train/0")["action"] == "fallback"


@pytest.mark.parametrize("name", ["self_output", "larger_model", "rephrase", "filter_correct", "self_select"])
def test_an_all_wrong_model_leaves_nothing(tmp_path: Path, name: str) -> None:
    wrong = RuleBackend(lambda messages, _: f"Answer: {LABELS[(question_number(messages) + 1) % 4]}")
    with pytest.raises(DataError, match="none kept: 8 "):
        build(tmp_path, name, wrong).get()


@pytest.mark.parametrize("name", WITH_BACKEND)
def test_a_corpus_without_a_task_compares_texts(tmp_path: Path, name: str) -> None:
    def repeat(messages: Messages, sample: int) -> str:
        return knows(messages, sample) if name == "self_instruct" else "I SAY so. \n\n answer: a"

    if name == "filter_correct":
        with pytest.raises(ConfigError, match=r"variant\.verify: .*Remedy: set dataset\.task\."):
            make_variant(tmp_path, ROWS, RuleBackend(repeat), None, name=name)
        return
    variant = make_variant(tmp_path, ROWS, RuleBackend(repeat), None, name=name, **OPTIONS[name] | {"verify": False})
    found = variant.get()
    if name == "self_select":
        assert list(found.rows["id"]) == ["train/0", "train/4"]


@pytest.mark.parametrize("name", WITH_BACKEND)
def test_a_variant_needs_a_back_end(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    settings = VariantConfig(name=name, **OPTIONS[name]).settings()  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"variant\.backend"):
        define_variant(store, make_corpus(store, ROWS), settings, task=CHOICE)


@pytest.mark.parametrize("name", WITH_BACKEND)
def test_more_rows_than_are_asked_at_once(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build(tmp_path / "whole", name, RuleBackend(knows))
    expected = responses(whole), list(read_variant_ledger(whole))
    monkeypatch.setattr("tokensieve.variant.bench._COMPLETIONS_AT_ONCE", 3)
    monkeypatch.setattr("tokensieve.variant.noise_tally._ROWS_AT_ONCE", 2)
    split = build(tmp_path / "split", name, RuleBackend(knows))
    assert (responses(split), list(read_variant_ledger(split))) == expected


def test_a_killed_build_goes_on_where_it_was(tmp_path: Path) -> None:
    calls: Iterator[int] = iter(range(100))

    def dies(messages: Messages, sample: int) -> str:
        if next(calls) == 10:
            raise KeyboardInterrupt
        return knows(messages, sample)

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, "self_output", RuleBackend(dies)).get()
    resumed = RuleBackend(knows)
    variant = build(tmp_path, "self_output", resumed)
    assert len(variant.get()) == 6
    assert len(resumed.asked) == 3 * len(ROWS) - 10


def test_the_summary_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="tokensieve.variant"):
        build(tmp_path, "self_output", RuleBackend(knows)).get()
    assert "variant self_output: kept 6 of 8 rows, dropped 2, rewritten 6 (2 no correct sample)" in caplog.text


def test_an_unreadable_reference_is_named(tmp_path: Path) -> None:
    rows = [row(0, "A"), row(1, "B") | {"reference": json.dumps({"answer": "Z"})}]
    with pytest.raises(DataError, match=r"row train/1, reference\.answer: must be one of"):
        build(tmp_path, "self_output", RuleBackend(knows), rows).get()
    with pytest.raises(DataError, match="row train/1: the reference must be a JSON object"):
        build(tmp_path, "self_output", RuleBackend(knows), [rows[0], rows[1] | {"reference": "[1]"}]).get()


def test_rows_without_a_prompt_cannot_be_asked(tmp_path: Path) -> None:
    rows = [row(0, "A") | {"messages": [{"role": "assistant", "content": "Plain text."}]}]
    with pytest.raises(DataError, match="a row that is a response only"):
        build(tmp_path, "self_output", RuleBackend(knows), rows).get()


def test_numbers_that_are_none_never_reach_the_files(tmp_path: Path) -> None:
    nan = float("nan")
    odd = RuleBackend(
        lambda messages, at: Completion(text=knows(messages, at), is_complete=True, mean_nll=nan, mean_entropy=nan)
    )
    rows = [row(0, "B", answer="A", noise="A"), row(1, "B")]
    variant = build(tmp_path, "robustft", odd, rows, use_selection=False)
    variant.get()
    folder = variant.store.folder(variant.stamp)
    texts = [*(folder / "ledger.jsonl").read_text().splitlines(), (folder / "variant.json").read_text()]
    for text in texts:
        json.loads(text, parse_constant=pytest.fail)  # called for NaN and Infinity
    assert entry_of(variant, "train/0")["perplexity"] is None


def test_two_processes_build_one_variant(tmp_path: Path) -> None:
    program = """
import sys
sys.path.insert(0, "tests")
from pathlib import Path
from fake_variants import RuleBackend, responses
from test_variant import build, knows
print(len(responses(build(Path(sys.argv[1]), "robustft", RuleBackend(knows)))))
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1], text=True) for _ in range(2)
    ]
    counts = [process.communicate()[0].split()[-1] for process in both]
    assert counts[0] == counts[1]
    assert [process.returncode for process in both] == [0, 0]


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[1] / "conf" / "variant").glob("*.yaml")), ids=lambda file: file.stem
)
def test_every_option_fits_the_schema(file: Path) -> None:
    from omegaconf import OmegaConf

    needed = ENDPOINT if file.stem == "larger_model" else {}
    merged = OmegaConf.merge(OmegaConf.structured(VariantConfig), OmegaConf.load(file), needed)
    config = OmegaConf.to_object(merged)
    assert isinstance(config, VariantConfig)
    assert config.name == config.settings().name == file.stem


def test_every_variant_has_an_option() -> None:
    assert {file.stem for file in (Path(__file__).parents[1] / "conf" / "variant").glob("*.yaml")} == set(VARIANTS)


def test_the_schema_loads_no_heavy_library() -> None:
    code = "import sys, tokensieve.config.variant, tokensieve.variant; print([m for m in sys.modules if m in sys.argv])"
    heavy = ["torch", "transformers", "datasets", "sklearn", "scipy", "pandas", "rapidfuzz"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_lab_model_behind_its_own_back_end(tmp_path: Path) -> None:
    """The packaged model knows its own facts: it finds the flipped label, and gives the true one in its own words."""
    import torch

    from tokensieve.completions.local import LocalBackend
    from tokensieve.dataset import define_corpus
    from tokensieve.model import load_base, load_tokenizer
    from tokensieve.sources import LabSource
    from tokensieve.tasks import TASKS

    def load() -> Any:
        torch.set_num_threads(1)
        choices = {"dtype": "float32", "attention": "sdpa", "device": torch.device("cpu"), "quantise": "none"}
        model = load_base("lab", None, **choices, double_quantise=True, trust_remote_code=False)
        return model, load_tokenizer("lab", None, None)

    store = Store(tmp_path / "cache")
    source = LabSource("lab_choice", "plain", 0, {"train": 6, "validation": 1, "test": 1})
    templates = {"prompt": "{{ question }}", "response": "{{ response }}"}
    nothing: dict[str, Any] = {"system_prompt": None, "reference": {}, "id_field": None, "limit": None}
    clean = define_corpus(
        store,
        source,
        "train",
        task="lab_choice",
        val_fraction=0,
        test_fraction=0,
        seed=0,
        **templates,
        **nothing,
    )
    rows = [dict(entry) for entry in clean.get().rows]
    truth = rows[2]["messages"][-1]["content"]
    wrong = next(letter for letter in LABELS if not truth.endswith(letter))
    rows[2]["messages"][-1]["content"] = f"Answer: {wrong}"
    settings = VariantConfig(
        name="robustft", use_reasoning=False, use_context=False, use_review=False, use_selection=False
    ).settings()
    backend = LocalBackend(load, {"model": "lab"}, batch_size=8)
    variant = define_variant(
        store, make_corpus(store, rows), settings, backend=backend, completions=tmp_path / "c", task=TASKS["lab_choice"]
    )
    assert responses(variant)[rows[2]["id"]] == truth
    flagged = [line["id"] for line in read_variant_ledger(variant) if line["flagged"]]
    assert flagged == [rows[2]["id"], rows[5]["id"]]  # the second for a rumour that the model believes
