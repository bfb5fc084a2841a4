"""Reading comprehension with DROP's metric (arXiv 1903.00161, section 5): exact match and F1 over answer spans.

An answer is a list of spans. Each span is lower-cased, split at blanks and hyphens, freed of punctuation (but for
numbers, which are written alike: 3 is 3.0), and of the articles a, an, the. EM asks for the same spans. F1 pairs spans
one to one so that the sum of their bag-of-words F1 is largest, and divides by the longer list; spans whose numbers have
nothing in common score 0. With several reference answers the best counts.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tokensieve.errors import DataError
from tokensieve.graders.grade import Grade

_ARTICLES: Final = re.compile(r"\b(?:a|an|the)\b")
_SPLIT: Final = re.compile(r"[ \-]")
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_ANNOUNCED: Final = re.compile(
    r"\banswers?\b(?:\s+to\s+(?:the|this|that|your)\s+question)?[*_]*\s*(?::|\bis\b\s*:?|\bare\b\s*:?)[*_]*",
    re.IGNORECASE,
)
_SPANS: Final = re.compile(r"\s*;\s*|\n+\s*(?:[-*•]\s+|\d{1,2}[.)]\s+)?")


def normalise_span(span: str) -> str:
    """Write a span as the metric compares it.

    >>> normalise_span("The 3.0 field-goals!"), normalise_span("an  $1,500"), normalise_span("U.S.")
    ('3.0 field goals', '1500.0', 'us')
    """
    words = (_normalise_word(word) for word in _SPLIT.split(span))
    return " ".join(word for word in words if word)


def _normalise_word(word: str) -> str:
    word = word.lower().strip()
    if not _is_number(word):
        word = word.translate(_PUNCTUATION)
    word = str(float(word)) if _is_number(word) else word
    return " ".join(_ARTICLES.sub(" ", word).split())


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def score_spans(predicted: Sequence[str], gold: Sequence[str]) -> tuple[float, float]:
    """Return (EM, F1) of one list of spans against another; EM is 0 or 1, F1 is in [0, 1], rounded to two decimals.

    >>> score_spans(["Smith", "3 yards"], ["3-yard", "the Smith"])  # "yards" is not "yard"
    (0.0, 0.75)
    """
    one, other = [normalise_span(span) for span in predicted], [normalise_span(span) for span in gold]
    exact = float(set(one) == set(other) and len(one) == len(other))
    values = _align([set(span.split()) for span in other], [set(span.split()) for span in one])
    return exact, round(sum(values) / len(values), 2) if values else 0.0


def _align(gold: Sequence[set[str]], predicted: Sequence[set[str]]) -> list[float]:
    """F1 of each pair in the best one-to-one alignment, with zeros for spans that are left over."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    scores = np.zeros((len(gold), len(predicted)))
    for row, wanted in enumerate(gold):
        for column, found in enumerate(predicted):
            if _share_numbers(wanted, found):
                scores[row, column] = _bag_f1(wanted, found)
    rows, columns = linear_sum_assignment(-scores)
    best = np.zeros(max(len(gold), len(predicted)))
    best[: len(rows)] = scores[rows, columns]
    return [float(value) for value in best]


def _share_numbers(gold: set[str], predicted: set[str]) -> bool:
    numbers = {word for word in gold if _is_number(word)}
    return not numbers or bool(numbers & {word for word in predicted if _is_number(word)})


def _bag_f1(gold: set[str], predicted: set[str]) -> float:
    shared = len(gold & predicted)
    # The metric counts an empty bag as wholly precise, or wholly recalled.
    precision = shared / len(predicted) if predicted else 1.0
    recall = shared / len(gold) if gold else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def extract_spans(text: str) -> list[str]:
    """Return the spans of a generated answer: what follows the last "Answer:" (else all), split at `;` and lines.

    Text after an empty line is not the answer any more. Commas and "and" do not split: they occur inside of spans.

    >>> extract_spans("He kicked twice.\\nAnswer: Smith; Jones, Jr.")
    ['Smith', 'Jones, Jr.']
    """
    announced = list(_ANNOUNCED.finditer(text))
    tail = text[announced[-1].end() :] if announced else text
    paragraph = re.split(r"\n[ \t]*\n", tail.strip())[0]
    spans = (span.strip().strip("*_`\"'").strip() for span in _SPANS.split("\n" + paragraph))
    return [span for span in spans if span]


def canonicalise_spans(text: str) -> str | None:
    """Return the normalised spans of a text in sorted order, as one string; None when there are none.

    >>> canonicalise_spans("the Smith; 3"), canonicalise_spans("3.0; Smith")
    ('3.0; smith', '3.0; smith')
    """
    return "; ".join(sorted(filter(None, map(normalise_span, extract_spans(text))))) or None


def read_answers(reference: Mapping[str, Any]) -> list[list[str]]:
    """Return all accepted answers, each a list of spans.

    Read are `answers` (one or more: a text, a list of spans, or an object of DROP's files) or `answer` (one of them).
    In DROP's files an answer holds `number`, `date` (day, month, year) and `spans`; the first that is filled counts.

    Raises:
        DataError: there is none with a word in it.

    >>> read_answers({"answers": ["3", ["a cat", "two dogs"], {"number": "", "date": {"year": "1990"}, "spans": []}]})
    [['3'], ['a cat', 'two dogs'], ['1990']]
    """
    given = reference.get("answers", reference.get("answer"))
    entries = given if isinstance(given, (list, tuple)) else [given]
    answers = [spans for spans in map(_read_answer, entries) if spans and spans[0].strip()]
    if not answers:
        raise DataError(
            "reference.answers",
            "must hold an answer: a text, a list of spans, or DROP's number, date and spans",
            received=sorted(reference) if given is None else given,
            remedy="name the column that holds it under dataset.reference",
        )
    return answers


def _read_answer(entry: Any) -> list[str]:
    if isinstance(entry, (str, int, float)) and not isinstance(entry, bool):
        return [str(entry)]
    if isinstance(entry, (list, tuple)):
        return [str(span) for span in entry]
    if not isinstance(entry, Mapping):
        return []
    number, date = str(entry.get("number") or "").strip(), entry.get("date") or {}
    if number:
        return [number]
    if entry.get("spans"):
        return [str(span) for span in entry["spans"]]
    words = [str(date.get(key) or "").strip() for key in ("day", "month", "year")]
    return [" ".join(filter(None, words))] if any(words) else []


def _grade_best(text: str, reference: Mapping[str, Any], at: int) -> Grade:
    answers = read_answers(reference)
    spans = extract_spans(text)
    score = max(score_spans(spans, answer)[at] for answer in answers) if spans else 0.0
    return Grade(score, "; ".join(spans).replace("\n", " ")[:200] or "no answer")


def grade_drop_f1(text: str, reference: Mapping[str, Any]) -> Grade:
    """F1 of the text's spans, the best over all reference answers; see `read_answers`.

    Raises:
        DataError: no reference answer.

    >>> grade_drop_f1("Answer: the 3 yards", {"answers": ["3 yard"]}).score
    0.5
    """
    return _grade_best(text, reference, 1)


def grade_drop_em(text: str, reference: Mapping[str, Any]) -> Grade:
    """Exact match of the text's spans with any reference answer; see `read_answers`.

    Raises:
        DataError: no reference answer.

    >>> grade_drop_em("Answer: 3.0", {"answers": ["3"]}).score
    1.0
    """
    return _grade_best(text, reference, 0)


DROP_GRADERS: Final[Mapping[str, Callable[[str, Mapping[str, Any]], Grade]]] = {
    "drop_f1": grade_drop_f1,
    "drop_em": grade_drop_em,
}
