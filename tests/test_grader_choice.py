"""Chosen labels: the right verdict is argued in each case's name."""

from __future__ import annotations

import pytest

from tokensieve.graders import grade_texts
from tokensieve.graders.choice import extract_label


def case(name: str, *values: object) -> object:
    return pytest.param(*values, id=name)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        case("announced", "Answer: B", "B"),
        case("alone_on_its_line_before_a_reason", "B\n\nExplanation: the sky is in Ost.", "B"),
        case("bold_on_its_line_before_a_reason", "**B**\n\nBecause A bridge is there.", "B"),
        case("two_lines_of_labels_choose_none", "A\nthe bridge\nB\nthe sky", None),
        case("article_at_the_start_is_no_line", "A bridge\nis there", None),
        case("second_label_is_refused", "The answer is B; A is incorrect because of Ost.", "B"),
        case("second_label_is_refused_after_a_comma", "The answer is B, D is wrong.", "B"),
        case("second_label_is_not_refused", "The answer is B; A is possible too.", None),
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
        case("announced_twice_in_one_sentence", "The answer is B, so the answer is B.", "B"),
        case("hedged_with_or_is_ambiguous", "Answer: A or B", None),
        case("hedged_with_and_is_ambiguous", "Answer: A and B", None),
        case("hedged_with_a_slash_is_ambiguous", "Answer: A/B", None),
        case("hedged_with_a_comma_is_ambiguous", "Answer: A, B", None),
        case("hedged_in_brackets_is_ambiguous", "The answer is (A) or (B).", None),
        case("hedged_in_the_box_is_ambiguous", "\\boxed{A \\text{ or } B}", None),
        case("hedge_with_itself_is_none", "Answer: B or B", "B"),
        case("article_after_a_comma_is_no_hedge", "Answer: B, A bridge needs stone", "B"),
        case("and_before_a_word_is_no_hedge", "Answer: B and Carl agrees", "B"),
        case("negated_is_not_chosen", "The answer is not B", None),
        case("negated_then_chosen", "The answer is not B. Answer: C", "C"),
        case("a_cat_is_an_animal", "Answer: A cat", None),
        case("a_cat_in_the_sentence", "The answer is A cat that sleeps", None),
        case("a_because_is_a_label", "Answer: A because it sleeps", "A"),
        case("a_with_its_option", "Answer: A. cat", "A"),
        case("a_in_brackets_with_its_option", "Answer: (A) cat", "A"),
        case("a_at_the_end", "The answer is A", "A"),
        case("small_a_with_stop", "the answer is a.", "A"),
        case("small_a_with_bracket", "answer: a) cat", "A"),
        case("correct_option", "The correct option is B.", "B"),
        case("correct_choice_with_colon", "Correct choice: B", "B"),
        case("option_is_correct", "Option B is correct because of the bridge.", "B"),
        case("option_is_the_right_one", "I think option (B) is the right one.", "B"),
        case("option_is_wrong", "Option B is wrong.", None),
        case("two_options_called_correct_are_ambiguous", "Option A is correct. Option B is correct.", None),
        case("announcement_beats_a_correct_option", "Option A is correct? No. Answer: B", "B"),
        case("markdown_heading", "## Answer\n\nB", "B"),
        case("markdown_heading_bold", "**Final answer**\n(B) red", "B"),
        case("answer_on_the_next_line", "Answer:\nB", "B"),
        case("answer_after_an_empty_line", "Answer:\n\n**B**", "B"),
        case("final_answer", "Final Answer: B", "B"),
        case("quoted", 'The answer is "B".', "B"),
        case("backticks", "Answer: `B`", "B"),
        case("latex_inline", "Answer: \\(B\\)", "B"),
        case("latex_display", "Answer: \\[\\boxed{B}\\]", "B"),
        case("latex_bold", "Answer: \\textbf{B}", "B"),
        case("latex_mathbf", "Answer: $\\mathbf{B}$", "B"),
        case("latex_text_with_bracket", "\\boxed{\\text{(B)}}", "B"),
        case("box_with_its_option", "\\boxed{B. red}", "B"),
        case("box_with_a_word", "\\boxed{Berlin}", None),
        case("full_width_colon", "Answer：B", "B"),
        case("equals_sign", "Answer = B", "B"),
        case("answer_was", "The answer was B.", "B"),
        case("answer_must_be", "The answer must be (B)", "B"),
        case("answers_of_others_are_not_this_one", "Many answers are blue", None),
        case("label_glued_to_a_digit", "Answer: B2", None),
        case("vitamin", "Answer: vitamin B", None),
        case("plus_sign_is_another_name", "Answer: B+", None),
        case("underscored_name", "Answer: B_1", None),
        case("reasoning_mentions_all_options", "A is small. B is big. So the answer is B.", "B"),
        case("reasoning_without_decision", "A is small. B is big.", None),
        case("label_of_a_list_item_far_below", "I weigh all.\n\nB) red", "B"),
        case("emoji_around", "👉 Answer: B 👈", "B"),
        case("the_article_is_no_label", "A bridge in Ost", None),
        case("the_article_after_the_word", "The answer is a bridge", None),
        case("letter_in_a_word", "Answer: Berlin", None),
        case("letter_in_an_abbreviation", "Answer: B-52", None),
        case("possessive", "Answer: B's", None),
        case("option_behind_an_equals_sign", "Answer: B = 3", "B"),
        case("word_in_capitals", "ABSOLUTELY", None),
        case("label_outside_the_options", "Answer: E", None),
        case("nothing", "", None),
        case("refusal", "I do not know.", None),
        case("non_latin_look_alike", "Answer: В", None),
        case("digit_is_no_letter", "Answer: 2", None),
        case("unanswered", "Answer:", None),
        case("called_wrong_is_not_chosen", "Answer: B is wrong", None),
        case("bracket_called_wrong_is_not_chosen", "(A) is wrong.", None),
        case("bracket_after_not_is_not_chosen", "It is not (A).", None),
        case("answer_is_not_a_bracket", "The answer is not (B)", None),
        case("denied_and_replaced", "The correct answer is not (B) but (C).", "C"),
        case("denied_short_and_replaced", "The answer isn't (A), it's (B)", "B"),
        case("neither_of_two", "Answer: neither (A) nor (B)", None),
        case("others_called_wrong_afterwards", "The answer is B. (A) and (C) are wrong.", "B"),
        case("rejected_in_brackets", "Answer: B (not A)", "B"),
        case("two_labels_side_by_side_are_ambiguous", "Answer: A B", None),
        case("all_labels_side_by_side_are_ambiguous", "Answer: A B C D", None),
        case("hedged_with_maybe_is_ambiguous", "The answer is B or maybe C.", None),
        case("hedged_with_a_semicolon_is_ambiguous", "Answer: B; C", None),
        case("hedged_with_plus_is_ambiguous", "Answer: B plus C", None),
        case("three_of_them_are_ambiguous", "The answer is A, B or C.", None),
        case("revised_answer_is_ambiguous", "Answer: B. However, the answer is C.", None),
        case("label_is_the_correct_answer", "B is the correct answer.", "B"),
        case("label_is_not_the_correct_answer", "B is not the correct answer.", None),
        case("tagged", "<answer>B</answer>", "B"),
        case("after_a_dash", "Answer - B", "B"),
        case("adverb_before_the_label", "The answer is definitely B.", "B"),
        case("unsure_and_still_answered", "I am not sure. The answer is B", "B"),
        case("refused_in_a_list_of_verdicts", "A: no\nB: yes", "B"),
        case("all_refused_in_a_list_of_verdicts", "A: no\nB: wrong", None),
        case("answer_taken_back_is_ambiguous", "The answer is A. No wait, it is B", None),
        case("called_correct", "I weighed all of them. C is correct.", "C"),
        case("right_beside_something_is_no_verdict", "B is right next to C", None),
        case("also_another_is_ambiguous", "The answer: B and also A", None),
        case("or_else_is_ambiguous", "Answer: A or else B", None),
        case("bar_between_two_is_ambiguous", "Answer: B|C", None),
        case("arrow_between_two_is_ambiguous", "Answer: B -> C", None),
        case("labels_with_their_brackets_are_ambiguous", "Answer: A) B) C)", None),
        case("option_that_begins_with_an_article", "Answer: B) A bridge", "B"),
        case("two_labels_glued_are_no_label", "Answer: AB", None),
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
    ("text", "labels", "chosen"),
    [
        case("digits_as_labels", "Answer: 3", "1234", "3"),
        case("digit_in_brackets", "(3)", "1234", "3"),
        case("digit_alone", "3", "1234", "3"),
        case("digit_in_a_number", "Answer: 13", "1234", None),
        case("digit_before_a_point_and_digits", "Answer: 3.5", "1234", None),
        case("digit_with_its_option", "Answer: 3. red", "1234", "3"),
        case("digits_hedged", "Answer: 3 or 4", "1234", None),
        case("letter_for_digits", "Answer: C", "1234", None),
        case("three_options", "Answer: C", "ABC", "C"),
        case("fourth_of_three", "Answer: D", "ABC", None),
        case("five_options", "The answer is (E).", "ABCDE", "E"),
        case("e_in_a_word_of_five", "Answer: East", "ABCDE", None),
        case("two_options", "Answer: B", "AB", "B"),
        case("true_and_false", "The answer is: True", ("True", "False"), "True"),
        case("labels_of_several_letters", "Answer: (ii)", ("i", "ii", "iii"), "ii"),
        case("signs_as_labels", "Answer: -", ("+", "-"), "-"),
        case("yes_no_maybe", "Answer: maybe", ("yes", "no", "maybe"), "maybe"),
        case("positive_negative_neutral", "The answer is neutral.", ("positive", "negative", "neutral"), "neutral"),
    ],
)  # fmt: skip
def test_labels(text: str, labels: tuple[str, ...], chosen: str | None) -> None:
    assert extract_label(text, labels) == chosen


def test_labels_may_be_numbers_in_the_reference() -> None:
    grades = grade_texts("choice", ["Answer: 2", "Answer: 1"], [{"answer": 2, "labels": [1, 2, 3]}] * 2)
    assert [grade.score for grade in grades] == [1.0, 0.0]


@pytest.mark.parametrize(
    "text",
    [
        "Answer: " * 20_000,
        "(" * 50_000,
        "\\boxed{" * 10_000,
        "answer is A or " * 5000,
        "A)" * 30_000,
        "* " * 50_000,
        "\n" * 100_000,
        "## Answer\n" * 10_000,
        "not (A) " * 10_000,
        "A B " * 20_000,
        "answer - " * 10_000,
        "no wait, it is " * 10_000,
        "A: no " * 10_000,
    ],
)
def test_long_texts_are_read_in_bounded_time(text: str) -> None:
    assert extract_label(text, "ABCD") in (None, "A")
