"""Errors of the command line: one line, exit code 1, and what to do."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sweep_program

from tokensieve.config import register_schema
from tokensieve.sweep import planner
from tokensieve.sweep.command import run_command

Command = Callable[..., int]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    register_schema()
    monkeypatch.setattr(planner, "_validate", sweep_program.accept)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        try:
            return run_command(sweep_program.train)
        except SystemExit as error:
            return int(error.code or 0)

    return run


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stm.treshold=1", r"stm\.treshold: no such key\. Remedy: perhaps you mean stm\.threshold"),
        ("threshold=1", r"threshold: no such key\. Remedy: perhaps you mean stm\.threshold"),
        ("foo=1", r"foo: no such key\. Remedy: python train\.py --cfg job"),
        ("+foo=1", r"foo: no such key"),
        ("foo/bar=1", r"foo/bar: no such key"),
        ("stm.threshold=abc", r"stm\.threshold: must be a number; received 'abc'"),
        ("stm.threshold=null", r"stm\.threshold: must be a number; received 'null'"),
        ("model.max_length=1.5", r"model\.max_length: must be a whole number or null; received '1\.5'"),
        ("stm.rule=foo", r"stm\.rule: must be one of none, high_ppl, .*; received 'foo'"),
        ("debug=maybe", r"debug: must be true or false; received 'maybe'"),
        ("eval.tasks=3", r"eval\.tasks: must be a list, such as \[a,b\] or null; received '3'"),
        ("stm=nave", r"stm: must be one of .*received 'nave'\. Remedy: perhaps you mean naive"),
        ("experiment=nope", r"experiment.*nope"),
        ("hydra/launcher=foo", r"hydra/launcher: must be one of .*tokensieve; received 'foo'"),
        ("stm.threshold=1,2", r"stm\.threshold: takes one value; received '1,2'\. Remedy: add -m"),
        ("stm.threshold=1,,", r"stm\.threshold: cannot be read as key=value"),
        ("stm.threshold", r"stm\.threshold: cannot be read as key=value"),
        ("=3", r"config: "),
        ("~stm.threshold", r"stm\.threshold: .*does not support deletion"),
        ("stm.threshold=${nope}", r"stm\.threshold: Interpolation key 'nope' not found"),
        ("stm.threshold=-1", r"stm\.threshold: must be a finite perplexity above 0; received -1\.0"),
        ("stm=imported", r"stm\.scores_path: must "),
        ("seed=???", r"seed: must be set"),
        ("dataset.reference.x=1", r"dataset\.reference\.x: is not there yet. Remedy: write \+dataset\.reference\.x"),
        ("sweep.resume=latest", r"sweep\.resume: continues a sweep.*add -m"),
        ("search=tpe", r"search: is for the jobs of a sweep; received 'tpe'\. Remedy: add -m"),
        ("launcher=slurm", r"launcher: is for the jobs of a sweep; received 'slurm'\. Remedy: add -m"),
    ],
)
def test_one_line(command: Command, capsys: pytest.CaptureFixture[str], override: str, expected: str) -> None:
    assert command(override) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert re.search(expected, output.err), output.err


def test_a_sweep_reports_every_job(command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command("-m", "stm.threshold=1,-1,abc", "stm.rule=none,nun") == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2].partition(" (")[0] for line in lines] == ["job 2 of 6", "job 3 of 6", "job 5 of 6"]
    assert os.listdir(tmp_path) == []


def test_debug_shows_the_traceback(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("debug=true", "stm.treshold=1") == 1
    assert "Traceback" in capsys.readouterr().err
