"""Data for other trainers: the same conversations, the mask itself, whole folders, clear refusals."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokensieve.cli import main
from tokensieve.config import DatasetConfig, EvalConfig, ModelConfig, NoiseConfig, RunConfig, StmConfig, TrainerConfig
from tokensieve.errors import ConfigError, DataError
from tokensieve.pipeline import open_store
from tokensieve.prepare import FORMATS, Prepared, prepare_data
from tokensieve.prepare.formats import count_true
from tokensieve.stages import Stages, define_stages

ROOT = Path(__file__).parents[1]
TEXT_FORMATS = [name for name, layout in FORMATS.items() if layout.is_text]
PAIR_FORMATS = [name for name, layout in FORMATS.items() if layout.is_pair]
AWKWARD = [
    "naïve – “quoted”\t\\n",
    "line\u2028separator\x85 and\r\nbreaks",
    "  spaces kept  ",
    "🙂" * 3,
    '{"json": [1]}',
]


def pairs(number: int = 12) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is {n} + {n}? {AWKWARD[n % len(AWKWARD)]}"},
                {"role": "assistant", "content": f"The answer is {2 * n}. {AWKWARD[(n + 1) % len(AWKWARD)]}"},
            ]
        }
        for n in range(number)
    ]


def long_chats() -> list[dict[str, Any]]:
    longer = {
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "a b"},
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": "return b"},
        ]
    }
    return [*pairs(3), longer, {"messages": [{"role": "assistant", "content": "plain text alone"}]}]


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_config(tiny_folder: Path, tmp_path: Path, path: Path, **dataset: Any) -> RunConfig:
    defaults: dict[str, Any] = {"val_fraction": 0.0, "test_fraction": 0.0}
    return RunConfig(
        model=ModelConfig(name="tiny", path=str(tiny_folder)),
        dataset=DatasetConfig(name="local", task=None, path=str(path), **(defaults | dataset)),
        stm=StmConfig(rule="none"),
        trainer=TrainerConfig(accelerator="cpu"),
        eval=EvalConfig(tasks=[]),
        output_dir=str(tmp_path / "outputs"),
    )


def stages_of(config: RunConfig) -> Stages:
    return define_stages(config, open_store(config))


def prepare(config: RunConfig, output: Path, name: str, **options: Any) -> Prepared:
    return prepare_data(stages_of(config), output, format_name=name, **options)


def conversations(config: RunConfig) -> list[Any]:
    train = stages_of(config).train
    assert train is not None
    return list(train.get().rows["messages"])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", TEXT_FORMATS)
def test_reading_a_text_format_back_gives_the_same_conversations(
    name: str, file_format: str, tiny_folder: Path, tmp_path: Path
) -> None:
    rows = pairs() if name in PAIR_FORMATS else long_chats()
    config = make_config(tiny_folder, tmp_path, write_rows(tmp_path / "rows.jsonl", rows))
    prepared = prepare(config, tmp_path / "out", name, file_format=file_format)
    assert [split.num_rows for split in prepared.splits] == [len(rows)]
    back = make_config(tiny_folder, tmp_path, tmp_path / "out", id_field="id")
    assert conversations(back) == [row["messages"] for row in rows]


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_reading_tokens_back_gives_the_same_tokens_and_responses(
    file_format: str, tiny_folder: Path, tmp_path: Path
) -> None:
    config = make_config(tiny_folder, tmp_path, write_rows(tmp_path / "rows.jsonl", [*pairs(6), *long_chats()[:3]]))
    prepare(config, tmp_path / "out", "tokens", file_format=file_format)
    back = make_config(tiny_folder, tmp_path, tmp_path / "out", tokens_field="input_ids")
    tokens, again = (stages_of(each).tokens.get().rows for each in (config, back))
    assert again["input_ids"] == tokens["input_ids"]
    assert again["is_response"] == tokens["is_response"]


def test_rows_of_each_format(tiny_folder: Path, tmp_path: Path) -> None:
    row = {"instruction": "Add.", "input": "2 3", "output": "5", "system": "Be brief."}
    config = make_config(tiny_folder, tmp_path, write_rows(tmp_path / "in/train.jsonl", [row]))
    plain = {key: value for key, value in row.items() if key != "system"}
    pair = make_config(tiny_folder, tmp_path, write_rows(tmp_path / "pair.jsonl", [plain]))

    def written(config: RunConfig, name: str) -> dict[str, Any]:
        prepare(config, tmp_path / name, name)
        (row,) = lines(tmp_path / name / "train.jsonl")
        assert row.pop("id") == "train/0"
        assert [json.loads(entry)["stage"] for entry in row.pop("provenance")] == ["dataset"]
        return row

    assert written(config, "sharegpt") == {
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "Add.\n\n2 3"},
            {"from": "gpt", "value": "5"},
        ]
    }
    assert written(pair, "alpaca") == {"instruction": "Add.\n\n2 3", "input": "", "output": "5"}
    assert written(pair, "prompt_completion") == {"prompt": "Add.\n\n2 3", "completion": "5"}


def test_labels_are_the_mask_and_dropped_examples_are_left_out(tiny_folder: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", pairs(20))
    # Perplexities by hand: a row of even number keeps its tokens of odd place, the others keep nothing.
    config = make_config(tiny_folder, tmp_path, path, val_fraction=0.2)
    tokens = stages_of(config).tokens.get().rows
    scores = [
        {
            "input_ids": ids,
            "num_prompt_tokens": response.index(True),
            "ppl": [1.0 if number % 2 == 0 and place % 2 else 9.0 for place in range(len(ids))],
        }
        for number, (ids, response) in enumerate(zip(tokens["input_ids"], tokens["is_response"], strict=True))
    ]
    imported = make_config(
        tiny_folder, tmp_path, write_rows(tmp_path / "scored.jsonl", scores), tokens_field="input_ids"
    )
    imported = dataclasses.replace(
        imported, stm=StmConfig(rule="high_ppl", threshold=2.5, scores_path=str(tmp_path / "scored.jsonl"))
    )
    prepared = prepare(imported, tmp_path / "out", "tokens")
    rows = lines(tmp_path / "out/train.jsonl")
    assert [row["id"] for row in rows] == [f"train/{number}" for number in range(0, len(scores), 2)]
    for number, row in zip(range(0, len(scores), 2), rows, strict=True):
        ids, start = scores[number]["input_ids"], scores[number]["num_prompt_tokens"]
        assert row["input_ids"] == ids
        assert row["labels"] == [token if place >= start and place % 2 else -100 for place, token in enumerate(ids)]
        assert json.loads(row["provenance"][0])["row"] == number + 1
    (split,) = prepared.splits
    assert split.num_left_out == len(scores) // 2
    assert split.stats.kept_tokens == sum(label != -100 for row in rows for label in row["labels"])


def test_response_that_is_no_run_to_the_end_has_no_prompt_length(tiny_folder: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", long_chats())
    prepare(make_config(tiny_folder, tmp_path, path, train_on="all"), tmp_path / "out", "tokens")
    rows = lines(tmp_path / "out/train.jsonl")
    assert rows[3]["num_prompt_tokens"] is None
    assert rows[4]["num_prompt_tokens"] == 1
    trained = [label for label in rows[3]["labels"] if label != -100]
    assert (
        len(trained)
        == count_true(
            stages_of(make_config(tiny_folder, tmp_path, path, train_on="all"))
            .mask.get()
            .rows.with_format("arrow")[3:4],
            "keep",
        )[0]
    )


def test_validation_split_is_written_beside_train(tiny_folder: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", pairs(40))
    config = make_config(tiny_folder, tmp_path, path, val_fraction=0.3)
    prepared = prepare(config, tmp_path / "out", "messages")
    assert [split.name for split in prepared.splits] == ["train", "validation"]
    written = [lines(tmp_path / "out" / split.file) for split in prepared.splits]
    assert sum(map(len, written)) == 40
    assert {json.loads(row["provenance"][0])["source"] for rows in written for row in rows} == {
        f"{path}:{number}" for number in range(1, 41)
    }
    assert conversations(make_config(tiny_folder, tmp_path, tmp_path / "out")) == [
        row["messages"] for row in written[0]
    ]


def test_provenance_leads_through_noise_to_the_source_row(tiny_folder: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", pairs(20))
    clean = make_config(tiny_folder, tmp_path, path)
    config = dataclasses.replace(clean, noise=NoiseConfig(name="typo", ratio=0.5))
    prepared = prepare(config, tmp_path / "out", "messages")
    assert dict(prepared.num_examples) == {"dataset": 20, "noise": 20}
    rows = lines(tmp_path / "out/train.jsonl")
    noisy = [row for row in rows if len(row["provenance"]) == 2]
    assert len(noisy) == 10
    for row in rows:
        number = int(json.loads(row["provenance"][0])["source"].rpartition(":")[2])
        same = row["messages"] == pairs(20)[number - 1]["messages"]
        assert same == (row not in noisy)


def test_manifest_holds_stamps_counts_and_config(tiny_folder: Path, tmp_path: Path) -> None:
    config = make_config(tiny_folder, tmp_path, write_rows(tmp_path / "rows.jsonl", pairs(30)), val_fraction=0.2)
    prepare(config, tmp_path / "out", "alpaca")
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    prepare(config, tmp_path / "out", "alpaca", force=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first
    manifest = json.loads(first["manifest.json"])
    stages = stages_of(config)
    assert {name: entry["digest"] for name, entry in manifest["stamps"].items()} == {
        "dataset": stages.corpora["dataset"].digest,
        "tokenise": stages.tokens.digest,
        "mask": stages.mask.digest,
        "dataset validation": manifest["stamps"]["tokenise validation"]["inputs"]["corpus"],
        "tokenise validation": stages.validation_tokens.digest if stages.validation_tokens else "",
        "mask validation": stages.validation_mask.digest if stages.validation_mask else "",
    }
    assert manifest["splits"]["train"]["rows"] + manifest["splits"]["validation"]["rows"] == 30
    assert manifest["config"]["dataset"]["path"] == str(tmp_path / "rows.jsonl")
    assert "tracking" not in manifest["config"]


@pytest.mark.parametrize("name", PAIR_FORMATS)
@pytest.mark.parametrize("row", [3, 4])
def test_conversation_that_a_format_cannot_hold_names_its_row(
    row: int, name: str, tiny_folder: Path, tmp_path: Path
) -> None:
    rows = [*pairs(300), long_chats()[row]]  # behind the first batch
    path = write_rows(tmp_path / "rows.jsonl", rows)
    config = make_config(tiny_folder, tmp_path, path)
    with pytest.raises(DataError) as caught:
        prepare(config, tmp_path / "out", name)
    assert caught.value.subject == f"{path}:301 (example train/300)"
    roles = [turn["role"] for turn in rows[-1]["messages"]]
    assert caught.value.received == f"the turns {', '.join(roles)}"
    assert not (tmp_path / "out").exists()
    assert not stages_of(config).tokens.is_cached  # told before anything is computed of the examples


def test_misfit_in_validation_alone_is_told_too(tiny_folder: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "in/train.jsonl", pairs(4))
    write_rows(tmp_path / "in/validation.jsonl", long_chats())
    with pytest.raises(DataError, match=r"validation\.jsonl:4 "):
        prepare(make_config(tiny_folder, tmp_path, tmp_path / "in"), tmp_path / "out", "alpaca")


def test_misfit_is_found_in_a_slice_and_in_an_empty_table() -> None:
    turn = pa.struct({"role": pa.string(), "content": pa.string()})
    table = pa.table({"messages": pa.array([row["messages"] for row in long_chats()], pa.list_(turn))})
    alpaca = FORMATS["alpaca"]
    assert alpaca.find_misfit(table) == (3, "system, user, assistant, user, assistant")
    assert alpaca.find_misfit(table[4:]) == (0, "assistant")
    assert alpaca.find_misfit(table[1:3]) is None
    assert alpaca.find_misfit(table[:0]) is None
    assert alpaca.fields(table[1:3])["output"].to_pylist() == [row["messages"][1]["content"] for row in pairs(3)[1:]]
    sharegpt = FORMATS["sharegpt"].fields(table[3:])["conversations"].to_pylist()
    assert [len(turns) for turns in sharegpt] == [5, 1]


def test_text_formats_refuse_rows_that_come_as_tokens(tiny_folder: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "tokens.jsonl", [{"input_ids": [5, 6, 7], "num_prompt_tokens": 1}])
    config = make_config(tiny_folder, tmp_path, path, tokens_field="input_ids")
    for name in TEXT_FORMATS:
        with pytest.raises(ConfigError, match=r"^--format: must be tokens"):
            prepare(config, tmp_path / "out", name)
    prepare(config, tmp_path / "out", "tokens")
    (row,) = lines(tmp_path / "out/train.jsonl")
    assert (row["input_ids"], row["labels"], row["num_prompt_tokens"]) == ([5, 6, 7], [-100, 6, 7], 1)


def test_rows_that_come_as_tokens_keep_to_the_length_that_was_set(tiny_folder: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "tokens.jsonl", [{"input_ids": [5, 6, 7], "num_prompt_tokens": 1}])
    config = make_config(tiny_folder, tmp_path, path, tokens_field="input_ids")
    config.model.max_length = 3
    prepare(config, tmp_path / "out", "tokens")
    config.model.max_length = 2
    with pytest.raises(DataError, match=r"tokens\.jsonl:1: must have at most 2 tokens.*received 3"):
        prepare(config, tmp_path / "other", "tokens")


def test_force_replaces_only_what_prepare_wrote(tiny_folder: Path, tmp_path: Path) -> None:
    config = make_config(tiny_folder, tmp_path, write_rows(tmp_path / "in/train.jsonl", pairs(4)))
    out = tmp_path / "out"
    prepare(config, out, "alpaca")
    with pytest.raises(ConfigError, match="new or an empty folder"):
        prepare(config, out, "alpaca")
    prepare(config, out, "messages", file_format="parquet", force=True)
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "train.parquet"]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        prepare(config, out, "messages", force=True)
    with pytest.raises(ConfigError, match="replaces only"):
        prepare(config, tmp_path / "in", "messages", force=True)
    (out / "notes.txt").unlink()
    back = make_config(tiny_folder, tmp_path, out)
    with pytest.raises(ConfigError, match="must not hold what is read"):
        prepare(back, out, "alpaca", force=True)
    assert pq.read_table(out / "train.parquet").num_rows == 4


def test_places_that_cannot_be_written(tiny_folder: Path, tmp_path: Path) -> None:
    config = make_config(tiny_folder, tmp_path, write_rows(tmp_path / "rows.jsonl", pairs(4)))
    for output, rule in (
        (tmp_path / "rows.jsonl", "must be a folder"),
        (tmp_path / "rows.jsonl/below", "folder that can be written"),
        (tmp_path / ("x" * 300), "path that can be made"),
        (Path("/proc/none/here"), "writ"),
    ):
        with pytest.raises(ConfigError, match=rule):
            prepare(config, output, "alpaca")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission_is_told_before_anything_is_built(tiny_folder: Path, tmp_path: Path) -> None:
    config = make_config(tiny_folder, tmp_path, write_rows(tmp_path / "rows.jsonl", pairs(4)))
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(ConfigError, match="can be written"):
        prepare(config, locked / "out", "alpaca")
    assert not stages_of(config).tokens.is_cached


def test_fault_while_writing_leaves_nothing(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tiny_folder, tmp_path, write_rows(tmp_path / "rows.jsonl", pairs(4)))
    prepare(config, tmp_path / "place/out", "alpaca")
    kept = (tmp_path / "place/out/train.jsonl").read_bytes()

    def fail(*arguments: object) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr("tokensieve.prepare.write.file_checksum", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        prepare(config, tmp_path / "place/out", "messages", force=True)
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["out"]
    assert (tmp_path / "place/out/train.jsonl").read_bytes() == kept


def test_verb_prints_a_plain_table_through_a_pipe(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    path = write_rows(tmp_path / "rows.jsonl", long_chats())
    overrides = [
        "dataset=local", f"dataset.path={path}", "dataset.val_fraction=0", "dataset.test_fraction=0",
        "model=path", f"model.path={tiny_folder}", "stm=none", f"output_dir={tmp_path / 'outputs'}",
    ]  # fmt: skip
    assert main(["prepare", *overrides, "dry_run=true", "--output", str(tmp_path / "out"), "--format", "messages"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["dataset", "tokenise", "mask"]
    assert not (tmp_path / "out").exists()
    assert main(["prepare", *overrides, "--output", str(tmp_path / "out"), "--format", "messages"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in shown[2].split("|")][:4] == ["train", "5", "0", "5"]
    assert any("1 examples have several assistant turns" in line for line in shown)
    assert shown[-1] == f"written: {tmp_path / 'out'} (train.jsonl)"
    assert main(["prepare", *overrides, "--output", str(tmp_path / "out"), "--format", "alpaca"]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert error[0].startswith("error: --output")
    with pytest.raises(SystemExit):
        main(["prepare", *overrides, "--output", str(tmp_path / "new"), "--format", "csv"])
    assert "invalid choice: 'csv'" in capsys.readouterr().err


def test_formats_of_the_verb_are_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["prepare", "--help"])
    assert "{" + ",".join(FORMATS) + "}" in capsys.readouterr().out


def test_planning_the_verb_loads_no_heavy_library() -> None:
    program = "import sys, tokensieve.cli, tokensieve.prepare; print([m for m in ('torch', 'datasets', 'pyarrow', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
