"""DROP's EM and F1: the right values are argued in each case's name, and computed by hand from the definition."""

from __future__ import annotations

import pytest

from tokensieve.graders import grade_texts
from tokensieve.graders.drop import extract_spans, normalise_span, read_answers, score_spans


def case(name: str, *values: object) -> object:
    return pytest.param(*values, id=name)


@pytest.mark.parametrize(
    ("predicted", "gold", "exact", "f1"),
    [
        case("same_span", ["Smith"], ["Smith"], 1, 1),
        case("case_does_not_count", ["SMITH"], ["smith"], 1, 1),
        case("article_does_not_count", ["the cat"], ["a cat"], 1, 1),
        case("article_inside_a_word_counts", ["theatre"], ["atre"], 0, 0),
        case("only_an_article_is_nothing", ["the"], ["cat"], 0, 0),
        case("punctuation_does_not_count", ["U.S.A."], ["USA"], 1, 1),
        case("quotes_do_not_count", ['"Smith"'], ["Smith"], 1, 1),
        case("final_stop_does_not_count", ["Smith."], ["Smith"], 1, 1),
        case("hyphen_separates_words", ["30-yard"], ["30 yard"], 1, 1),
        case("hyphen_in_a_range", ["1990-1995"], ["1990 1995"], 1, 1),
        case("blanks_do_not_count", ["John   Smith"], ["John Smith"], 1, 1),
        case("integer_equals_its_decimal", ["3"], ["3.0"], 1, 1),
        case("leading_zero_is_idle", ["03"], ["3"], 1, 1),
        case("thousands_separator_is_the_same_number", ["1,500"], ["1500"], 1, 1),
        case("trailing_zeros_are_idle", ["2.50"], ["2.5"], 1, 1),
        case("decimal_point_of_a_number_stays", ["2.5"], ["25"], 0, 0),
        case("percent_sign_is_punctuation", ["50%"], ["50"], 1, 1),
        case("dollar_sign_is_punctuation", ["$50"], ["50"], 1, 1),
        case("the_definition_joins_digits_around_a_point_beside_a_sign", ["$3.5"], ["35"], 1, 1),
        case("negative_sign_is_a_hyphen_and_lost", ["-5"], ["5"], 1, 1),
        case("other_number_is_wrong", ["4"], ["3"], 0, 0),
        case("number_word_is_not_its_digit", ["three"], ["3"], 0, 0),
        case("unit_beside_the_number_counts_half", ["3 yards"], ["3"], 0, 0.67),
        case("missing_unit_counts_half", ["3"], ["3 yards"], 0, 0.67),
        case("right_unit_with_the_wrong_number_is_worth_nothing", ["4 yards"], ["3 yards"], 0, 0),
        case("number_in_the_prediction_alone_is_no_conflict", ["3 Smith"], ["Smith"], 0, 0.67),
        case("one_shared_number_of_two_suffices", ["3 4"], ["3 5"], 0, 0.5),
        case("part_of_a_name", ["Smith"], ["John Smith"], 0, 0.67),
        case("too_many_words", ["the very old John Smith"], ["John Smith"], 0, 0.67),
        case("words_in_another_order_share_their_bag", ["Smith John"], ["John Smith"], 0, 1),
        case("repeated_word_counts_once_in_the_bag", ["no no"], ["no"], 0, 1),
        case("nothing_shared", ["Jones"], ["Smith"], 0, 0),
        case("spans_in_another_order", ["Jones", "Smith"], ["Smith", "Jones"], 1, 1),
        case("missing_span_halves", ["Smith"], ["Smith", "Jones"], 0, 0.5),
        case("extra_span_halves", ["Smith", "Jones"], ["Smith"], 0, 0.5),
        case("two_of_three_spans", ["Smith", "Jones"], ["Jones", "Brown", "Smith"], 0, 0.67),
        case("repeated_span_is_not_an_exact_match", ["Smith", "Smith"], ["Smith"], 0, 0.5),
        case("same_set_but_other_number_of_spans", ["Smith", "Smith"], ["Smith", "Jones"], 0, 0.5),
        case("one_span_for_two_cannot_be_aligned_twice", ["Smith Jones"], ["Smith", "Jones"], 0, 0.33),
        case("best_alignment_not_the_first", ["John Smith", "Smith"], ["Smith", "John Smith"], 1, 1),
        case("alignment_is_best_in_sum", ["a1 b1", "a1"], ["a1", "a1 b1 c1"], 0, 0.9),
        case("empty_prediction", [""], ["Smith"], 0, 0),
        case("no_prediction", [], ["Smith"], 0, 0),
        case("accents_count", ["Jose"], ["José"], 0, 0),
        case("unicode_punctuation_is_no_punctuation", ["Smith’s"], ["Smiths"], 0, 0),
        case("date_in_the_same_words", ["4 July 1776"], ["July 4, 1776"], 0, 1),
        case("two_numbers_offered_for_one_share_half", ["3 or 4"], ["3"], 0, 0.5),
        case("denied_span_is_not_exact", ["not Smith"], ["Smith"], 0, 0.67),
        case("number_in_scientific_notation", ["1e3"], ["1000"], 1, 1),
        case("ordinal_is_not_its_number", ["3rd"], ["3"], 0, 0),
        case("number_in_words_is_not_its_digits", ["two hundred"], ["200"], 0, 0),
        case("leading_zero_of_a_decimal_may_lack", [".5"], ["0.5"], 1, 1),
        case("plus_sign_is_idle", ["+3"], ["3"], 1, 1),
        case("brackets_are_punctuation", ["(3)"], ["3"], 1, 1),
        case("percent_word_is_a_word", ["3%"], ["3 percent"], 0, 0.67),
        case("the_definition_joins_the_parts_of_a_fraction", ["1/2"], ["12"], 1, 1),
        case("the_definition_joins_the_parts_of_a_time", ["12:30"], ["1230"], 1, 1),
        case("the_definition_takes_the_point_of_an_amount_for_punctuation", ["$1,500.50"], ["1500.50"], 0, 0),
        case("names_in_one_span_are_not_two_spans", ["Smith, Jones"], ["Smith", "Jones"], 0, 0.33),
        case("plural_is_another_word", ["dogs"], ["dog"], 0, 0),
        case("all_candidates_named_lose_precision", ["Smith", "Jones", "Brown", "White"], ["Smith"], 0, 0.25),
        case("whole_sentence_around_the_span_loses_precision", ["it was Smith who scored first"], ["Smith"], 0, 0.29),
        case("infinity_is_a_number_to_the_definition", ["inf"], ["infinity"], 1, 1),
    ],
)  # fmt: skip
def test_scores(predicted: list[str], gold: list[str], exact: int, f1: float) -> None:
    assert score_spans(predicted, gold) == (exact, pytest.approx(f1))


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        case("announced", "He scored.\nAnswer: Smith", ["Smith"]),
        case("announced_in_a_sentence", "The answer is Smith", ["Smith"]),
        case("last_announcement_counts", "Answer: Jones\nAnswer: Smith", ["Smith"]),
        case("nothing_but_the_answer", "Smith", ["Smith"]),
        case("semicolons_separate", "Answer: Smith; Jones", ["Smith", "Jones"]),
        case("commas_belong_to_the_span", "Answer: Paris, France", ["Paris, France"]),
        case("and_belongs_to_the_span", "Answer: Johnson and Sons", ["Johnson and Sons"]),
        case("lines_separate", "Answer:\nSmith\nJones", ["Smith", "Jones"]),
        case("bullets_are_no_words", "Answer:\n- Smith\n- Jones", ["Smith", "Jones"]),
        case("numbering_is_no_number", "Answer:\n1. Smith\n2. Jones", ["Smith", "Jones"]),
        case("year_is_no_numbering", "Answer: 1990", ["1990"]),
        case("remark_after_an_empty_line", "Answer: Smith\n\nHe scored twice.", ["Smith"]),
        case("bold", "**Answer:** **Smith**", ["Smith"]),
        case("answer_to_the_question", "The answer to the question is Smith", ["Smith"]),
        case("announced_in_vain_at_the_end", "Answer: Smith\nAnswer: ", []),
        case("empty_spans_are_none", "Answer: ; ;", []),
        case("empty", "", []),
    ],
)  # fmt: skip
def test_extract_spans(text: str, spans: list[str]) -> None:
    assert extract_spans(text) == spans


@pytest.mark.parametrize("grader", ["drop_em", "drop_f1"])
def test_the_best_reference_counts(grader: str) -> None:
    references = [{"answers": ["Jones", "John Smith", ["Smith", "Brown"]]}] * 3
    scores = [grade.score for grade in grade_texts(grader, ["John Smith", "Brown; Smith", "White"], references)]
    assert scores == [1.0, 1.0, 0.0]


def test_layouts_of_the_published_files() -> None:
    number = {"number": "3", "date": {"day": "", "month": "", "year": ""}, "spans": []}
    date = {"number": "", "date": {"day": "4", "month": "July", "year": "1776"}, "spans": []}
    spans = {"number": "", "date": {}, "spans": ["Smith", "Jones"]}
    assert read_answers({"answers": [number, date, spans]}) == [["3"], ["4 July 1776"], ["Smith", "Jones"]]
    assert read_answers({"answers": {"spans": ["Smith"], "types": ["span"]}}) == [["Smith"]]
    assert read_answers({"answer": 3}) == [["3"]]
    assert read_answers({"answers": ["", "Smith"]}) == [["Smith"]]


def test_normalise_span_is_idempotent() -> None:
    for span in ("The 3.50 cats, etc.", "$1,500-a-year", "nan", "a", "", "٣ cats", "1e400", "1_000"):
        assert normalise_span(normalise_span(span)) == normalise_span(span)


def test_many_spans_are_aligned_in_bounded_time() -> None:
    assert score_spans([f"word{k}" for k in range(100)], ["word1", "word2"]) == (0.0, 0.02)
