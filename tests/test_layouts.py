from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tokensieve.dataset.examples import ExampleMaker
from tokensieve.dataset.layouts import LAYOUTS, detect_layout, read_turns
from tokensieve.errors import ConfigError, DataError

PAIR = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
ROWS: dict[str, dict[str, Any]] = {
    "messages": {"messages": PAIR},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    "alpaca": {"instruction": "Hi", "input": "", "output": "Hello"},
    "prompt_completion": {"prompt": "Hi", "completion": "Hello"},
    "question_answer": {"question": "Hi", "answer": "Hello"},
    "instruction_response": {"instruction": "Hi", "response": "Hello"},
    "text": {"text": "Hi and hello"},
    "transcript": {"text": "### Human: Hi\n### Assistant: Hello"},
}


def maker(**changes: Any) -> ExampleMaker:
    settings: dict[str, Any] = {
        "split": "train", "task": None, "prompt": None, "response": None, "system_prompt": None, "layout": "auto",
        "columns": {}, "reference": {}, "id_field": None,
    }  # fmt: skip
    return ExampleMaker(**(settings | changes))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_becomes_the_same_turns(layout: str) -> None:
    expected = [{"role": "assistant", "content": "Hi and hello"}] if layout == "text" else PAIR
    assert read_turns(ROWS[layout], layout, "row 1") == expected


@pytest.mark.parametrize("layout", [name for name, layout in LAYOUTS.items() if layout.detected])
def test_every_layout_is_told_by_its_columns(layout: str) -> None:
    assert detect_layout(ROWS[layout] | {"id": 1, "input_ids": None}, (), "row 1") == layout
    assert maker().make(ROWS[layout], "row 1", 0)["messages"] == read_turns(ROWS[layout], layout, "row 1")


@pytest.mark.parametrize(
    ("row", "candidates"),
    [
        ({"instruction": "a", "output": "b", "text": "c"}, "alpaca, text"),
        ({"messages": PAIR, "prompt": "a", "completion": "b"}, "messages, prompt_completion"),
        ({"instruction": "a", "output": "b", "response": "c"}, "alpaca, instruction_response"),
    ],
)
def test_ambiguous_columns_are_an_error_with_the_candidates_and_the_key(row: dict[str, Any], candidates: str) -> None:
    with pytest.raises(ConfigError, match=rf"dataset\.layout: more than one.*rows\.jsonl:1.*one of {candidates}"):
        detect_layout(row, (), "rows.jsonl:1")


def test_unknown_columns_name_what_is_known() -> None:
    with pytest.raises(ConfigError, match=r"no layout fits.*\['a'\].*question_answer \(question, answer\)"):
        maker().make({"a": 1, "question": None}, "rows.jsonl:1", 0)


def test_a_null_column_is_not_there() -> None:
    row = {"messages": None, "prompt": "a", "completion": "b", "text": None}
    assert detect_layout(row, (), "row 1") == "prompt_completion"


def test_mapping_beats_detection_and_templates_beat_both() -> None:
    row = {"question": "wrong", "answer": "wrong", "query": "Hi", "reply": {"best": "Hello"}, "rules": "Be kind."}
    columns = {"prompt": "query", "completion": "reply.best"}
    assert maker(columns=columns).make(row, "row 1", 0)["messages"] == PAIR
    with_system = maker(columns=columns | {"system": "rules"}).make(row, "row 1", 0)["messages"]
    assert with_system == [{"role": "system", "content": "Be kind."}, *PAIR]
    templates = maker(columns=columns, prompt="{{ prompt }}!", response="{{ completion }}!").make(row, "row 1", 0)
    assert [turn["content"] for turn in templates["messages"]] == ["Hi!", "Hello!"]
    partial = maker(columns={"answer": "query"}).make({"question": "Hi", "query": "Hello"}, "row 1", 0)
    assert partial["messages"] == PAIR


def test_a_mapped_column_that_is_missing_is_a_bad_row() -> None:
    with pytest.raises(DataError, match=r"rows\.csv:7.*'reply'.*dataset\.columns"):
        maker(columns={"answer": "reply"}).make({"question": "Hi"}, "rows.csv:7", 0)


def test_the_system_prompt_of_a_row_is_kept_and_beats_the_config_s() -> None:
    row = ROWS["question_answer"] | {"system": "From the row."}
    turns = maker(system_prompt="From the config.").make(row, "row 1", 0)["messages"]
    assert [turn["content"] for turn in turns] == ["From the row.", "Hi", "Hello"]
    for blank in ("", None, "  "):
        turns = maker(system_prompt="From the config.").make(row | {"system": blank}, "row 1", 0)["messages"]
        assert turns[0]["content"] == "From the config."


def test_content_parts_of_chat_apis_are_joined() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    row = {"messages": [PAIR[0], {"role": "assistant", "content": parts}]}
    assert read_turns(row, "messages", "row 1") == PAIR


@pytest.mark.parametrize(
    ("layout", "row", "said"),
    [
        ("messages", {"messages": "Hi"}, "no list of turns"),
        ("messages", {"messages": [{"role": "tool", "content": "x"}]}, "role 'tool'"),
        ("messages", {"messages": [{"role": "user", "content": None}]}, "user turn that is NoneType"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "user turn that is list"),
        ("messages", {"messages": ["Hi"]}, "no list of turns"),
        ("sharegpt", {"conversations": [{"from": "tool", "value": "x"}]}, "speaker 'tool'"),
        ("sharegpt", {"conversations": [{"value": "x"}]}, "speaker None"),
        ("alpaca", {"instruction": "a", "output": 5}, "assistant turn that is int"),
        ("alpaca", {"instruction": "a", "input": ["b"], "output": "c"}, "user turn that is list"),
        ("text", {"text": None, "x": 1}, "without text"),
        ("transcript", {"text": "Hi there"}, "### Human"),
        ("transcript", {"text": "Hi ### Human: x"}, "### Human"),
    ],
)
def test_rows_that_do_not_fit_say_why(layout: str, row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=rf"rows\.jsonl:3.*layout {layout}") as caught:
        read_turns(row, layout, "rows.jsonl:3")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([], "a last turn of nobody"),
        ([PAIR[0]], "a last turn of user"),
        ([PAIR[0], {"role": "assistant", "content": " \n"}], "non-empty assistant turn"),
        ([{"role": "user", "content": " "}, PAIR[1]], "a blank turn of user"),
        ([PAIR[0], {"role": "assistant", "content": ""}, *PAIR], "a blank turn of assistant"),
    ],
)
def test_turns_that_cannot_be_trained(turns: list[dict[str, str]], said: str) -> None:
    with pytest.raises(DataError, match=r"row 9: .*Remedy") as caught:
        maker(layout="messages").make({"messages": turns}, "row 9", 0)
    assert said in str(caught.value)


def test_half_a_surrogate_pair_is_a_bad_row() -> None:
    row = json.loads('{"question": "\\ud83d", "answer": "b"}')
    with pytest.raises(DataError, match="row 1: must be valid Unicode"):
        maker().make(row, "row 1", 0)


def test_reference_takes_columns_paths_and_expressions() -> None:
    row = ROWS["question_answer"] | {"deep": {"er": [1, 2]}, "place": 2, "cell": '["x", "y"]'}
    reference = {"a": "deep.er", "b": "{{ place | letter }}", "c": "{{ cell | from_json }}", "d": "{{ 1.5 }}"}
    example = maker(reference=reference).make(row, "row 1", 0)
    assert json.loads(example["reference"]) == {"a": [1, 2], "b": "C", "c": ["x", "y"], "d": 1.5}
    for broken, said in (("{{ nothing }}", "not there"), ("{{ place | from_json }}", "dataset.reference.x"), ("{{ -1 | letter }}", "no letter")):  # fmt: skip
        with pytest.raises(DataError, match="row 1") as caught:
            maker(reference={"x": broken}).make(row, "row 1", 0)
        assert said in str(caught.value)


def test_templates_refuse_null_and_say_what_does_not_compile() -> None:
    both = {"prompt": "{{ a }}", "response": "{{ b }}"}
    with pytest.raises(DataError, match=r"rows\.parquet:5: dataset\.response must fit.*null"):
        maker(**both).make({"a": "x", "b": None}, "rows.parquet:5", 0)
    with pytest.raises(ConfigError, match=r"dataset\.prompt: must be a Jinja template"):
        maker(prompt="{{ a", response="b")
    with pytest.raises(ConfigError, match=r"dataset\.reference\.answer: must be a Jinja template"):
        maker(reference={"answer": "{{ a | }}"})
    with pytest.raises(ConfigError, match="goes together"):
        maker(prompt="{{ a }}")
    with pytest.raises(DataError, match="row 1"):  # sandboxed
        maker(prompt="{{ ''.__class__.__mro__ }}", response="b").make({"a": 1}, "row 1", 0)


def test_provenance_names_the_row(tmp_path: Path) -> None:
    example = maker(id_field="meta.key").make(ROWS["question_answer"] | {"meta": {"key": "k7"}}, "f.jsonl:3", 11)
    assert example["id"] == "train/k7"
    assert json.loads(example["provenance"][0]) == {"stage": "dataset", "source": "f.jsonl:3"}
