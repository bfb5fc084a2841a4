from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokensieve.cli import main

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def exported(path: Path) -> Path:
    rows = [
        {"task_id": 1, "input_ids": [5, 6, 7, 8, 9], "num_prompt_tokens": 2, "ppl": [10.0, 3.0, 1.0, 2.5, 30.0]},
        {"task_id": 2, "input_ids": [5, 6, 7, 8], "num_prompt_tokens": 1, "ppl": [10.0, 1.2, 4.0, 1.0]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_mask_counts_imported_perplexities_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = exported(tmp_path / "scores.jsonl")
    overrides = [
        "dataset=pretokenised",
        f"dataset.path={path}",
        "stm=imported",
        f"stm.scores_path={path}",
        "eval.tasks=[]",
    ]
    assert main(["mask", *overrides, f"output_dir={tmp_path / 'out'}", "--thresholds", "2.5,5,1000"]) == 0
    rows = [
        [cell.strip() for cell in line.strip("│ \n").split("│")]
        for line in capsys.readouterr().out.splitlines()
        if "stm=" in line
    ]
    assert [(row[0], row[3], row[4], row[5]) for row in rows] == [
        ("stm=2.5", "6", "4", "33.33"),
        ("stm=5", "6", "5", "16.67"),
        ("stm=1000", "6", "6", "0.00"),
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mask", "stm.threshold=-2"], "stm.threshold"),
        (["mask", "stm=nive"], "nive"),
        (["mask", "--thresholds", "0", "eval.tasks=[]"], "stm.threshold"),
        (["mask", "stm=none", "--thresholds", "1.5,2.5", "eval.tasks=[]"], "--thresholds: is for rules that have one"),
        (["inspect", "/no/such/run"], "run folder"),
        (["report", "/no/such/sweep"], "/no/such/sweep"),
        (["report", "--output-dir", "/no/such/folder"], "/no/such/folder"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_1(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert said in lines[0]


def test_overrides_may_stand_before_between_and_behind_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mask", "seed=2", "--thresholds", "2.5", "eval.tasks=[]", "stm.threshold=-2"]) == 1
    assert "stm.threshold" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["mask", "seed=2", "--threshold"], ["report", "one", "--json", "two"]])
def test_what_is_neither_option_nor_override_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in ("report", "inspect", "mask"))


def test_thresholds_that_are_no_numbers_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["mask", "--thresholds", "2.5,abc"])
    assert (
        "--thresholds: must be numbers with commas between them, like 1.5,2.5,4; got '2.5,abc'"
        in capsys.readouterr().err
    )
