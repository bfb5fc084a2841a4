from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokensieve.dataset import define_corpus
from tokensieve.errors import ConfigError, DataError
from tokensieve.records import Corpus
from tokensieve.sources import LabSource, LocalSource
from tokensieve.store import Artefact, Store

ROWS = [{"q": f"What is {n} + {n}?", "a": f"It is {2 * n}.", "n": n} for n in range(100)]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".csv":
        import pandas as pd

        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        import pandas as pd

        pd.DataFrame(rows).to_parquet(path)
    return path


def corpus(tmp_path: Path, source: LocalSource | LabSource, split: str = "train", **changes: Any) -> Artefact[Corpus]:
    settings: dict[str, Any] = {
        "task": "t",
        "prompt": "{{ q }}",
        "response": "{{ a }}",
        "system_prompt": None,
        "reference": {"answer": "n"},
        "id_field": None,
        "limit": None,
        "val_fraction": 0.1,
        "test_fraction": 0.1,
        "seed": 0,
    }
    return define_corpus(Store(tmp_path / "cache"), source, split, **(settings | changes))


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_format_gives_the_same_examples(tmp_path: Path, suffix: str) -> None:
    source = LocalSource(write_rows(tmp_path / f"rows{suffix}", ROWS[:10]), None, {})
    example = corpus(tmp_path, source, val_fraction=0, test_fraction=0).get().rows[3]
    assert example["messages"] == [
        {"role": "user", "content": "What is 3 + 3?"},
        {"role": "assistant", "content": "It is 6."},
    ]
    assert int(json.loads(example["reference"])["answer"]) == 3
    assert json.loads(example["provenance"][0])["source"].startswith(str(tmp_path / f"rows{suffix}"))


def test_hold_out_splits_are_disjoint_and_complete(tmp_path: Path) -> None:
    source = LocalSource(write_rows(tmp_path / "rows.jsonl", ROWS), None, {})
    parts = {
        split: {row["messages"][0]["content"] for row in corpus(tmp_path, source, split).get().rows}
        for split in ("train", "validation", "test")
    }
    assert sum(map(len, parts.values())) == len(set().union(*parts.values())) == 100
    assert all(len(part) > 2 for part in parts.values())


def test_published_ranges_select_the_split(tmp_path: Path) -> None:
    source = LocalSource(
        write_rows(tmp_path / "rows.jsonl", ROWS), "n", {"train": [60, 99], "validation": [50, 59], "test": [0, 49]}
    )
    assert [len(corpus(tmp_path, source, split, id_field="n").get()) for split in ("train", "validation", "test")] == [
        40,
        10,
        50,
    ]
    assert corpus(tmp_path, source, "test", id_field="n", limit=5).get().rows["id"] == [f"test/{n}" for n in range(5)]


def test_folder_of_split_files(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_rows(folder / "train.jsonl", ROWS[:80])
    write_rows(folder / "test.csv", ROWS[80:])
    source = LocalSource(folder, None, {})
    sizes = {split: len(corpus(tmp_path, source, split).get()) for split in ("train", "validation", "test")}
    assert sizes["test"] == 20
    assert sizes["train"] + sizes["validation"] == 80


def test_chat_rows_keep_their_turns_and_the_system_prompt(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    source = LocalSource(write_rows(tmp_path / "chat.jsonl", [{"messages": turns}]), None, {})
    changes: dict[str, Any] = {
        "prompt": None,
        "response": None,
        "reference": {},
        "val_fraction": 0,
        "test_fraction": 0,
    }
    rows = corpus(tmp_path, source, system_prompt="Be kind.", **changes).get().rows
    assert rows[0]["messages"] == [{"role": "system", "content": "Be kind."}, *turns]


def test_a_mapped_column_that_no_layout_needs_may_be_null(tmp_path: Path) -> None:
    columns = {"instruction": "q", "input": "ctx", "output": "a"}
    form: dict[str, Any] = {"prompt": None, "response": None, "reference": {}, "columns": columns}
    form |= {"val_fraction": 0, "test_fraction": 0}
    rows = [{"q": "Add.", "ctx": "1 2", "a": "3"}, {"q": "Greet.", "ctx": None, "a": "Hello."}]
    source = LocalSource(write_rows(tmp_path / "rows.jsonl", rows), None, {})
    prompts = [turns[0]["content"] for turns in corpus(tmp_path, source, **form).get().rows["messages"]]
    assert prompts == ["Add.\n\n1 2", "Greet."]
    lost = LocalSource(write_rows(tmp_path / "lost.jsonl", [rows[0], {"q": "Greet.", "a": "Hello."}]), None, {})
    with pytest.raises(DataError, match="column 'ctx' must be there"):
        corpus(tmp_path, lost, **form).get()


def test_stamp_follows_content_templates_and_limit(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", ROWS)
    first = corpus(tmp_path, LocalSource(path, None, {})).digest
    assert corpus(tmp_path, LocalSource(path, None, {})).digest == first
    assert corpus(tmp_path, LocalSource(path, None, {}), prompt="Q: {{ q }}").digest != first
    assert corpus(tmp_path, LocalSource(path, None, {}), limit=3).digest != first
    write_rows(path, ROWS[::-1])
    assert corpus(tmp_path, LocalSource(path, None, {})).digest != first


def break_json(path: Path) -> None:
    path.write_text('{"q": "a", "a": "b", "n": 1}\n{"q": "a", \n')


def drop_column(path: Path) -> None:
    write_rows(path, [*ROWS[:2], {"q": "only a question", "n": 2}])


def drop_reference(path: Path) -> None:
    write_rows(path, [{"q": "a", "a": "b"}])


def empty_response(path: Path) -> None:
    write_rows(path, [{"q": "a", "a": " ", "n": 1}])


def not_an_object(path: Path) -> None:
    path.write_text("[1, 2]\n")


@pytest.mark.parametrize(
    ("spoil", "where", "said"),
    [
        (break_json, "rows.jsonl:2", "JSON object"),
        (drop_column, "rows.jsonl:3", "'a' is undefined"),
        (drop_reference, "rows.jsonl:1", "column 'n'"),
        (empty_response, "rows.jsonl:1", "non-empty assistant turn"),
        (not_an_object, "rows.jsonl:1", "JSON object"),
    ],
)
def test_bad_row_is_an_error_with_file_and_row(
    tmp_path: Path, spoil: Callable[[Path], None], where: str, said: str
) -> None:
    path = tmp_path / "rows.jsonl"
    spoil(path)
    artefact = corpus(tmp_path, LocalSource(path, None, {}), val_fraction=0, test_fraction=0)
    with pytest.raises(DataError) as caught:
        artefact.get()
    assert where in str(caught.value)
    assert said in str(caught.value)
    assert "Remedy" in str(caught.value)


def test_row_that_does_not_end_with_the_assistant(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "chat.jsonl", [{"messages": [{"role": "user", "content": "Hi"}]}])
    artefact = corpus(
        tmp_path, LocalSource(path, None, {}), prompt=None, response=None, val_fraction=0, test_fraction=0
    )
    with pytest.raises(DataError, match="a last turn of user"):
        artefact.get()


def test_files_that_cannot_be_a_source(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="existing file"):
        LocalSource(tmp_path / "missing.jsonl", None, {})
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match="empty file"):
        LocalSource(tmp_path / "empty.jsonl", None, {})
    (tmp_path / "data.xlsx").write_text("x")
    with pytest.raises(ConfigError, match="must end in"):
        LocalSource(tmp_path / "data.xlsx", None, {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=r"train\.jsonl"):
        LocalSource(tmp_path / "folder", None, {})


def test_blank_file_and_duplicate_ids(tmp_path: Path) -> None:
    blank = tmp_path / "blank.jsonl"
    blank.write_text("\n\n")
    with pytest.raises(DataError, match="at least one row"):
        corpus(tmp_path, LocalSource(blank, None, {})).get()
    twice = write_rows(tmp_path / "twice.jsonl", [ROWS[1], ROWS[1]])
    with pytest.raises(DataError, match="unique"):
        corpus(tmp_path, LocalSource(twice, None, {}), id_field="n", val_fraction=0, test_fraction=0).get()


def test_lab_rows_have_the_grader_s_reference(tmp_path: Path) -> None:
    source = LabSource("lab_math", "human", 0, {"train": 5, "validation": 3, "test": 4})
    rows = corpus(tmp_path, source, "test", prompt="{{ question }}", response="{{ response }}", reference={}).get().rows
    assert len(rows) == 4
    assert "answer" in json.loads(rows[0]["reference"])


def test_gzip_is_not_taken_for_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(gzip.compress(b'{"q": 1}\n'))
    with pytest.raises(DataError, match="JSON object"):
        corpus(tmp_path, LocalSource(path, None, {})).get()
