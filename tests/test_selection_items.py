"""What chooses and what reports: training, validation and test examples of every suite's tasks share nothing."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from test_dataset_options import ROWS

from tokensieve.cli import compose
from tokensieve.config import DatasetConfig
from tokensieve.corpora import define_items, define_split, define_validation_items, open_source
from tokensieve.store import Store

ROOT = Path(__file__).parents[1]
SUITES = ("lab", "paper_stm", "paper_robustft", "open_llm")
NUM_ROWS = 60
OTHER_ROWS = {"fpb": {"question": "Profit rose. How is it?", "options": '["bad", "good"]', "answer": "B"}}


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def find_tasks_of_suites() -> list[str]:
    """Names of all tasks of all suites, from the files themselves."""
    lines = [line for suite in SUITES for line in (ROOT / f"conf/eval/{suite}.yaml").read_text().splitlines()]
    return sorted({line.rpartition(": ")[2].strip() for line in lines if "/dataset@datasets." in line})


def make_rows(option: str, split: str) -> list[dict[str, Any]]:
    """Rows in the published layout; numbers that name a row are its own."""
    offset = {"train": 0, "validation": 1000, "test": 2000}[split]
    rows = []
    for number in range(offset, offset + NUM_ROWS):
        if option == "bird":
            row = {"db_id": "shop", "question": f"How many of {number}?", "evidence": "", "SQL": f"SELECT {number}"}
        else:
            row = dict(OTHER_ROWS.get(option) or ROWS[option][0])
        for key in ("question", "problem", "text", "sentence", "ctx", "passage"):
            if isinstance(row.get(key), str):
                row[key] = f"{row[key]} ({number})"
        for key in ("id", "task_id", "query_id", "pubid"):
            if key in row:
                row[key] = number if isinstance(row[key], int) else f"row {number}"
        rows.append(row)
    return rows


def make_data(option: str, folder: Path, dataset: DatasetConfig) -> Path:
    """A folder with all splits that are published."""
    folder.mkdir()
    for split, name in (dataset.splits or {"train": "train"}).items():
        if name is not None:
            rows = make_rows(option, split)
            (folder / f"{name}.json").write_text(json.dumps(rows))
    if option == "bird":
        file = folder / "dev_databases/shop/shop.sqlite"
        file.parent.mkdir(parents=True)
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("CREATE TABLE t (a INTEGER)")
            connection.commit()
    return folder


@pytest.mark.parametrize("option", find_tasks_of_suites())
def test_no_item_of_the_report_is_seen_before_it(option: str, tmp_path: Path) -> None:
    overrides = [f"dataset={option}", "eval=target", "eval.num_items=40"]
    if not option.startswith("lab_"):
        plain = compose([*overrides, "dataset.path=x"]).dataset
        overrides.append(f"dataset.path={make_data(option, tmp_path / 'data', plain)}")
    config = compose(overrides)
    store, source, task = Store(tmp_path / "cache"), open_source(config.dataset), str(config.dataset.task)
    found = {"test": define_items(config, store, task).get()}
    if source.has_split("validation") or (config.dataset.val_fraction > 0 and source.has_split("train")):
        found["validation"] = define_validation_items(config, store, task, 40).get()
        found["train"] = define_split(config.dataset, store, source, "train").get()
    else:  # nothing to train on, and nothing to choose by
        assert option in ("truthfulqa_mc",)
    for what in ("id", "provenance", "messages"):
        seen: dict[str, str] = {}
        for split, corpus in found.items():
            assert len(corpus) > 0
            for entry in {json.dumps(value, sort_keys=True) for value in corpus.rows[what]}:
                assert seen.setdefault(entry, split) == split, f"{entry} is in {seen[entry]} and in {split}"


def test_every_suite_is_read() -> None:
    assert len(find_tasks_of_suites()) == 16
