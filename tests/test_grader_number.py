"""Final numbers (GSM8K): the right verdict is argued in each case's name."""

from __future__ import annotations

import pytest

from tokensieve.graders.number import extract_number, find_numbers, grade_number


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
        case("equation_after_the_mark_states_its_right_side", "#### 6 * 7 = 42", "42", True),
        case("left_side_of_the_equation_is_not_the_answer", "#### 6 * 7 = 42", "6", False),
        case("chain_of_equations", "#### x = 40 + 2 = 42", "42", True),
        case("boxed_before_a_remark", "\\boxed{42}. This took 3 steps", "42", True),
        case("remark_after_the_box_is_not_the_answer", "\\boxed{42}. This took 3 steps", "3", False),
        case("boxed_with_words", "\\boxed{42 \\text{ apples}}", "42", True),
        case("mark_beats_a_box", "\\boxed{7}\n#### 42", "42", True),
        case("announced_before_a_remark", "The answer is 42. It took 3 steps.", "42", True),
        case("announced_with_a_sum", "Answer: 40 + 2 = 42 apples", "42", True),
        case("announced_with_a_dollar", "The final answer is $42.", "42", True),
        case("announced_without_number_falls_back", "42 is what I got. Answer: see above", "42", True),
        case("last_announcement_counts", "The answer is 7? No, the answer is 42.", "42", True),
        case("mixed_number_is_one_number", "#### 2 1/2", "2.5", True),
        case("mixed_number_is_not_its_whole_part", "#### 2 1/2", "2", False),
        case("latex_fraction_is_one_number", "#### \\frac{1}{2}", "0.5", True),
        case("latex_fraction_is_not_its_denominator", "\\frac{1}{2}", "2", False),
        case("latex_dfrac", "$\\dfrac{3}{4}$", "0.75", True),
        case("million_is_a_factor", "#### 2 million", "2000000", True),
        case("million_is_not_dropped", "#### 2 million", "2", False),
        case("decimal_million", "$1.5 million", "1500000", True),
        case("millions_as_a_name_are_none", "#### 2 millionaires", "2", True),
        case("narrow_space_separates_thousands", "#### 1\u202f234\u202f567", "1234567", True),
        case("plain_space_separates_numbers", "#### 1 234", "1234", False),
        case("currency_with_a_space", "#### $ 42", "42", True),
        case("hours_with_unit", "#### 42hrs", "42", True),
        case("dozen_is_a_unit", "#### 12 dozen", "12", True),
        case("negative_decimal", "#### -0.5", "-1/2", True),
        case("negative_zero_decimal", "#### -0.00", "0", True),
        case("answer_is_a_solution_with_its_mark", "#### 42", "6 * 7 = <<6*7=42>>42\n#### 42", True),
        case("calculator_annotation_is_no_answer", "7+1=<<7+1=8>>8\n#### 9", "8", False),
        case("hash_in_the_text_is_no_mark", "apartment #7 of 42", "42", True),
        case("three_hashes_are_a_heading", "### 7\nso 42", "42", True),
        case("answer_may_carry_a_separator", "#### 1234", "1,234", True),
        case("answer_may_be_a_number", "#### 5", 5, True),
        case("two_alternatives_are_no_answer", "#### 7 or 8", "7", False),
        case("second_alternative_neither", "It is 7 or 42.", "42", False),
        case("either_of_two", "The answer is either 41 or 42.", "41", False),
        case("alternatives_with_units", "#### 7 apples or 8 apples", "7", False),
        case("one_number_in_two_spellings", "#### 1/2 or 0.5", "0.5", True),
        case("range_is_not_its_lower_end", "#### 18-20", "18", False),
        case("range_in_words_is_not_its_lower_end", "#### 7 to 9", "7", False),
        case("list_is_not_its_first_member", "#### 7, 8", "7", False),
        case("time_of_day_is_not_its_hour", "#### 5:30", "5", False),
        case("feet_and_inches_are_not_feet", "#### 5'11", "5", False),
        case("version_is_no_number", "#### 1.2.3", "1.2", False),
        case("power_is_not_its_base", "#### 10^2", "10", False),
        case("product_not_worked_out_is_not_its_factor", "#### 2 * 21", "2", False),
        case("product_with_a_letter_x", "#### 3 x 14", "3", False),
        case("derivation_in_brackets_is_idle", "#### 42 (3 * 14)", "42", True),
        case("reason_after_a_comma_is_idle", "#### 42, because 7 is prime", "42", True),
        case("divided_by_zero_is_not_the_numerator", "#### 42 / 0", "42", False),
        case("denied_number_is_no_answer", "The answer is not 42.", "42", False),
        case("denied_number_is_passed_over", "It is 43, not 42.", "43", True),
        case("bound_is_not_the_number", "The answer is less than 42.", "42", False),
        case("negative_in_words", "The answer is minus 42.", "-42", True),
        case("negative_in_words_is_not_positive", "#### negative 42", "42", False),
        case("negative_in_brackets_is_not_positive", "#### -(42)", "42", False),
        case("subtraction_in_words_is_not_a_sign", "50 minus 8", "8", True),
        case("k_is_a_thousand", "#### 42k", "42000", True),
        case("k_is_not_dropped", "#### 42k", "42", False),
        case("kg_is_a_unit", "#### 42 kg", "42", True),
        case("hundred_is_a_factor", "#### 4 hundred", "400", True),
        case("dollars_m_is_a_million", "#### $1.5M", "1500000", True),
        case("metres_are_no_millions", "#### 5M", "5", True),
        case("heading_with_a_number_is_no_mark", "#### Step 2: total\n6*7=42\nThe answer is 42.", "42", True),
        case("number_of_a_heading_is_not_the_answer", "#### Step 2: total\n6*7=42\nThe answer is 42.", "2", False),
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
        "not " * 50_000,
        "1 or " * 30_000,
        "negative " * 30_000,
        "-(" * 50_000,
        "#### " * 20_000,
        "answer is 1 or " * 10_000,
    ):
        find_numbers(text)
        extract_number(text)


def test_no_number_is_none_and_not_zero() -> None:
    assert extract_number("no idea") is None
    assert extract_number("####") is None
    assert extract_number("0") == 0
