r"""Mathematical answers: the right verdict is argued in each case's name.

All cases are graded in one call, so that the child process starts once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tokensieve.errors import DataError, SandboxError
from tokensieve.graders import grade_texts
from tokensieve.graders.answer_text import find_answer
from tokensieve.graders.isolated import ask_all
from tokensieve.graders.latex import compare_answers, extract_math, read_gold

# name: (reference answer, generated text, whether it is right)
CASES: dict[str, tuple[str, str, bool]] = {
    "same_string_is_the_same": (r"\frac{3}{4}", r"\boxed{\frac{3}{4}}", True),
    "size_of_a_fraction_is_no_value": (r"\frac{1}{2}", r"\boxed{\dfrac{1}{2}}", True),
    "fraction_without_braces": (r"\frac{1}{2}", r"\boxed{\frac12}", True),
    "slash_is_a_fraction": (r"\frac{1}{2}", r"\boxed{1/2}", True),
    "decimal_equals_its_fraction": (r"\frac{1}{2}", r"\boxed{0.5}", True),
    "unreduced_fraction_is_equal": (r"\frac{1}{2}", r"\boxed{\frac{7}{14}}", True),
    "rounded_decimal_is_not_the_fraction": (r"\frac{1}{3}", r"\boxed{0.33}", False),
    "long_rounded_decimal_is_not_the_fraction": (r"\frac{1}{3}", r"\boxed{0.333333}", False),
    "upside_down_fraction_is_wrong": (r"\frac{2}{3}", r"\boxed{\frac{3}{2}}", False),
    "sign_of_the_numerator_is_that_of_the_fraction": (r"-\frac{1}{2}", r"\boxed{\frac{-1}{2}}", True),
    "lost_sign_is_wrong": (r"-\frac{1}{2}", r"\boxed{\frac{1}{2}}", False),
    "mixed_number_is_a_sum": (r"2\frac{1}{2}", r"\boxed{\frac{5}{2}}", True),
    "mixed_number_is_not_a_product": (r"2\frac{1}{2}", r"\boxed{1}", False),
    "negative_zero_is_zero": ("0", r"\boxed{-0}", True),
    "negative_zero_decimal_is_zero": ("0", r"\boxed{-0.0}", True),
    "thousands_separator_is_the_same_number": ("1234", r"\boxed{1,234}", True),
    "latex_thousands_separator_is_the_same_number": ("32348", r"\boxed{32{,}348}", True),
    "thin_space_thousands_separator": ("10000", r"\boxed{10\,000}", True),
    "misplaced_comma_is_a_list": ("1234", r"\boxed{12,34}", False),
    "leading_zero_may_lack": ("0.5", r"\boxed{.5}", True),
    "trailing_zeros_are_idle": ("2.5", r"\boxed{2.500}", True),
    "tiny_decimals_differ": ("0.0000001", r"\boxed{0.0000002}", False),
    "almost_equal_decimal_is_wrong": ("5", r"\boxed{5.0000001}", False),
    "power_is_its_value": ("1024", r"\boxed{2^{10}}", True),
    "scientific_notation": ("1500", r"\boxed{1.5\times 10^3}", True),
    "factorial_is_its_value": ("24", r"\boxed{4!}", True),
    "binomial_is_its_value": ("10", r"\boxed{\binom{5}{2}}", True),
    "root_is_simplified": (r"2\sqrt{2}", r"\boxed{\sqrt{8}}", True),
    "root_without_braces": (r"\sqrt{2}", r"\boxed{\sqrt2}", True),
    "factor_moved_into_the_root_unsquared_is_wrong": (r"2\sqrt{3}", r"\boxed{\sqrt{6}}", False),
    "rationalised_denominator": (r"\frac{\sqrt{2}}{2}", r"\boxed{\frac{1}{\sqrt{2}}}", True),
    "pi_is_not_its_approximation": (r"\pi", r"\boxed{3.14}", False),
    "pi_is_not_a_long_approximation": (r"\pi", r"\boxed{3.14159265}", False),
    "multiple_of_pi_in_another_spelling": (r"\frac{\pi}{2}", r"\boxed{\pi/2}", True),
    "unicode_pi": (r"2\pi", "Answer: 2π", True),
    "percent_sign_with_the_same_number": (r"50\%", r"\boxed{50}", True),
    "percent_sign_added_to_a_percentage": ("50", r"\boxed{50\%}", True),
    "percent_equals_its_share": (r"0.5", r"\boxed{50\%}", True),
    "share_is_not_the_number_of_percent": ("50", r"\boxed{0.5}", False),
    "wrong_percentage": (r"50\%", r"\boxed{5\%}", False),
    "dollars_may_be_left_out": (r"\$18.90", r"\boxed{18.90}", True),
    "dollars_may_be_added": ("18.90", r"\boxed{\$18.90}", True),
    "unit_may_be_left_out": (r"10\text{ cm}", r"\boxed{10}", True),
    "unit_may_be_added": ("10", r"\boxed{10\text{ cm}}", True),
    "other_unit_is_another_length": (r"10\text{ cm}", r"\boxed{10\text{ m}}", False),
    "unit_spelled_out": (r"10\text{ cm}", r"\boxed{10\text{ centimeters}}", True),
    "unit_in_roman_type": (r"3\mathrm{~kg}", r"\boxed{3\text{ kg}}", True),
    "degrees_sign_may_lack": (r"90^\circ", r"\boxed{90}", True),
    "ordered_pair_keeps_its_order": ("(1,2)", r"\boxed{(2,1)}", False),
    "ordered_pair_with_sizes_and_spaces": (r"\left(\frac{1}{2},3\right)", r"\boxed{\left( 0.5, 3 \right)}", True),
    "pair_with_one_lost_sign": ("(1,-2)", r"\boxed{(1,2)}", False),
    "closed_is_not_open": ("[1,2]", r"\boxed{(1,2)}", False),
    "half_open_is_not_open": ("(1,2]", r"\boxed{(1,2)}", False),
    "interval_with_infinity": (r"(-\infty,2]", r"\boxed{(-\infty, 2]}", True),
    "interval_with_the_other_infinity": (r"(-\infty,2]", r"\boxed{[2,\infty)}", False),
    "union_in_any_order": (r"(-\infty,2)\cup(3,\infty)", r"\boxed{(3,\infty)\cup(-\infty,2)}", True),
    "half_of_a_union_is_wrong": (r"(-\infty,2)\cup(3,\infty)", r"\boxed{(3,\infty)}", False),
    "inequality_names_the_interval": (r"[3,\infty)", r"\boxed{x\ge 3}", True),
    "strict_inequality_is_another_interval": (r"[3,\infty)", r"\boxed{x>3}", False),
    "inequality_turned_around": (r"x\le 3", r"\boxed{3\ge x}", True),
    "reversed_inequality_is_wrong": (r"x\le 3", r"\boxed{x\ge 3}", False),
    "set_in_any_order": (r"\{1,2,3\}", r"\boxed{\{3,1,2\}}", True),
    "list_in_any_order": ("1,-2", r"\boxed{-2,1}", True),
    "list_joined_by_and": ("3,4", r"\boxed{3} and \boxed{4}", True),
    "missing_solution_is_wrong": ("1,-2", r"\boxed{1}", False),
    "extra_solution_is_wrong": ("1", r"\boxed{1,-2}", False),
    "hedging_between_two_is_wrong": ("5", r"\boxed{5 \text{ or } 6}", False),
    "plus_minus_is_both": (r"-3,3", r"\boxed{\pm 3}", True),
    "plus_minus_is_not_one_of_them": ("3", r"\boxed{\pm 3}", False),
    "expanded_polynomial": ("x^2+2x+1", r"\boxed{(x+1)^2}", True),
    "terms_in_another_order": ("x^2+2x+1", r"\boxed{1+2x+x^2}", True),
    "another_polynomial": ("x^2+2x+1", r"\boxed{x^2+2x-1}", False),
    "another_variable_is_another_expression": ("x^2+1", r"\boxed{y^2+1}", False),
    "assigned_value_is_the_value": ("5", r"\boxed{x=5}", True),
    "value_for_an_assignment": ("x=5", r"\boxed{5}", True),
    "assignment_to_another_variable": ("x=5", r"\boxed{y=5}", False),
    "line_rearranged": ("y=2x+3", r"\boxed{2x-y+3=0}", True),
    "line_with_another_slope": ("y=2x+3", r"\boxed{y=3x+2}", False),
    "trigonometric_identity": ("1", r"\boxed{\sin^2 x+\cos^2 x}", True),
    "logarithm_is_evaluated": ("3", r"\boxed{\log_2 8}", True),
    "imaginary_unit_keeps_its_sign": ("i", r"\boxed{-i}", False),
    "complex_sum_commutes": ("3+2i", r"\boxed{2i+3}", True),
    "matrix_brackets_are_a_matter_of_taste": (
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\boxed{\begin{bmatrix}1 & 2 \\ 3 & 4\end{bmatrix}}", True),
    "transposed_matrix_is_wrong": (
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\boxed{\begin{pmatrix}1&3\\2&4\end{pmatrix}}", False),
    "column_is_not_reversed": (
        r"\begin{pmatrix}1\\2\end{pmatrix}", r"\boxed{\begin{pmatrix}2\\1\end{pmatrix}}", False),
    "base_may_be_left_out": ("1011_2", r"\boxed{1011}", True),
    "value_in_base_ten_is_not_the_binary_numeral": ("1011_2", r"\boxed{11}", False),
    "base_in_braces": ("1011_2", r"\boxed{1011_{2}}", True),
    "another_base_is_wrong": ("1011_2", r"\boxed{1011_3}", False),
    "word_in_text": (r"\text{even}", r"\boxed{\text{even}}", True),
    "word_without_text": (r"\text{even}", "The answer is even.", True),
    "word_in_capitals": (r"\text{Monday}", r"\boxed{\text{monday}}", True),
    "other_word": (r"\text{even}", r"\boxed{\text{odd}}", False),
    "anagram_is_another_word": (r"\text{Evelyn}", r"\boxed{\text{Evenly}}", False),
    "word_set_in_pieces": (r"\text{June 20}", r"\boxed{\text{June }20}", True),
    "dash_in_place_of_a_minus": ("-2", "Answer: –2", True),
    "degrees_in_words": ("90", r"\boxed{90\text{ degrees}}", True),
    "radians_are_no_degrees": (r"60\text{ degrees}", r"\boxed{60\text{ radians}}", False),
    "product_is_not_its_factor": ("x", r"\boxed{2x}", False),
    "difference_does_not_commute": ("a-b", r"\boxed{b-a}", False),
    "root_of_a_square_is_not_always_its_base": (r"\sqrt{x^2}", r"\boxed{x}", False),
    "alternatives_in_words_are_both": ("5", "The answer is 5 or 6.", False),
    "alternatives_in_formulas_are_both": ("5", "The answer is $5$ or $6$.", False),
    "rejected_alternative_does_not_count": ("5", "The answer is $5$, not $6$.", True),
    "element_of_an_interval": ("[-2,7]", r"\boxed{x \in [-2,7]}", True),
    "set_has_no_duplicates": (r"\{1,2\}", r"\boxed{\{1,2,2\}}", True),
    "display_brackets": ("4", "\\[ x = 4 \\]", True),
    "letter_in_brackets": (r"\text{(B)}", r"\boxed{\text{B}}", True),
    "other_letter": (r"\text{(B)}", r"\boxed{\text{(C)}}", False),
    "no_solution_is_not_zero": (r"\text{no solution}", r"\boxed{0}", False),
    "empty_set_is_not_zero": (r"\emptyset", r"\boxed{0}", False),
    "time_of_day": ("7:30", r"\boxed{7:30}", True),
    "time_of_day_is_not_its_decimal": ("7:30", r"\boxed{7.5}", False),
    "last_box_counts": ("4", r"\boxed{3}? No: \boxed{4}.", True),
    "box_taken_back_is_not_the_answer": ("3", r"\boxed{3}? No: \boxed{4}.", False),
    "box_beats_an_announcement": ("4", r"The answer is 3 plus one, \boxed{4}.", True),
    "box_without_braces": ("4", r"so \boxed 4", True),
    "nested_braces_in_the_box": (r"\frac{\sqrt{3}}{2}", r"\boxed{\frac{\sqrt{3}}{2}}, since $\sin 60$", True),
    "box_cut_off_is_no_box": ("12", r"so \boxed{12", False),
    "announced_formula": (r"\frac{1}{2}", r"The final answer is $\frac{1}{2}$. I hope it is correct.", True),
    "announced_number": ("42", "Answer: 42", True),
    "announced_money": ("42", r"Answer: $42", True),
    "announced_number_with_a_reason": ("42", "The answer is 42. This takes 3 steps of 7.", True),
    "announced_twice_the_last_counts": ("42", "The answer is 41? No.\nThe answer is 42.", True),
    "announced_display_on_its_own_line": (r"\frac{1}{2}", "Answer:\n\\[\n\\frac{1}{2}\n\\]", True),
    "announced_in_bold": ("42", "**Answer:** 42", True),
    "announced_unit_in_words": ("12", "The answer is 12 apples.", True),
    "plain_square_root": (r"2\sqrt{3}", "Answer: 2*sqrt(3)", True),
    "plain_percent": (r"50\%", "Answer: 50 percent", True),
    "plain_two_values": ("-3,3", "Answer: 3 or -3", True),
    "last_formula_without_announcement": (r"\frac{3}{4}", r"From $x=1$ follows $y=\frac{3}{4}$.", True),
    "earlier_formula_is_not_the_answer": ("1", r"From $x=1$ follows $y=\frac{3}{4}$.", False),
    "last_side_of_a_chain": ("8", r"\boxed{2^3 = 8}", True),
    "first_side_of_a_chain_is_not_the_answer": ("2", r"\boxed{2 = x = 8}", False),
    "question_repeated_is_no_answer": ("4", "What is $2+2$? I do not know.", False),
    "empty_text": ("4", "", False),
    "empty_box_is_no_answer": ("4", r"\boxed{}", False),
    "refusal": ("4", "I cannot solve this problem because it is too hard for me, and I must ask for help.", False),
    "division_by_zero_is_not_infinity_of_the_other_sign": (r"-\infty", r"\boxed{\infty}", False),
    "undefined_is_not_a_number": ("0", r"\boxed{\frac{0}{0}}", False),
    "injected_latex_gains_nothing": ("5", r"\boxed{6} % \def\answer{5}", False),
    "box_within_the_box": ("5", r"\boxed{\boxed{5}}", True),
    "two_numbers_side_by_side_are_not_one_of_them": ("5", r"\boxed{5\ 6}", False),
    "ordered_pair_is_not_a_list": ("1,2", r"\boxed{(1,2)}", False),
    "list_is_not_an_ordered_pair": ("(2,3)", r"\boxed{2,3}", False),
    "set_is_not_an_ordered_pair": ("(1,2)", r"\boxed{\{1,2\}}", False),
    "list_of_pairs_in_any_order": ("(1,2),(3,4)", r"\boxed{(3,4),(1,2)}", True),
    "pair_named_by_its_variables": ("(1,2)", r"\boxed{(x,y)=(1,2)}", True),
    "repeating_decimal_is_its_fraction": (r"\frac{1}{3}", r"\boxed{0.\overline{3}}", True),
    "repeating_decimal_behind_fixed_digits": (r"\frac{1}{6}", r"\boxed{0.1\overline{6}}", True),
    "nines_without_end_are_one": ("1", r"\boxed{0.\overline{9}}", True),
    "repeating_decimal_is_not_its_first_digit": ("0.3", r"\boxed{0.\overline{3}}", False),
    "million_in_words_is_a_factor": ("1000000", r"\boxed{1\text{ million}}", True),
    "million_in_words_is_not_dropped": ("1", "The answer is 1 million.", False),
    "dozen_is_twelve": ("24", r"\boxed{2\text{ dozen}}", True),
    "dozen_is_not_dropped": ("2", r"\boxed{2\text{ dozen eggs}}", False),
    "half_a_million": ("500000", r"\boxed{0.5\text{ million}}", True),
    "bound_in_words_is_not_the_number": ("5", r"\boxed{5\text{ or more}}", False),
    "bound_before_the_number": ("5", r"\boxed{\text{at least }5}", False),
    "bound_around_a_formula": ("5", "The answer is at least $5$.", False),
    "bound_behind_a_formula": ("5", "The answer is $5$ or more.", False),
    "bound_in_plain_words": ("5", "The answer is 5 or more.", False),
    "same_bound_in_the_reference": (r"\text{at least }5", r"\boxed{\text{at least }5}", True),
    "sequence_that_goes_on_is_not_its_first": ("5", r"\boxed{5 \ldots}", False),
    "denied_number_is_not_the_answer": ("5", "The answer is not 5.", False),
    "denied_formula_is_not_the_answer": ("5", "The answer is not $5$.", False),
    "formula_called_wrong": ("5", "$5$ is wrong.", False),
    "impossible_number": ("5", "The answer cannot be 5.", False),
    "denied_in_the_box": ("5", r"\boxed{\text{not }5}", False),
    "other_number_denied_in_brackets": ("5", "Answer: 5 (not 6)", True),
    "word_denied": (r"\text{Friday}", r"\boxed{\text{not Friday}}", False),
    "unequal_sign": ("3", r"\boxed{x\ne 3}", False),
    "two_numbers_with_units_are_not_the_first": ("5", "Answer: 5 apples or 6 apples", False),
    "list_with_units": ("5,6", r"\boxed{5\text{ cm}, 6\text{ cm}}", True),
    "area_is_not_a_length": (r"10\text{ cm}", r"\boxed{10\text{ cm}^2}", False),
    "area_in_words": (r"10\text{ cm}^2", r"\boxed{10\text{ square centimeters}}", True),
    "volume_is_not_an_area": (r"10\text{ cm}^2", r"\boxed{10\text{ cm}^3}", False),
    "negative_in_words": ("-5", "The answer is negative 5.", True),
    "negative_in_words_is_not_positive": ("5", "The answer is negative 5.", False),
    "about_is_idle": ("5", "The answer is approximately 5.", True),
    "neighbour_of_a_huge_power": ("10^{20}", r"\boxed{10^{20}+1}", False),
    "multiple_of_i_is_not_real": ("2", r"\boxed{2i}", False),
    "multiple_of_pi_is_not_the_factor": ("4", r"\boxed{4\pi}", False),
    "e_is_not_its_approximation": ("e", r"\boxed{2.71828}", False),
    "second_amount_is_not_idle": ("7", r"\boxed{7\text{ apples and }3\text{ pears}}", False),
    "second_amount_in_the_reference_too": (
        r"7\text{ apples and }3\text{ pears}", r"\boxed{7\text{ apples and }3\text{ pears}}", True),
    "and_between_two_values_is_a_list": ("5,6", r"\boxed{5\text{ and }6}", True),
    "unbalanced_braces_are_wrong": ("5", "Answer: $5}$", False),
}  # fmt: skip


@pytest.fixture(scope="module")
def scores() -> dict[str, float]:
    texts = [text for _, text, _ in CASES.values()]
    grades = grade_texts("math", texts, [{"answer": gold} for gold, _, _ in CASES.values()], seconds=20)
    return {name: grade.score for name, grade in zip(CASES, grades, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_math(scores: dict[str, float], name: str) -> None:
    assert scores[name] == float(CASES[name][2]), CASES[name]


HOSTILE = {
    "power_tower": "9^{9^{9^9}}",
    "power_tower_without_braces": "9^9^9^9",
    "huge_exponent": "10^{10^{10}}",
    "huge_factorial": "9999999999!",
    "endless_sum": r"\sum_{k=1}^{10^{12}} \sin k",
    "hard_integral": r"\int_0^1 \frac{x^x \sin(e^x)}{\ln(x+2)} dx",
    "deep_nesting": r"\sqrt{" * 120 + "2" + "}" * 120,
    "huge_polynomial": "(x+y+z+w)^{400}-(x+y+z+u)^{400}",
    "long_continued_fraction": r"1+\frac{1}{" * 60 + "2" + "}" * 60,
}


def test_hostile_answers_cost_their_time_limit_and_nothing_else() -> None:
    texts = [*(rf"\boxed{{{answer}}}" for answer in HOSTILE.values()), r"\boxed{1+x}"]
    grades = grade_texts("math", texts, [{"answer": "x+1"}] * len(texts), seconds=2)
    assert [grade.score for grade in grades] == [0.0] * len(HOSTILE) + [1.0]
    assert any("not compared within 2 s" in grade.reason for grade in grades)


def test_a_comparison_over_its_limit_is_undecided_not_false() -> None:
    verdicts = compare_answers([("5", "9^{9^{9^9}}"), ("x+1", "1+x"), ("x+1", "2+x")], seconds=2)
    assert verdicts == [None, True, False]


def test_answers_longer_than_any_reference_are_wrong_at_once() -> None:
    assert compare_answers([("x", "x+" * 2000 + "x"), ("5", ""), ("5", "{5")]) == [False] * 3


@pytest.mark.parametrize(
    "text", ["\\boxed{" * 2000, "$" * 20_000, "answer is " * 5000, "1," * 50_000, "{" * 50_000, "\\[" * 20_000, "$1$," * 9000]
)  # fmt: skip
def test_any_text_is_searched_in_bounded_time(text: str) -> None:
    found = find_answer(text)
    assert found is None or len(found) <= len(text)


def test_reference_may_be_a_solution_with_a_box() -> None:
    assert read_gold({"solution": r"First \boxed{1}. Hence $x=\boxed{\dfrac{1}{2}}$."}) == r"\frac{1}{2}"
    assert read_gold({"answer": r"\boxed{5}"}) == "5"
    assert read_gold({"answer": 5}) == "5"
    with pytest.raises(DataError, match="needs it"):
        read_gold({"solution": "none"})


def test_equal_answers_have_equal_canonical_forms() -> None:
    assert extract_math(r"\boxed{\dfrac{1}{2}}") == extract_math(r"The answer is $\tfrac{1}{2}$.")
    assert extract_math("\\boxed{ }") is None
    assert extract_math("") is None


def test_children_that_die_are_replaced_and_every_reply_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("HF_TOKEN", "secret")
    asked = ["a", "kill the server", "b", "raise", "c", "eat memory", "d", "print", "kill the server", "e"]
    requests = [{"what": what, "seconds": 20, "memory_bytes": 2**30} for what in asked]
    for workers in (1, 3):
        replies = ask_all("child_that_dies", requests, subject="grader test", workers=workers)
        done = [reply.get("done") for reply in replies]
        assert done == ["a", None, "b", None, "c", None, "d", "print", None, "e"]
        assert all(reply.get("token") is None for reply in replies)  # nothing of our environment reaches a child


def test_a_child_that_cannot_start_is_an_error() -> None:
    request = {"gold": "1", "answer": "2", "seconds": 1, "memory_bytes": 2**30}
    with pytest.raises(SandboxError, match="did not start"):
        ask_all("tokensieve.no_such_module", [request], subject="grader test")


def test_a_missing_package_is_named() -> None:
    code = (
        "import sys; sys.modules['math_verify'] = None\n"
        "from tokensieve.graders.isolated.compare_latex import main; main()"
    )
    told = subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, check=True)
    assert "math-verify" in json.loads(told.stdout)["refused"]
