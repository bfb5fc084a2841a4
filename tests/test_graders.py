"""Hard cases for the graders; the right verdict is argued in the case's name."""

from __future__ import annotations

import pytest

from tokensieve.errors import DataError
from tokensieve.graders import GRADERS, grade_texts
from tokensieve.graders.choice import extract_label
from tokensieve.graders.code import extract_block
from tokensieve.graders.number import find_numbers, grade_number
from tokensieve.graders.sql import extract_query


def case(name: str, *values: object) -> object:
    return pytest.param(*values, id=name)


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        case("marked", "6 * 7 = 42\n#### 42", "42", True),
        case("marked_wins_over_later_text", "#### 42\nThat took 3 steps", "42", True),
        case("the_first_number_after_the_mark_counts", "#### 42 of 100", "42", True),
        case("last_mark_counts", "#### 1\n#### 42", "42", True),
        case("mark_without_number_is_no_answer", "42\n#### none", "42", False),
        case("last_number_without_mark", "First 7, then 42.", "42", True),
        case("an_intermediate_number_is_not_the_answer", "42, then 7", "42", False),
        case("full_stop_is_not_a_decimal_point", "It is 42.", "42", True),
        case("decimal_zeros", "#### 42.00", "42", True),
        case("leading_zeros", "#### 042", "42", True),
        case("thousands_separator", "#### 1,234,567", "1234567", True),
        case("a_list_is_not_a_thousands_separator", "1, 2, 3", "123", False),
        case("a_misplaced_comma_separates", "#### 12,34", "1234", False),
        case("latex_thousands_separator", "#### 1{,}234", "1234", True),
        case("dollar", "#### $42", "42", True),
        case("latex_dollar", "#### \\$42", "42", True),
        case("euro", "€42", "42", True),
        case("unit_behind", "#### 42 apples", "42", True),
        case("unit_without_blank", "#### 42kg", "42", True),
        case("percent_sign_is_a_unit", "#### 42%", "42", True),
        case("percent_is_not_a_fraction", "#### 42%", "0.42", False),
        case("negative", "#### -42", "-42", True),
        case("negative_dollars", "#### -$42", "-42", True),
        case("dollars_negative", "#### $-42", "-42", True),
        case("unicode_minus", "#### −42", "-42", True),
        case("sign_matters", "#### 42", "-42", False),
        case("subtraction_is_not_a_sign", "so 50-8", "8", True),
        case("range_is_not_a_sign", "pages 8-42", "42", True),
        case("negative_zero_is_zero", "#### -0", "0", True),
        case("zero_point_zero", "#### 0.0", "0", True),
        case("no_digit_before_the_point", "#### .5", "0.5", True),
        case("fraction_is_its_value", "#### 1/2", "0.5", True),
        case("fractions_are_exact", "#### 1/3", "0.3333", False),
        case("division_by_zero_does_not_crash", "#### 1/0", "2", False),
        case("scientific", "#### 4.2e1", "42", True),
        case("huge_exponent", "#### 1e999", "42", False),
        case("word_with_digit_is_no_number", "x42", "42", False),
        case("bold", "#### **42**", "42", True),
        case("latex_inline", "the answer is $42$", "42", True),
        case("boxed", "\\boxed{42}", "42", True),
        case("equals", "x=42", "42", True),
        case("number_words_are_no_digits", "forty-two", "42", False),
        case("empty", "", "42", False),
        case("only_a_mark", "####", "42", False),
        case("close_is_wrong", "#### 41.999999999", "42", False),
        case("a_long_run_of_digits_does_not_crash", "9" * 10_000, "42", False),
        case("non_latin_digits_are_not_read", "#### ٤٢", "42", False),
        case("answer_may_carry_a_separator", "#### 1234", "1,234", True),
        case("answer_may_be_a_number", "#### 5", 5, True),
    ],
)  # fmt: skip
def test_number(text: str, answer: object, right: bool) -> None:
    assert grade_number(text, {"answer": answer}).score == float(right)


def test_numbers_of_any_text_are_found_in_linear_time() -> None:
    for text in (
        "1," * 50_000,
        "-" * 100_000,
        "1/" * 50_000,
        "." * 100_000,
        "1e" * 50_000,
        "$" * 100_000,
        "1 " * 50_000,
    ):
        find_numbers(text)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        case("announced", "Answer: B", "B"),
        case("announced_at_the_end", "The bridge is in Ost.\nAnswer: B", "B"),
        case("any_case", "ANSWER: b", "B"),
        case("in_a_sentence", "The answer is B.", "B"),
        case("in_a_sentence_bracketed", "so the correct answer is (B) because", "B"),
        case("with_a_colon", "The answer is: B", "B"),
        case("option_word", "Answer: Option B", "B"),
        case("bold_label", "Answer: **B**", "B"),
        case("bold_word", "**Answer:** B", "B"),
        case("bold_all", "**Answer: B**", "B"),
        case("boxed", "so \\boxed{B}", "B"),
        case("boxed_text", "so \\boxed{\\text{B}}", "B"),
        case("dollar", "Answer: $B$", "B"),
        case("with_its_option", "Answer: B) red", "B"),
        case("with_its_option_and_a_stop", "Answer: B. red", "B"),
        case("repeated_alike", "Answer: B\nAnswer: B", "B"),
        case("repeated_unlike_is_ambiguous", "Answer: B\nAnswer: C", None),
        case("label_only", "B", "B"),
        case("label_and_stop", "B.", "B"),
        case("label_in_brackets", "(B)", "B"),
        case("label_in_square_brackets", "[B]", "B"),
        case("lower_case_alone", "b", "B"),
        case("blank_around", "  B\n", "B"),
        case("label_starts_the_line", "B) red", "B"),
        case("label_starts_the_line_with_a_stop", "B. red", "B"),
        case("bracketed_in_a_sentence", "It must be (B), clearly", "B"),
        case("two_bracketed_are_ambiguous", "either (B) or (C)", None),
        case("options_repeated_are_ambiguous", "A) red\nB) green\nC) blue\nD) grey", None),
        case("announcement_beats_repeated_options", "A) red\nB) green\nAnswer: B", "B"),
        case("announcement_beats_a_bracket", "Not (C). Answer: B", "B"),
        case("the_article_is_no_label", "A bridge in Ost", None),
        case("the_article_after_the_word", "The answer is a bridge", None),
        case("letter_in_a_word", "Answer: Berlin", None),
        case("letter_in_an_abbreviation", "Answer: B-52", None),
        case("possessive", "Answer: B's", None),
        case("formula_is_no_label", "Answer: B = 3", "B"),
        case("word_in_capitals", "ABSOLUTELY", None),
        case("label_outside_the_options", "Answer: E", None),
        case("nothing", "", None),
        case("refusal", "I do not know.", None),
        case("non_latin_look_alike", "Answer: В", None),
        case("digit_is_no_letter", "Answer: 2", None),
        case("unanswered", "Answer:", None),
    ],
)  # fmt: skip
def test_choice(text: str, chosen: str | None) -> None:
    assert extract_label(text, ("A", "B", "C", "D")) == chosen


def test_other_labels() -> None:
    assert extract_label("Answer: 2", "1234") == "2"
    assert extract_label("Answer: 25", "1234") is None
    assert extract_label("Answer: E", "ABCDE") == "E"
    assert extract_label("Answer: D", "ABC") is None
    assert extract_label("Answer: +", ("+", "-")) == "+"


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
    ],
)
def test_useless_references_are_errors(grader: str, reference: dict[str, object]) -> None:
    with pytest.raises(DataError):
        grade_texts(grader, ["x"], [reference])


def test_mbpp_layout() -> None:
    reference = {"test_list": ["assert f(k) == 3"], "test_setup_code": "k = 1", "challenge_test_list": []}
    assert grade_texts("code", ["def f(x): return x + 2"], [reference])[0].score == 1.0
