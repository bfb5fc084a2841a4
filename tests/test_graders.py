"""Hard cases for the graders; the right verdict is argued in the case's name."""

from __future__ import annotations

import pytest

from tokensieve.errors import DataError
from tokensieve.graders import EXTRACTORS, GRADERS, grade_samples, grade_texts
from tokensieve.graders.code import extract_block
from tokensieve.graders.sql import extract_query


def case(name: str, *values: object) -> object:
    return pytest.param(*values, id=name)


@pytest.mark.parametrize(
    ("text", "program"),
    [
        case("no_fence", "x = 1", "x = 1"),
        case("language_is_not_code", "```python\nx = 1\n```", "x = 1\n"),
        case("no_language", "```\nx = 1\n```", "x = 1\n"),
        case("prose_around", "Sure!\n```py\nx = 1\n```\nDone", "x = 1\n"),
        case("first_of_two", "```\nx = 1\n```\n```\nx = 2\n```", "x = 1\n"),
        case("empty_block_is_skipped", "```\n```\n```\nx = 2\n```", "x = 2\n"),
        case("cut_off", "```python\nx = 1", "x = 1"),
        case("carriage_returns", "```python\r\nx = 1\r\n```", "x = 1\n"),
        case("fence_in_a_string", '```python\nx = "```"\n```', 'x = "```"\n'),
        case("four_ticks", "````\nx = '''\n```\n'''\n````", "x = '''\n```\n'''\n"),
        case("in_a_list", "1. So:\n\n   ```python\n   if x:\n       y = 1\n   ```\nDone.", "if x:\n    y = 1\n"),
        case("less_indented_than_its_fence", "  ```\n x = 1\n  ```", "x = 1\n"),
        case("tildes", "~~~python\nx = 1\n~~~", "x = 1\n"),
        case("empty", "", ""),
        case("inline_code_is_no_fence", "use `x`", "use `x`"),
    ],
)  # fmt: skip
def test_extract_block(text: str, program: str) -> None:
    assert extract_block(text) == program


def test_extract_query() -> None:
    assert extract_query("SQL: SELECT 1;") == "SELECT 1;"
    assert extract_query("```sql\nSELECT 1\n```") == "SELECT 1"


TEXTS = {
    "code": ("def f(): return 1", "def f(): return 2", {"tests": ["assert f() == 1"]}),
    "number": ("#### 1", "#### 2", {"answer": "1"}),
    "choice": ("Answer: A", "Answer: B", {"answer": "A", "labels": ["A", "B"]}),
    "sql": ("SELECT 1", "SELECT 2", {"database": "", "query": "SELECT 1"}),
    "math": (r"so \boxed{\frac{1}{2}}", r"so \boxed{\frac{1}{3}}", {"answer": r"\dfrac12"}),
    "drop_f1": ("Answer: two cats", "Answer: dogs", {"answers": ["the two cats"]}),
    "drop_em": ("Answer: two cats", "Answer: cats", {"answers": ["the two cats"]}),
    "exact_match": ("Answer: port 179.", "port 180", {"answer": "Port 179"}),
    "fuzzy_match": ("it listens at port 179", "it listens", {"answer": "It listens on port 179."}),
}
ODD_TEXTS = ["", " ", "\0", "\ud800", "💥" * 100, "(" * 5000, "```", "a\r\nb", "#" * 50_000, "Answer: " * 5000]


@pytest.mark.parametrize("grader", GRADERS)
def test_every_grader_keeps_the_contract(grader: str) -> None:
    right, wrong, reference = TEXTS[grader]
    grades = grade_texts(grader, [right, wrong, *ODD_TEXTS], [reference] * (2 + len(ODD_TEXTS)))
    assert [grade.score for grade in grades] == [1.0] + [0.0] * (1 + len(ODD_TEXTS))
    assert all(grade.reason and "\n" not in grade.reason for grade in grades)
    assert grade_texts(grader, [], []) == []
    with pytest.raises(DataError) as caught:
        grade_texts(grader, [right, right], [reference, {}])
    assert caught.value.row == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("grader", "reference"),
    [
        ("code", {"tests": []}),
        ("code", {"tests": "assert f() == 1"}),
        ("number", {"answer": "many"}),
        ("number", {"answer": "1 or 2"}),
        ("choice", {"answer": "Z", "labels": ["A"]}),
        ("sql", {"database": "", "query": "SELEC"}),
        ("sql", {"database": "CREATE", "query": "SELECT 1"}),
        ("sql", {"database_file": "/nowhere/at/all.sqlite", "query": "SELECT 1"}),
        ("sql", {"database_file": __file__, "query": "SELECT 1"}),
        ("math", {"answer": ""}),
        ("math", {"solution": "no box"}),
        ("drop_f1", {"answers": []}),
        ("drop_em", {"answers": ["", " "]}),
        ("exact_match", {"answer": "..."}),
        ("fuzzy_match", {"answers": [None]}),
    ],
)
def test_useless_references_are_errors(grader: str, reference: dict[str, object]) -> None:
    with pytest.raises(DataError):
        grade_texts(grader, ["x"], [reference])


def test_mbpp_layout() -> None:
    published = {"test_list": ["assert f(k) == 3"], "test_setup_code": "k = 1", "challenge_test_list": []}
    configured = {"tests": ["assert f(k) == 3"], "setup": "k = 1"}
    grades = grade_texts("code", ["def f(x): return x + 2"] * 2, [published, configured])
    assert [grade.score for grade in grades] == [1.0, 1.0]


@pytest.mark.parametrize("grader", EXTRACTORS)
def test_extractors_compare_two_texts_without_a_reference(grader: str) -> None:
    right, wrong, reference = TEXTS[grader]
    question = {key: value for key, value in reference.items() if key == "labels"}
    extract = EXTRACTORS[grader]
    assert extract(right, question) == extract(f"{right} ", question) is not None
    assert extract(right, question) != extract(wrong, question)
    for text in ODD_TEXTS:
        found = extract(text, question)
        assert found is None or found.strip()
    assert extract("", question) is None


def test_extractors_cover_every_grader() -> None:
    assert set(EXTRACTORS) == set(GRADERS)


def test_samples_of_an_item_are_graded_together_and_errors_name_the_item() -> None:
    reference = {"tests": ["assert f() == 1"]}
    samples = [["def f(): return 1", "def f(): return 2"], [], ["def f(): return 1"]]
    grades = grade_samples("code", samples, [reference] * 3)
    assert [[grade.score for grade in item] for item in grades] == [[1.0, 0.0], [], [1.0]]
    with pytest.raises(DataError) as caught:
        grade_samples("number", [["1", "2"], ["3"]], [{"answer": "1"}, {}])
    assert caught.value.row == 1  # type: ignore[attr-defined]
