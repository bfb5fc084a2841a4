"""Free-text answers of question/answer sets: the same words, or nearly the same."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

from tokensieve.errors import DataError
from tokensieve.graders.grade import Grade

# Share of agreement, in percent, from which two texts count as the same answer. Two texts of ten words that differ in
# one agree to about 90; unrelated English sentences agree to 30 to 50.
FUZZY_THRESHOLD: Final = 85.0
# Where these differ, so do the answers, however much else agrees: numbers, and words that turn a sentence round.
_DECIDING: Final = re.compile(r"\w*\d(?:[\w.,:/-]*\w)?|\b(?:yes|no|not|cannot|never|without)\b|n['’]t\b")
_ANNOUNCED: Final = re.compile(r"\A\s*(?:\W*\b(?:final )?answer\b\W*?:|the answer is\b:?)\s*", re.IGNORECASE)
# Not the marks inside of words: snake_case, 2*3.
_MARKUP: Final = re.compile(r"(?<!\w)[*_]{1,3}(?=\S)|(?<=\S)[*_]{1,3}(?!\w)|`+")
_QUOTES: Final = " \"'“”‘’«»()[]"
_STOPS: Final = _QUOTES + ".,;:!?"  # at the end only: ".5" is not "5"


def normalise_words(text: str) -> str:
    """Write a text in one way: no leading "Answer:", no Markdown marks, one case, one blank, no marks at its ends.

    Compatible Unicode forms are the same (NFKC); accents, inner punctuation and signs before a number stay.

    >>> normalise_words('Answer: **"Ｔhe  BGP\\tport."**'), normalise_words("-5"), normalise_words("3.5 %")
    ('the bgp port', '-5', '3.5 %')
    """
    text = _ANNOUNCED.sub("", unicodedata.normalize("NFKC", text))
    return " ".join(_MARKUP.sub("", text).casefold().split()).lstrip(_QUOTES).rstrip(_STOPS)


def extract_words(text: str) -> str | None:
    """Return the normalised text; None when nothing is left of it.

    >>> extract_words("Answer: Yes."), extract_words("...")
    ('yes', None)
    """
    return normalise_words(text) or None


def read_texts(reference: Mapping[str, Any]) -> list[str]:
    """Return all accepted answers, normalised: `answers`, or `answer` (a text or a list).

    Raises:
        DataError: there is none with a word in it.

    >>> read_texts({"answer": ["Yes.", "yep"]})
    ['yes', 'yep']
    """
    given = reference.get("answers", reference.get("answer"))
    entries = given if isinstance(given, (list, tuple)) else [given]
    texts = [normalise_words(str(entry)) for entry in entries if isinstance(entry, (str, int, float))]
    texts = [text for text in texts if text]
    if not texts:
        raise DataError(
            "reference.answer",
            "must be a text, or a list of accepted texts",
            received=sorted(reference) if given is None else given,
            remedy="name the column that holds it under dataset.reference",
        )
    return texts


def grade_exact(text: str, reference: Mapping[str, Any]) -> Grade:
    """Score 1 when the normalised text is an accepted answer; see `normalise_words` and `read_texts`.

    Raises:
        DataError: no reference answer.

    >>> grade_exact("**Port 179.**", {"answer": "port 179"}).score, grade_exact("179", {"answer": "port 179"}).score
    (1.0, 0.0)
    """
    golds = read_texts(reference)
    found = normalise_words(text)
    return Grade(float(found in golds), found[:200] or "no answer")


def grade_fuzzy(text: str, reference: Mapping[str, Any]) -> Grade:
    """Score 1 when the words of the text, whatever their order, agree with an accepted answer to `FUZZY_THRESHOLD`.

    Agreement is rapidfuzz's token sort ratio of the normalised texts: 100 * (1 - insertions and deletions / length of
    both), with the words of each sorted. A part of an answer does not agree with the whole. Texts with other numbers,
    or of which only one says no, do not agree at all.

    Raises:
        DataError: no reference answer.

    >>> grade_fuzzy("BGP listens at port 179", {"answer": "BGP listens on port 179."}).score
    1.0
    >>> grade_fuzzy("port 179", {"answer": "BGP listens on port 179."}).score
    0.0
    """
    from rapidfuzz import fuzz

    golds = read_texts(reference)
    found = normalise_words(text)
    alike = [gold for gold in golds if _find_deciding(gold) == _find_deciding(found)]
    agreement = max((fuzz.token_sort_ratio(found, gold) for gold in alike), default=0.0) if found else 0.0
    return Grade(float(agreement >= FUZZY_THRESHOLD), f"{agreement:.0f} %: {found[:200]}" if found else "no answer")


def _find_deciding(text: str) -> list[str]:
    """The words that decide, in one spelling each, sorted: "cannot" and "isn't" both say not.

    >>> _find_deciding("it isn't 1,500 ms, not at all"), _find_deciding("port 179.")
    (['1500', 'not', 'not'], ['179'])
    """
    found = (match[0] for match in _DECIDING.finditer(text))
    return sorted("not" if word in ("cannot", "n't", "n’t") else word.replace(",", "") for word in found)
