"""MBPP's own solutions through the code grader: every one must pass its own tests, and none another problem's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tokensieve.graders import grade_texts

DATA = Path(os.environ.get("TOKENSIEVE_DATA", Path(__file__).parents[1] / "data"))
FILE = DATA / "mbpp" / "mbpp.jsonl"

pytestmark = pytest.mark.skipif(not FILE.exists(), reason="needs the published mbpp.jsonl")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    with FILE.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def references(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"tests": row["test_list"], "setup": row["test_setup_code"]} for row in rows]


def test_every_reference_solution_passes_its_tests(rows: list[dict[str, Any]]) -> None:
    texts = [f"```python\n{row['code']}\n```" for row in rows]
    grades = grade_texts("code", texts, references(rows), seconds=60)
    failed = {row["task_id"]: grade.reason for row, grade in zip(rows, grades, strict=True) if grade.score != 1}
    assert len(rows) == 974
    assert failed == {}


def test_no_solution_passes_the_tests_of_the_next_problem(rows: list[dict[str, Any]]) -> None:
    shifted = [*rows[1:], rows[0]]
    grades = grade_texts("code", [row["code"] for row in rows], references(shifted), seconds=10)
    same_name = {row["task_id"] for row, grade in zip(rows, grades, strict=True) if grade.score == 1}
    assert same_name == set()
