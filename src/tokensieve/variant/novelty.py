"""Is a text unlike all that is there? ROUGE-L, with the longest common subsequence of rapidfuzz."""

from __future__ import annotations

import re
from array import array
from typing import Final

# Chinese and Japanese write no blanks: there, a character is a word.
_WORD: Final = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")


class NoveltyFilter:
    """A growing collection of texts, each with a name; holds numbered words only, not texts.

    ROUGE-L F1 of two texts of m and n words with a longest common subsequence of L words is 2 L / (m + n), which is
    rapidfuzz's normalised Indel similarity of the word lists. (The package rouge-score reads a to z and 0 to 9 only,
    so that any two texts of another script are equal to it, and compares a pair at a time in Python.)
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._texts: list[array[int]] = []
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str, name: str) -> None:
        """Put a text into the collection."""
        self._texts.append(self._read(text))
        self._names.append(name)

    def find_similar(self, text: str, threshold: float) -> tuple[str, float] | None:
        """Name and ROUGE-L F1 of the most similar text if that is above `threshold`, else None.

        >>> known = NoveltyFilter()
        >>> known.add("List four kinds of tea.", "seed")
        >>> known.find_similar("List four kinds of cheese", 0.7)
        ('seed', 0.8)
        """
        from rapidfuzz.distance import Indel
        from rapidfuzz.process import extractOne

        words = self._read(text)
        found = extractOne(words, self._texts, scorer=Indel.normalized_similarity, score_cutoff=threshold)
        if found is None or found[1] <= threshold:
            return None
        return self._names[found[2]], float(found[1])

    def _read(self, text: str) -> array[int]:
        return array("Q", [self._numbers.setdefault(word, len(self._numbers)) for word in split_words(text)])


def split_words(text: str) -> list[str]:
    """The words of a text, without case or punctuation.

    >>> split_words("L'été, 東京!")
    ['l', 'été', '東', '京']
    """
    return _WORD.findall(text.casefold())
