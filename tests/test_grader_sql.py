"""Execution accuracy: the right verdict is argued in each case's name.

Every case is judged twice, on a database made by a script (in the sandbox) and on a file (read-only).
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tokensieve.errors import DataError
from tokensieve.graders import grade_texts
from tokensieve.graders.sql import canonicalise_query, extract_query

SCRIPT = """
CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, age INTEGER, city TEXT, "home town" TEXT, height REAL);
INSERT INTO people VALUES
    (1, 'Ann', 30, 'Rome', 'Ost', 1.70), (2, 'Bob', 25, 'Oslo', NULL, 1.80), (3, 'Cid', 30, 'Rome', 'West', NULL),
    (4, 'Dee', NULL, 'Bern', 'Ost', 2.0), (5, 'ann', 41, 'Oslo', '', 1.65);
CREATE TABLE visits (person INTEGER, city TEXT, days INTEGER);
INSERT INTO visits VALUES (1, 'Oslo', 2), (1, 'Oslo', 2), (2, 'Rome', 3), (3, NULL, 0), (9, 'Bern', 1);
CREATE TABLE prices (amount REAL);
INSERT INTO prices VALUES (0.1), (0.2), (0.7);
"""

# name: (reference query, generated text, whether it is right)
CASES: dict[str, tuple[str, str, bool]] = {
    "same_query": ("SELECT name FROM people", "SELECT name FROM people", True),
    "final_semicolon_is_idle": ("SELECT name FROM people", "SELECT name FROM people;", True),
    "keywords_in_any_case": ("SELECT name FROM people", "select NAME from People", True),
    "comment_is_idle": ("SELECT name FROM people", "SELECT name -- all\nFROM people /* of them */", True),
    "fenced": ("SELECT name FROM people", "Here it is:\n```sql\nSELECT name FROM people\n```\nDone.", True),
    "labelled": ("SELECT name FROM people", "SQL: SELECT name FROM people", True),
    "prose_around": ("SELECT name FROM people", "This lists them:\nSELECT name FROM people;\nIt has 5 rows.", True),
    "alias_of_a_column_is_idle": ("SELECT name FROM people", "SELECT name AS who FROM people", True),
    "alias_of_a_table_is_idle": ("SELECT name FROM people", "SELECT p.name FROM people AS p", True),
    "quoted_column": ("SELECT name FROM people", 'SELECT "name" FROM "people"', True),
    "backticked_column": ("SELECT name FROM people", "SELECT `name` FROM `people`", True),
    "bracketed_column": ('SELECT "home town" FROM people', "SELECT [home town] FROM people", True),
    "string_in_place_of_a_column_is_wrong": ('SELECT "home town" FROM people', "SELECT 'home town' FROM people", False),
    "order_keyword_in_a_string_does_not_order": (
        "SELECT name FROM people WHERE name <> 'order by age'", "SELECT name FROM people ORDER BY name DESC", True),
    "rows_in_any_order_when_the_reference_does_not_order": (
        "SELECT name FROM people", "SELECT name FROM people ORDER BY age", True),
    "order_counts_when_the_reference_orders": (
        "SELECT name FROM people ORDER BY name", "SELECT name FROM people ORDER BY name DESC", False),
    "missing_order_is_wrong_when_it_shows": (
        "SELECT name FROM people ORDER BY name DESC", "SELECT name FROM people", False),
    "same_order_by_place": ("SELECT name FROM people ORDER BY name", "SELECT name FROM people ORDER BY 1", True),
    "order_in_a_subquery_does_not_order": (
        "SELECT name FROM (SELECT name FROM people ORDER BY age)", "SELECT name FROM people ORDER BY name DESC", True),
    "order_in_a_window_does_not_order": (
        "SELECT name, RANK() OVER (ORDER BY age) FROM people",
        "SELECT name, RANK() OVER (ORDER BY age) FROM people ORDER BY name DESC", True),
    "order_after_a_common_table_orders": (
        "WITH p AS (SELECT * FROM people) SELECT name FROM p ORDER BY id", "SELECT name FROM people ORDER BY id DESC", False),
    "tied_rows_in_either_order": (
        "SELECT name FROM people WHERE age = 30 ORDER BY age", "SELECT name FROM people WHERE age = 30 ORDER BY id DESC", True),
    "tied_rows_do_not_free_the_others": (
        "SELECT name FROM people WHERE age > 0 ORDER BY age", "SELECT name FROM people WHERE age > 0 ORDER BY id DESC", False),
    "limit_cuts_the_order": (
        "SELECT name FROM people ORDER BY height DESC LIMIT 1", "SELECT name FROM people WHERE height = (SELECT MAX(height) FROM people)", True),
    "limit_with_the_wrong_end": (
        "SELECT name FROM people ORDER BY height DESC LIMIT 1", "SELECT name FROM people ORDER BY height LIMIT 1", False),
    "either_of_two_tied_firsts": (
        "SELECT name FROM people WHERE city = 'Rome' ORDER BY age LIMIT 1",
        "SELECT name FROM people WHERE city = 'Rome' ORDER BY age, id DESC LIMIT 1", True),
    "duplicates_count": ("SELECT city FROM people", "SELECT DISTINCT city FROM people", False),
    "missing_duplicates_are_wrong_the_other_way_round": (
        "SELECT DISTINCT city FROM people", "SELECT city FROM people", False),
    "same_number_of_other_duplicates": (
        "SELECT city FROM people", "SELECT 'Rome' FROM people", False),
    "duplicate_rows_of_a_table": ("SELECT city, days FROM visits", "SELECT city, days FROM visits ORDER BY days", True),
    "union_drops_what_union_all_keeps": (
        "SELECT city FROM people UNION SELECT city FROM visits", "SELECT city FROM people UNION ALL SELECT city FROM visits", False),
    "null_equals_null": ('SELECT "home town" FROM people WHERE id = 2', "SELECT NULL", True),
    "null_is_not_the_empty_string": ('SELECT "home town" FROM people WHERE id = 2', "SELECT ''", False),
    "null_is_not_zero": ("SELECT height FROM people WHERE id = 3", "SELECT 0", False),
    "comparison_with_null_finds_nothing": (
        'SELECT name FROM people WHERE "home town" IS NULL', 'SELECT name FROM people WHERE "home town" = NULL', False),
    "not_in_with_a_null_finds_nothing": (
        "SELECT name FROM people WHERE city NOT IN (SELECT city FROM visits WHERE city IS NOT NULL)",
        "SELECT name FROM people WHERE city NOT IN (SELECT city FROM visits)", True),
    "count_of_a_column_leaves_out_nulls": ("SELECT COUNT(*) FROM people", "SELECT COUNT(age) FROM people", False),
    "left_join_keeps_what_join_drops": (
        "SELECT p.name, v.days FROM people p LEFT JOIN visits v ON v.person = p.id",
        "SELECT p.name, v.days FROM people p JOIN visits v ON v.person = p.id", False),
    "join_written_as_where": (
        "SELECT p.name FROM people p JOIN visits v ON v.person = p.id", "SELECT name FROM people, visits WHERE person = id", True),
    "integer_equals_float": ("SELECT 2", "SELECT 2.0", True),
    "average_equals_sum_over_count": (
        "SELECT AVG(age) FROM people", "SELECT SUM(age) * 1.0 / COUNT(age) FROM people", True),
    "integer_division_loses_the_rest": ("SELECT AVG(age) FROM people", "SELECT SUM(age) / COUNT(age) FROM people", False),
    "sum_of_floats_to_its_last_digits": ("SELECT 0.1 + 0.2 + 0.7", "SELECT SUM(amount) FROM prices", True),
    "close_float_is_wrong": ("SELECT 1.65", "SELECT 1.6500001", False),
    "negative_zero_is_zero": ("SELECT 0", "SELECT -0.0", True),
    "number_as_text_is_not_the_number": ("SELECT 30", "SELECT '30'", False),
    "true_is_one": ("SELECT 1", "SELECT TRUE", True),
    "text_keeps_its_case": ("SELECT 'Ann'", "SELECT 'ann'", False),
    "text_keeps_its_blanks": ("SELECT 'Ann'", "SELECT 'Ann '", False),
    "filter_keeps_its_case": (
        "SELECT id FROM people WHERE name = 'Ann'", "SELECT id FROM people WHERE name LIKE 'ann'", False),
    "columns_in_another_order_are_wrong": ("SELECT name, city FROM people", "SELECT city, name FROM people", False),
    "extra_column_is_wrong": ("SELECT name FROM people", "SELECT name, id FROM people", False),
    "missing_column_is_wrong": ("SELECT name, id FROM people", "SELECT name FROM people", False),
    "star_when_it_is_all": ("SELECT person, city, days FROM visits", "SELECT * FROM visits", True),
    "extra_row_is_wrong": ("SELECT name FROM people WHERE id < 4", "SELECT name FROM people", False),
    "missing_row_is_wrong": ("SELECT name FROM people", "SELECT name FROM people WHERE id < 5", False),
    "both_empty_are_equal": ("SELECT name FROM people WHERE id > 9", "SELECT name FROM people WHERE age > 99", True),
    "empty_is_not_null": ("SELECT MAX(age) FROM people WHERE id > 9", "SELECT age FROM people WHERE id > 9", False),
    "other_group": (
        "SELECT city, COUNT(*) FROM people GROUP BY city", "SELECT age, COUNT(*) FROM people GROUP BY age", False),
    "group_in_any_order": (
        "SELECT city, COUNT(*) FROM people GROUP BY city", "SELECT city, COUNT(1) FROM people GROUP BY 1 ORDER BY 2", True),
    "common_table": ("SELECT MAX(age) FROM people", "WITH t AS (SELECT age FROM people) SELECT MAX(age) FROM t", True),
    "blob_is_not_its_text": ("SELECT 'A'", "SELECT x'41'", False),
    "neighbour_of_a_huge_integer": ("SELECT 9007199254740993", "SELECT 9007199254740992", False),
    "huge_integer_is_not_its_float": ("SELECT 9007199254740993", "SELECT 9007199254740993.0", False),
    "infinities_differ_in_sign": ("SELECT 9e999", "SELECT -9e999", False),
    "nulls_first_is_not_nulls_last": (
        "SELECT name FROM people ORDER BY age, id", "SELECT name FROM people ORDER BY age IS NULL, age, id", False),
    "all_rows_tied": (
        "SELECT name FROM people WHERE city = 'Rome' ORDER BY city", "SELECT name FROM people WHERE city = 'Rome' ORDER BY id DESC", True),
    "no_rows_asked_for": ("SELECT name FROM people ORDER BY age LIMIT 0", "SELECT name FROM people WHERE 0", True),
    "offset_in_its_two_spellings": (
        "SELECT name FROM people ORDER BY id LIMIT 2 OFFSET 1", "SELECT name FROM people ORDER BY id LIMIT 1, 2", True),
    "offset_taken_for_the_limit": (
        "SELECT name FROM people ORDER BY id LIMIT 2 OFFSET 1", "SELECT name FROM people ORDER BY id LIMIT 2, 1", False),
    "collation_that_ignores_case": (
        "SELECT id FROM people WHERE name = 'Ann'", "SELECT id FROM people WHERE name = 'ann' COLLATE NOCASE", False),
    "null_is_no_distinct_value": (
        "SELECT COUNT(DISTINCT city) FROM visits", "SELECT COUNT(*) FROM (SELECT DISTINCT city FROM visits)", False),
    "intersection_is_a_distinct_filter": (
        "SELECT city FROM people INTERSECT SELECT city FROM visits",
        "SELECT DISTINCT city FROM people WHERE city IN (SELECT city FROM visits)", True),
    "between_has_both_ends": (
        "SELECT name FROM people WHERE age BETWEEN 25 AND 30", "SELECT name FROM people WHERE age > 25 AND age <= 30", False),
    "columns_joined_into_one": ("SELECT name, city FROM people", "SELECT name || ' ' || city FROM people", False),
    "column_given_twice": ("SELECT name FROM people", "SELECT name, name FROM people", False),
    "second_query_in_a_comment_is_idle": ("SELECT name FROM people", "SELECT name FROM people -- ; DROP TABLE people", True),
    "plan_is_no_result": ("SELECT 1", "EXPLAIN QUERY PLAN SELECT 1", False),
    "random_order_is_an_order_like_any_other": ("SELECT name FROM people", "SELECT name FROM people ORDER BY RANDOM()", True),
    "union_in_the_wrong_order": (
        "SELECT name FROM people UNION SELECT city FROM people ORDER BY 1",
        "SELECT name FROM people UNION SELECT city FROM people ORDER BY 1 DESC", False),
    "tied_rows_of_a_union_in_either_order": (
        "SELECT name, city FROM people WHERE id < 3 UNION ALL SELECT name, city FROM people WHERE id = 3 ORDER BY 2;",
        "SELECT name, city FROM people WHERE id < 4 ORDER BY city, id DESC", True),
    "tied_rows_of_a_union_do_not_free_the_others": (
        "SELECT name, city FROM people WHERE id < 3 UNION ALL SELECT name, city FROM people WHERE id = 3 ORDER BY 2",
        "SELECT name, city FROM people WHERE id < 4 ORDER BY city DESC", False),
    "count_as_a_sum_of_truths": (
        "SELECT COUNT(*) FROM people WHERE age > 30", "SELECT SUM(age > 30) FROM people", True),
    "sum_of_nothing_is_null_and_not_zero": (
        "SELECT SUM(days) FROM visits WHERE person = 77", "SELECT TOTAL(days) FROM visits WHERE person = 77", False),
    "rank_gives_ties_one_place": (
        "SELECT RANK() OVER (ORDER BY age) FROM people WHERE age > 0",
        "SELECT ROW_NUMBER() OVER (ORDER BY age) FROM people WHERE age > 0", False),
    "rounded_average_is_another_number": (
        "SELECT AVG(height) FROM people", "SELECT ROUND(AVG(height), 2) FROM people", False),
    "first_of_two_fenced_queries_counts": (
        "SELECT 1", "```sql\nSELECT 1\n```\nor\n```sql\nSELECT 2\n```", True),
    "syntax_error": ("SELECT name FROM people", "SELEC name FROM people", False),
    "unknown_column": ("SELECT name FROM people", "SELECT nom FROM people", False),
    "unknown_table": ("SELECT name FROM people", "SELECT name FROM persons", False),
    "empty_text": ("SELECT name FROM people", "", False),
    "two_statements": ("SELECT name FROM people", "SELECT name FROM people; SELECT 1", False),
    "deleting_is_refused": ("SELECT name FROM people WHERE id > 9", "DELETE FROM people", False),
    "dropping_is_refused": ("SELECT name FROM people", "DROP TABLE people", False),
    "attaching_is_refused": ("SELECT 1", "ATTACH 'other.db' AS other", False),
    "pragma_is_refused": ("SELECT 1", "PRAGMA user_version = 1", False),
    "reading_a_file_is_refused": ("SELECT 1", "SELECT readfile('/etc/passwd')", False),
    "loading_code_is_refused": ("SELECT 1", "SELECT load_extension('x')", False),
    "endless_recursion_ends": ("SELECT 1", "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n FROM t) SELECT COUNT(*) FROM t", False),
    "endless_rows_end": ("SELECT 1", "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT 1 FROM t) SELECT n FROM t", False),
    "huge_value_is_refused": ("SELECT 1", "SELECT LENGTH(ZEROBLOB(2000000000))", False),
}  # fmt: skip


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data bases?#%41") / "a b.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCRIPT)
    return path


@pytest.fixture(scope="module")
def scores(database: Path) -> dict[str, tuple[float, float]]:
    texts = [text for _, text, _ in CASES.values()] * 2
    golds = [gold for gold, _, _ in CASES.values()]
    references = [{"query": gold, "database": SCRIPT} for gold in golds]
    references += [{"query": gold, "database_file": str(database)} for gold in golds]
    found = [grade.score for grade in grade_texts("sql", texts, references, seconds=3)]
    return dict(zip(CASES, zip(found[: len(CASES)], found[len(CASES) :], strict=True), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_sql(scores: dict[str, tuple[float, float]], name: str) -> None:
    assert scores[name] == (float(CASES[name][2]),) * 2, CASES[name]


def test_a_file_is_never_changed(database: Path) -> None:
    before = database.read_bytes()
    attacks = [
        "INSERT INTO people (id) VALUES (77)", "UPDATE people SET age = 0", "VACUUM", "REINDEX", "ANALYZE",
        "CREATE TEMP TABLE t (a)", "PRAGMA writable_schema = ON", "PRAGMA journal_mode = WAL", "BEGIN IMMEDIATE",
        f"ATTACH '{database}' AS again", f"VACUUM INTO '{database.parent / 'copy'}'",
    ]  # fmt: skip
    reference = {"query": "SELECT COUNT(*) FROM people", "database_file": str(database)}
    grades = grade_texts("sql", [*attacks, "SELECT 5"], [reference] * (len(attacks) + 1))
    assert [grade.score for grade in grades] == [0.0] * len(attacks) + [1.0]
    assert database.read_bytes() == before
    assert [path.name for path in database.parent.iterdir()] == [database.name]


def test_a_file_without_write_permission_can_be_read(tmp_path: Path, database: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "db").write_bytes(database.read_bytes())
    (folder / "db").chmod(0o400)
    folder.chmod(0o500)
    try:
        reference = {"query": "SELECT 1 FROM people", "database_file": str(folder / "db")}
        assert grade_texts("sql", ["SELECT 1 FROM people"], [reference])[0].score == 1.0
    finally:
        folder.chmod(0o700)


def test_relative_path_and_home_are_understood(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(database.parent)
    monkeypatch.setenv("HOME", str(database.parent))
    for path in (database.name, f"~/{database.name}"):
        reference = {"query": "SELECT 1 FROM people", "database_file": path}
        assert grade_texts("sql", ["SELECT 1 FROM people"], [reference])[0].score == 1.0


def test_rows_still_in_the_journal_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "live"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a)")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.commit()
        assert os.path.getsize(f"{path}-wal") > 0
        reference = {"query": "SELECT a FROM t", "database_file": str(path)}
        assert grade_texts("sql", ["SELECT 1"], [reference])[0].score == 1.0


ENDLESS = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n FROM t) SELECT COUNT(*) FROM t"


@pytest.mark.parametrize(
    ("gold", "rule"),
    [(ENDLESS, "takes longer than 1 s"), ("SELECT nothing", "does not run"), ("DELETE FROM people", "does not run")],
)
def test_a_reference_that_does_not_run_on_its_file_is_an_error(database: Path, gold: str, rule: str) -> None:
    with pytest.raises(DataError, match=rule) as caught:
        grade_texts("sql", ["SELECT 1"], [{"query": gold, "database_file": str(database)}], seconds=0.5)
    assert "eval.code_seconds" in str(caught.value)


def test_a_damaged_file_is_an_error(tmp_path: Path, database: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_bytes(database.read_bytes()[:100] + os.urandom(4000))
    for path, rule in ((damaged, "does not run|cannot be read"), (tmp_path / "absent", "cannot be read")):
        with pytest.raises(DataError, match=rule):
            grade_texts("sql", ["SELECT 1"], [{"query": "SELECT name FROM people", "database_file": str(path)}])


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("SELECT 1", "SELECT 1"),
        ("sqlite: select 1;", "select 1;"),
        ("The query:\n\nWITH t AS (SELECT 1)\nSELECT * FROM t;\n\nDone", "WITH t AS (SELECT 1)\nSELECT * FROM t;"),
        ("SELECT ';' FROM t; more", "SELECT ';' FROM t;"),
        ("SELECT 1\n\nThis selects one.", "SELECT 1"),
        ("```\nSELECT 1\n\nFROM t\n```\nthen SELECT 2", "SELECT 1\n\nFROM t"),
        ("SELECT a\n\nFROM t\n\nIt reads t.", "SELECT a\n\nFROM t"),
        ("SELECT 1;\nSELECT 2;\nDone", "SELECT 1;\nSELECT 2;"),
        ("No query here", "No query here"),
        ("Selected rows:\nnone", "Selected rows:\nnone"),
        ("", ""),
    ],
)
def test_extract_query(text: str, query: str) -> None:
    assert extract_query(text) == query


def test_canonical_queries_ignore_blanks_and_case_but_not_strings() -> None:
    assert canonicalise_query("select a\n from T;") == canonicalise_query("SELECT A FROM t")
    assert canonicalise_query("SELECT 'A'") != canonicalise_query("SELECT 'a'")
