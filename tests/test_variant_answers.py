"""Which texts give the same answer, by kind of task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tokensieve.graders import RowError
from tokensieve.variant.answers import group_answers

DATABASE = "CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (1), (2), (3);"


@pytest.mark.parametrize(
    ("grader", "texts", "reference", "groups"),
    [
        ("choice", ["Answer: B", "(B)", "A", "Answer: A or Answer: B", None], {}, [0, 0, 1, None, None]),
        ("choice", ["Answer: yes", "Answer: NO", "Answer: maybe"], {"labels": ["yes", "no"]}, [0, 1, None]),
        ("number", ["a 7\n#### 42", "it is 42.0", "#### 43", "none", "#### ?"], {}, [0, 0, 1, None, None]),
        (None, ["Ein  Haus", "ein haus\n", "Häuser", " "], {}, [0, 0, 1, None]),
        ("drop_f1", ["Answer: Smith; 3", "3.0; the Smith", "Answer: Smith"], {"answers": ["x"]}, [0, 0, 1]),
        ("exact_match", ["Answer: Port 179.", "port 179", "..."], {"answer": "x"}, [0, 0, None]),
        (
            "fuzzy_match",
            ["BGP listens on port 179", "179 BGP listens on port", "It is OSPF"],
            {"answer": "x"},
            [0, 0, 1],
        ),
        ("of_tomorrow", ["x", "X"], {}, [0, 0]),
        ("choice", [], {}, []),
    ],
)
def test_groups(
    grader: str | None, texts: list[str | None], reference: dict[str, Any], groups: list[int | None]
) -> None:
    assert group_answers(grader, [texts], [reference]) == [groups]


def test_the_correct_answer_is_never_read() -> None:
    texts = [["Answer: B", "Answer: C"]]
    assert group_answers("choice", texts, [{"answer": "B"}]) == group_answers("choice", texts, [{"answer": "D"}])


def test_queries_agree_by_their_rows() -> None:
    texts = [
        "SELECT COUNT(*) FROM t;",
        "```sql\nselect count(n) from t\n```",
        "SELECT SUM(n) / 2 FROM t",
        "SELECT MAX(n) - 1 FROM t",
        "SELECT nothing",
        "",
    ]
    reference = {"database": DATABASE, "query": "SELECT 1"}
    assert group_answers("sql", [texts, texts[2:4]], [reference] * 2) == [[0, 0, 0, 1, None, None], [0, 1]]


def test_queries_with_comments_run_as_they_stand() -> None:
    texts = ["-- how many\nSELECT COUNT(*)\nFROM t -- of all\nWHERE n > 0", "SELECT COUNT(*) FROM t"]
    assert group_answers("sql", [texts], [{"database": DATABASE}]) == [[0, 0]]


def test_a_database_file_is_read(tmp_path: Path) -> None:
    import sqlite3

    file = tmp_path / "t.sqlite"
    with sqlite3.connect(file) as connection:
        connection.executescript(DATABASE)
    connection.close()
    texts = ["SELECT COUNT(*) FROM t", "SELECT 3", "SELECT 4", "SELECT x FROM nowhere"]
    assert group_answers("sql", [texts], [{"database_file": str(file)}]) == [[0, 0, 1, None]]


def test_an_order_counts_where_the_query_that_is_compared_orders() -> None:
    texts = ["SELECT n FROM t ORDER BY n", "SELECT n FROM t ORDER BY n DESC", "SELECT n FROM t WHERE n > 0 ORDER BY n"]
    assert group_answers("sql", [texts], [{"database": DATABASE}]) == [[0, 1, 0]]


def test_mathematical_answers_agree_by_value() -> None:
    texts = [r"\boxed{\frac{1}{2}}", r"So it is \boxed{0.5}.", r"\boxed{x+1}", r"\boxed{1+x}", "", r"\boxed{2}"]
    assert group_answers("math", [texts], [{"answer": "2"}]) == [[0, 0, 1, 1, None, 2]]


def test_a_row_without_a_database_is_told_by_its_number() -> None:
    with pytest.raises(RowError) as caught:
        group_answers("sql", [["SELECT 1"], ["SELECT 1"]], [{"database": DATABASE}, {}])
    assert caught.value.row == 1


def test_programs_agree_when_they_pass() -> None:
    texts = [
        "def f(x):\n    return x + 1",
        "f = lambda x: 1 + x",
        "def f(x): return 2",
        "def f(x): return  2",
        " ",
        None,
        "hmlylnll ((",
        r"'\d' + x",
    ]
    reference = {"tests": ["assert f(1) == 2", "assert f(5) == 6"]}
    assert group_answers("code", [texts], [reference]) == [[0, 0, 1, 1, None, None, None, None]]
