r"""Errors in the final answer alone: `label_flip` in choice tasks, `wrong_number` where a number is asked for."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final

from tokensieve.errors import DataError
from tokensieve.graders.choice import extract_label
from tokensieve.graders.number import extract_number, find_numbers
from tokensieve.noise.rows import Example

# Markup that may stand around a label: Markdown, brackets, quotes, LaTeX's boxes.
_OPEN: Final = r"(?:[\s*_`\"'(\[{$]|\\(?:boxed|text|textbf|mathrm|mathbf))*"
_CLOSE: Final = r"[*_`\"')\]}$.]*[^\S\n]*"
_NUMBER: Final = re.compile(r"(?<![A-Za-z_\d.])(?:\d{1,3}(?:,\d{3})+|\d{1,300})(?:\.\d{1,300})?(?!\d)", re.ASCII)
_ANSWER: Final = re.compile(r"\banswer\b[*_]*(?:\s*[:=]|\s+is\b\s*:?)", re.IGNORECASE)
_BOX: Final = r"\boxed{"
_PROBE: Final = "8675309"  # a number that no answer is likely to be
_MAX_SPANS: Final = 20  # a list of numbers behind a mark is no final number


@dataclass(frozen=True, slots=True)
class LabelFlip:
    """The stated label becomes another one of `reference.labels`, drawn uniformly; the rest of the response stays.

    A response states its label as its whole text or in its last line `Answer: X`, and states no other one. The new
    label is neither the stated one nor the reference's.
    """

    kind = "label_flip"

    def applies(self, example: Example) -> bool:
        return bool(_other_labels(example)[1])

    def corrupt(self, example: Example, rng: random.Random) -> str:
        (start, end), others = _other_labels(example)
        stated, label = example.response[start:end], rng.choice(others)
        if stated.islower():
            label = label.lower()
        elif stated.istitle() and len(stated) > 1:
            label = label[:1].upper() + label[1:]
        return example.response[:start] + label + example.response[end:]


@dataclass(frozen=True, slots=True)
class WrongNumber:
    r"""The final number becomes another one near it, or one of its digits changes; its notation stays.

    The final number is the one that the number grader reads: after the last `####`, else in the last `\boxed{}`, else
    after the last `Answer:`. A response without such a mark must answer the reference's number. The working is left as
    it is, and the new number is not the reference's.
    """

    kind = "wrong_number"

    def applies(self, example: Example) -> bool:
        return _final_number(example) is not None

    def corrupt(self, example: Example, rng: random.Random) -> str:
        span = _final_number(example)
        assert span is not None  # `applies` has seen it
        text, (start, end) = example.response, span
        misses = _misses(text[start:end], rng)
        rng.shuffle(misses)
        texts = [text[:start] + number + text[end:] for number in misses]
        taken = (extract_number(text), _reference_number(example))
        return next((wrong for wrong in texts if extract_number(wrong) not in taken), texts[0])


def _other_labels(example: Example) -> tuple[tuple[int, int], list[str]]:
    """Where the response states its label, and the labels that would be wrong in its place.

    Raises:
        DataError: the reference lists no labels, or the response does not state one of them clearly.
    """
    reference = json.loads(example.reference)
    labels = reference.get("labels") if isinstance(reference, dict) else None
    if not isinstance(labels, list) or not labels or not all(str(label).strip() for label in labels):
        raise DataError(
            example.id,
            "label_flip needs the labels of all options under reference.labels",
            received=sorted(reference) if isinstance(reference, dict) else reference,
            remedy="name their column in dataset.reference, or choose noise=answer_swap",
        )
    known = tuple(dict.fromkeys(map(str, labels)))
    span = _stated_label(example.response, known)
    if span is None:
        raise DataError(
            example.id,
            f"label_flip needs a response that is one of {', '.join(known)}, or ends in a line 'Answer: {known[0]}', "
            "and names no other label",
            received=example.response[-80:],
            remedy="set dataset.response to a template that ends in such a line, or choose noise=answer_swap",
        )
    stated = example.response[span[0] : span[1]].casefold()
    taken = {stated, str(reference.get("answer")).casefold()}
    return span, [label for label in known if label.casefold() not in taken]


def _stated_label(text: str, labels: tuple[str, ...]) -> tuple[int, int] | None:
    """Where the one label of a response stands; None where the grader would not read that label from it."""
    match = next((found for pattern in _label_patterns(labels) if (found := pattern.search(text))), None)
    if match is None:
        return None
    read = extract_label(text, labels)
    return match.span(1) if read is not None and read.casefold() == match[1].casefold() else None


@lru_cache(maxsize=256)
def _label_patterns(labels: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    label = "(" + "|".join(sorted(map(re.escape, labels), key=len, reverse=True)) + ")"
    announced = rf"\banswer\b[*_]*(?:\s*[:=]|\s+is\b\s*:?){_OPEN}{label}{_CLOSE}\s*\Z"
    whole = rf"\A{_OPEN}{label}{_CLOSE}\s*\Z"
    return re.compile(announced, re.IGNORECASE), re.compile(whole, re.IGNORECASE)


def _final_number(example: Example) -> tuple[int, int] | None:
    """Where the digits of the final number stand, without its sign; None where there is none."""
    text = example.response
    spans = _marked_numbers(text)
    read = extract_number(text) if spans or _NUMBER.search(text) else None
    if read is None:
        return None
    if not spans and read == _reference_number(example):
        spans = [found.span() for found in _NUMBER.finditer(text)][::-1]
    # "Answer: 3 + 4 = 7" is read as 7: the final number is the one without which another would be read.
    for start, end in spans[:_MAX_SPANS]:
        if extract_number(text[:start] + _PROBE + text[end:]) != read:
            return start, end
    return None


def _marked_numbers(text: str) -> list[tuple[int, int]]:
    """Where numbers stand behind the strongest mark, the likeliest first."""
    mark = text.rfind("####")
    if mark >= 0 and (behind := [found.span() for found in _NUMBER.finditer(text, mark)]):
        return behind
    box = text.rfind(_BOX)
    if box >= 0:
        start = box + len(_BOX)
        inside = [found.span() for found in _NUMBER.finditer(text, start, _closing_brace(text, start))]
        if inside:
            return inside[::-1]
    announced = list(_ANSWER.finditer(text))
    return [found.span() for found in _NUMBER.finditer(text, announced[-1].end())] if announced else []


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return at
    return len(text)


def _reference_number(example: Example) -> Fraction | None:
    """The reference's answer where it is one number."""
    reference: Any = json.loads(example.reference)
    answer = reference.get("answer") if isinstance(reference, dict) else None
    numbers = find_numbers(str(answer)) if isinstance(answer, (str, int, float)) else []
    return numbers[0] if len(numbers) == 1 else None


def _misses(digits: str, rng: random.Random) -> list[str]:
    """Other numbers in the notation of `digits`: off by 1, 2 or 10, double, half, with one digit changed.

    >>> _misses("1,000.0", random.Random(0))
    ['500.0', '999.0', '999.8', '999.9', '1,000.1', '1,000.2', '1,001.0', '1,007.0', '2,000.0']
    """
    whole, _, decimals = digits.replace(",", "").partition(".")
    plain = whole + decimals
    value = int(plain)
    place = rng.randrange(len(plain))
    other = rng.choice([digit for digit in "0123456789" if digit != plain[place]])
    changed = int(plain[:place] + other + plain[place + 1 :])
    near = {value + step for step in (-10, -2, -1, 1, 2, 10)} | {2 * value, value // 2, changed}
    found = []
    for number in sorted(near - {value}):
        if number >= 0:
            text = str(number).zfill(len(plain) if whole.startswith("0") else len(decimals) + 1)
            head, tail = text[: len(text) - len(decimals)], text[len(text) - len(decimals) :]
            head = f"{int(head):,}" if "," in digits else head
            found.append(f"{head}.{tail}" if decimals else head)
    return found
