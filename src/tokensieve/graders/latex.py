r"""Mathematical answers in LaTeX: what a text answers, and whether that equals the reference.

Most answers are settled here, as equal strings or as plain numbers. The rest goes to math-verify in a child process
with limits (see `isolated`), so that "9^9^9^9" costs its time limit and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Final

from tokensieve.errors import DataError
from tokensieve.graders.answer_text import find_answer
from tokensieve.graders.grade import Grade, References, locate
from tokensieve.graders.isolated import ask_all
from tokensieve.graders.qualifiers import (
    brackets_conflict,
    qualifiers_conflict,
    spell_out_scales,
    strip_units_of_list,
)
from tokensieve.graders.units import units_conflict

_CHILD: Final = "tokensieve.graders.isolated.compare_latex"
_MEMORY_BYTES: Final = 2 * 2**30
_MAX_CHARS: Final = 1000  # of an answer; no reference comes near
# Not the second backslash of a matrix's line break.
_SPACING: Final = re.compile(r"(?<!\\)\\(?:[!,;: ]|q?quad\b|(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z]))|[~$\s]+")
_IDLE_SPACE: Final = re.compile(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])")
_SPELLINGS: Final = (
    ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"),
    ("\\cfrac", "\\frac"),
    ("{,}", ","),
    ("^{\\circ}", ""),
    ("^\\circ", ""),
    ("\u2212", "-"),
    ("\u2013", "-"),
    ("\u03c0", "\\pi "),
    ("\u221e", "\\infty "),
    ("\u00d7", "\\times "),
)
_DECIMAL: Final = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:(?<=\d)\.|\.\d+)?", re.ASCII)
_TYPE: Final = re.compile(r"\\(?:text(?:rm|bf|it)?|mbox|mathrm|mathbf)\s?\{([^{}]*)\}")
_NUMERAL: Final = re.compile(r"([0-9A-Z]+)(?:_\{?(\d{1,2})\}?)?", re.ASCII)
_REPEATING: Final = re.compile(r"([-+]?)(\d{0,12})\.(\d{0,12})\\(?:overline|bar)\{(\d{1,12})\}", re.ASCII)
_FRACTION: Final = re.compile(r"([-+]?)(?:\\frac\{(-?\d+)\}\{(-?\d+)\}|\\frac(\d)(\d)|(\d+)/(\d+))", re.ASCII)


def canonicalise(answer: str) -> str:
    r"""Spell a formula in one way as far as the spelling cannot matter: spacing, sizes, `\dfrac`, a final stop.

    >>> canonicalise(r"$\left( \dfrac{1}{2},\, 3 \right)$.")
    '(\\frac{1}{2},3)'
    """
    answer = answer.replace("\\$", "")  # dollars of money, not of LaTeX
    for spelling, plain in _SPELLINGS:
        answer = answer.replace(spelling, plain)
    plain = _IDLE_SPACE.sub("", _SPACING.sub(" ", answer)).strip()
    return spell_out_scales(plain if plain.endswith("...") else plain.rstrip(".").strip())


def read_plain_number(answer: str) -> Fraction | None:
    r"""Value of a decimal or of a fraction of integers, exactly; None for anything else, a percentage among them.

    >>> read_plain_number("1,234.50"), read_plain_number(r"-\frac{1}{2}"), read_plain_number("12,34")
    (Fraction(2469, 2), Fraction(-1, 2), None)
    """
    if len(answer) > _MAX_CHARS:
        return None
    if any(symbol.isdigit() for symbol in answer) and _DECIMAL.fullmatch(answer):
        return Fraction(answer.replace(",", "").rstrip("."))
    repeating = _REPEATING.fullmatch(answer)
    if repeating is not None:
        return _read_repeating(repeating)
    match = _FRACTION.fullmatch(answer)
    if match is None:
        return None
    over, under = next((match[at], match[at + 1]) for at in (2, 4, 6) if match[at] is not None)
    if int(under) == 0:
        return None
    return Fraction(int(over), int(under)) * (-1 if match[1] == "-" else 1)


def _read_repeating(match: re.Match[str]) -> Fraction:
    """0.1666... = (16 - 1) / 90: the digits with one period, less those before it, over as many nines and zeros."""
    sign, whole, fixed, period = match.groups()
    before, through = int((whole + fixed) or "0"), int(whole + fixed + period)
    value = Fraction(through - before, (10 ** len(period) - 1) * 10 ** len(fixed))
    return -value if sign == "-" else value


def compare_simply(gold: str, answer: str) -> bool | None:
    r"""Settle what needs no algebra; None when it does. Both are as `canonicalise` gives them.

    >>> compare_simply("0.5", r"\frac{1}{2}"), compare_simply(r"\frac{1}{3}", "0.333"), compare_simply("x+1", "1+x")
    (True, False, None)
    """
    if not answer or len(answer) > _MAX_CHARS or answer.count("{") != answer.count("}"):
        return False
    if _strip_type(answer) == _strip_type(gold):
        return True
    one, other = read_plain_number(gold), read_plain_number(answer)
    if one is not None and other is not None:
        return one == other
    if units_conflict(gold, answer) or qualifiers_conflict(gold, answer) or brackets_conflict(gold, answer):
        return False
    return _compare_numerals(gold, answer)


def _strip_type(answer: str) -> str:
    """Without blanks, which LaTeX ignores, and without the commands that set words upright."""
    return _TYPE.sub(r"\1", answer).replace(" ", "")


def _compare_numerals(gold: str, answer: str) -> bool | None:
    """Numerals with a base have its digits; an answer may leave out the base that the question gave, not change it."""
    one, other = _NUMERAL.fullmatch(gold), _NUMERAL.fullmatch(answer)
    if one is None or other is None or (one[2] is None and other[2] is None):
        return None
    return one[1] == other[1] and (one[2] == other[2] or one[2] is None or other[2] is None)


def extract_math(text: str) -> str | None:
    r"""Return the answer of a text, spelled canonically; None when there is none.

    Two texts whose answers are the same string agree; different strings may still be equal (see `compare_answers`).

    >>> extract_math(r"So $x = 3$. The answer is $\boxed{\dfrac12}$.")
    '\\frac12'
    """
    found = find_answer(text)
    return canonicalise(found) or None if found is not None else None


def compare_answers(
    pairs: Sequence[tuple[str, str]], *, seconds: float = 5.0, workers: int | None = None, progress: str | None = None
) -> list[bool | None]:
    r"""Tell for each (gold, answer) whether they are mathematically equal; None when that met its limit.

    Args:
        pairs: canonical answers.
        seconds: wall-clock limit of one comparison, > 0.
        workers: children at a time; None: as the machine allows.
        progress: label of a progress bar; None: no bar.

    Raises:
        SandboxError: math-verify cannot be run here.
    """
    verdicts = [compare_simply(gold, answer) for gold, answer in pairs]
    open_ones = [at for at, verdict in enumerate(verdicts) if verdict is None]
    requests = [
        dict(zip(("gold", "answer"), map(strip_units_of_list, pairs[at]), strict=True))
        | {"seconds": seconds, "memory_bytes": _MEMORY_BYTES}
        for at in open_ones
    ]
    replies = ask_all(_CHILD, requests, subject="grader math", workers=workers, progress=progress)
    for at, reply in zip(open_ones, replies, strict=True):
        verdicts[at] = reply.get("same")
    return verdicts


def read_gold(reference: Mapping[str, Any]) -> str:
    r"""Canonical reference answer: `answer`, else the last box of `solution` (the layout of the MATH files).

    Raises:
        DataError: neither holds one.

    >>> read_gold({"solution": r"Thus $2x = 6$, so $x = \boxed{3}$."})
    '3'
    """
    answer = reference.get("answer")
    if isinstance(answer, (str, int, float)) and not isinstance(answer, bool) and canonicalise(str(answer)):
        text = str(answer)
        return canonicalise(find_answer(text) or text) if "\\boxed" in text else canonicalise(text)
    solution = reference.get("solution")
    found = find_answer(solution) if isinstance(solution, str) and "\\boxed" in solution else None
    if not found:
        raise DataError(
            "reference.answer",
            "the grader needs it, or a `solution` with a box",
            received=sorted(reference) if answer is None else answer,
            remedy="name the column that holds it under dataset.reference",
        )
    return canonicalise(found)


def grade_math(texts: Sequence[str], references: References, *, seconds: float, progress: str | None) -> list[Grade]:
    """Compare each text's answer with its reference (see `read_gold`).

    Raises:
        DataError: a reference without an answer.
        SandboxError: math-verify cannot be run here.
    """
    golds = []
    for at, reference in enumerate(references):
        with locate(at):
            golds.append(read_gold(reference))
    answers = [extract_math(text) for text in texts]
    pairs = [(gold, answer or "") for gold, answer in zip(golds, answers, strict=True)]
    verdicts = compare_answers(pairs, seconds=seconds, progress=progress)
    return [_grade(answer, same, seconds) for answer, same in zip(answers, verdicts, strict=True)]


def _grade(answer: str | None, same: bool | None, seconds: float) -> Grade:
    if answer is None:
        return Grade(0.0, "no answer")
    shown = " ".join(answer.split())[:200] or "no answer"
    return Grade(float(bool(same)), shown if same is not None else f"not compared within {seconds:g} s: {shown}")
