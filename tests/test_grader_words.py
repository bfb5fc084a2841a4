"""Free-text answers: the right verdict is argued in each case's name."""

from __future__ import annotations

import pytest

from tokensieve.graders import grade_texts
from tokensieve.graders.words import FUZZY_THRESHOLD, normalise_words


def case(name: str, *values: object) -> object:
    return pytest.param(*values, id=name)


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        case("same_text", "port 179", "port 179", True),
        case("case_does_not_count", "BGP", "bgp", True),
        case("final_stop_does_not_count", "Yes.", "Yes", True),
        case("blanks_do_not_count", "port\n 179", "port 179", True),
        case("bold_does_not_count", "**port 179**", "port 179", True),
        case("code_marks_do_not_count", "`no shutdown`", "no shutdown", True),
        case("quotes_do_not_count", "“port 179”", "port 179", True),
        case("announcement_does_not_count", "Answer: port 179", "port 179", True),
        case("announcement_in_bold", "**Answer:** port 179", "port 179", True),
        case("full_width_digits_are_the_same", "port １７９", "port 179", True),
        case("part_of_the_answer_is_wrong", "179", "port 179", False),
        case("more_than_the_answer_is_wrong", "port 179 or 180", "port 179", False),
        case("negation_is_another_answer", "not port 179", "port 179", False),
        case("sign_counts", "-5", "5", False),
        case("leading_point_counts", ".5", "5", False),
        case("percent_sign_counts", "5%", "5", False),
        case("inner_hyphen_counts", "re-sent", "resent", False),
        case("snake_case_keeps_its_marks", "max_length", "maxlength", False),
        case("star_between_numbers_counts", "2*3", "23", False),
        case("accent_counts", "José", "Jose", False),
        case("empty", "", "yes", False),
    ],
)  # fmt: skip
def test_exact(text: str, gold: str, right: bool) -> None:
    assert grade_texts("exact_match", [text], [{"answer": gold}])[0].score == float(right)


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        case("same_text", "BGP listens on port 179", "BGP listens on port 179", True),
        case("words_in_another_order", "on port 179 BGP listens", "BGP listens on port 179", True),
        case("one_little_word_differs", "BGP listens at port 179", "BGP listens on port 179", True),
        case("typing_error", "BGP lisens on port 179", "BGP listens on port 179", True),
        case("part_of_the_answer_is_wrong", "port 179", "BGP listens on port 179", False),
        case("answer_lost_in_a_long_text", "port 179 " + "and other things " * 5, "port 179", False),
        case("unrelated_text", "OSPF floods its link states", "BGP listens on port 179", False),
        case("other_language", "BGP écoute le port", "BGP listens on port 179", False),
        case("empty", "", "yes", False),
        case("short_answer_with_another_letter", "no", "yes", False),
    ],
)  # fmt: skip
def test_fuzzy(text: str, gold: str, right: bool) -> None:
    assert grade_texts("fuzzy_match", [text], [{"answer": gold}])[0].score == float(right)


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        case("one_digit_differs", "BGP listens on port 178", "BGP listens on port 179", False),
        case("one_digit_more", "the hold timer is 1800 seconds", "the hold timer is 180 seconds", False),
        case("thousands_separator_is_the_same_number", "it waits 1,500 ms for it", "it waits 1500 ms for it", True),
        case("not_turns_it_round", "it is not supported by default here", "it is supported by default here", False),
        case("cannot_turns_it_round", "It cannot be used.", "It can be used.", False),
        case("contracted_not_turns_it_round", "It isn't used there at all.", "It is used there at all.", False),
        case("cannot_in_two_words", "It can not be used on this port of it.", "It cannot be used on this port of it.", True),
        case("yes_is_not_no", "Yes, it is supported by default.", "No, it is supported by default.", False),
        case("both_deny", "It is not supported on the port", "It isn't supported on the port", True),
    ],
)  # fmt: skip
def test_what_decides_must_agree_however_near_the_rest_is(text: str, gold: str, right: bool) -> None:
    assert grade_texts("fuzzy_match", [text], [{"answer": gold}])[0].score == float(right)


def test_the_order_of_words_is_free_for_the_fuzzy_grader() -> None:
    """Its known weakness: where the order decides, use `exact_match`."""
    reference = [{"answer": "A comes before B"}]
    assert grade_texts("fuzzy_match", ["B comes before A"], reference)[0].score == 1.0
    assert grade_texts("exact_match", ["B comes before A"], reference)[0].score == 0.0


def test_any_accepted_answer_counts() -> None:
    reference = {"answers": ["port 179", "TCP port 179"]}
    for grader in ("exact_match", "fuzzy_match"):
        assert [grade.score for grade in grade_texts(grader, ["tcp port 179", "port 80"], [reference] * 2)] == [
            1.0,
            0.0,
        ]


def test_agreement_is_by_hand_what_the_threshold_is_compared_with() -> None:
    # 17 letters and blanks of 20 and 20 agree: 100 * (1 - 6 / 40) = 85
    one, other = "aaaaaaaaaaaaaaaaabbb", "aaaaaaaaaaaaaaaaaccc"
    assert FUZZY_THRESHOLD == 85.0
    (grade,) = grade_texts("fuzzy_match", [one], [{"answer": other}])
    assert grade.score == 1.0
    (grade,) = grade_texts("fuzzy_match", [one + "b"], [{"answer": other}])
    assert grade.score == 0.0


def test_normalise_words_is_idempotent() -> None:
    for text in ("**A** `b`", "Answer: ' x '", "_x_", "ﬁne ½", "İ", "(a) [b]", "a." * 3):
        assert normalise_words(normalise_words(text)) == normalise_words(text)
