"""Errors of wording, for any text: `typo`, `truncate`, `repeat`."""

from __future__ import annotations

import random
import re
import unicodedata
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from tokensieve.noise.rows import Example

_PIECE: Final = re.compile(r"\s+|\S+")
_WORD: Final = re.compile(r"\S+")
_LINE: Final = re.compile(r".*\S.*(?:\n|\Z)")
_KEYBOARD: Final = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_BESIDE: Final = {
    letter: row[max(0, at - 1) : at] + row[at + 1 : at + 2] for row in _KEYBOARD for at, letter in enumerate(row)
}
# Of the slips, so many are in the letters of a word; the others are in the words of a line.
_LETTER_SHARE: Final = 0.75


@dataclass(frozen=True, slots=True)
class Typo:
    """Slips of the hand in `rate` of the words that have letters, and in one at least.

    In a word: two letters change places, one is left out, doubled, or hit beside its key. In a line: a word is said
    twice, left out, or changes places with the next one. Line breaks and indentation stay.
    """

    rate: float
    kind = "typo"

    def applies(self, example: Example) -> bool:
        return any(map(str.isalpha, example.response))

    def corrupt(self, example: Example, rng: random.Random) -> str:
        pieces = _PIECE.findall(example.response)
        words = [at for at, piece in enumerate(pieces) if any(map(str.isalpha, piece))]
        hit = {at for at in words if rng.random() < self.rate} or {rng.choice(words)}
        at = 0
        while at < len(pieces):
            if at in hit:
                slip = _slip_in_word if rng.random() < _LETTER_SHARE else _slip_in_line
                at = slip(pieces, at, rng)
            at += 1
        text = "".join(pieces)
        if text != example.response:
            return text
        first = next(at for at, letter in enumerate(text) if letter.isalpha())  # two slips made up for each other
        return text[:first] + text[first] + text[first:]


@dataclass(frozen=True, slots=True)
class Truncate:
    """The response breaks off: after a uniformly drawn number of words, within the word where there is only one."""

    kind = "truncate"

    def applies(self, example: Example) -> bool:
        return len(_breaks(example.response)) > 0

    def corrupt(self, example: Example, rng: random.Random) -> str:
        return example.response[: rng.choice(_breaks(example.response))]


@dataclass(frozen=True, slots=True)
class Repeat:
    """The response gets stuck: a line, or a few words where there is one line, is said two to four times."""

    kind = "repeat"

    def applies(self, example: Example) -> bool:
        return bool(example.response.strip())

    def corrupt(self, example: Example, rng: random.Random) -> str:
        text = example.response
        copies = rng.randint(1, 3)
        lines = list(_LINE.finditer(text))
        if len(lines) > 1:
            line = rng.choice(lines)
            again = line[0] if line[0].endswith("\n") else f"\n{line[0]}"
            return text[: line.end()] + again * copies + text[line.end() :]
        words = list(_WORD.finditer(text))
        first = rng.randrange(len(words))
        last = min(first + rng.randint(0, 4), len(words) - 1)
        again = " " + text[words[first].start() : words[last].end()]
        return text[: words[last].end()] + again * copies + text[words[last].end() :]


def _breaks(text: str) -> list[int]:
    """Where a text can break off and still say something, and less than before."""
    words = list(_WORD.finditer(text))
    if len(words) != 1:
        return [word.end() for word in words[:-1]]
    ends = accumulate(map(len, _clusters(words[0][0])), initial=words[0].start())
    return list(ends)[1:-1]


def _slip_in_word(pieces: list[str], at: int, rng: random.Random) -> int:
    """Change the letters of piece `at`; return the last place that was touched."""
    letters = _clusters(pieces[at])
    places = [place for place, letter in enumerate(letters) if letter[0].isalpha()]
    place = rng.choice(places)
    letter = letters[place]
    beside = _BESIDE.get(letter.lower(), "")
    swappable = place + 1 in places and letters[place + 1] != letter
    slips = ["double", *["drop"] * (len(places) > 1), *["beside"] * bool(beside), *["swap"] * swappable]
    slip = rng.choice(slips)
    if slip == "swap":
        letters[place : place + 2] = letters[place + 1], letter
    elif slip == "beside":
        other = rng.choice(beside)
        letters[place] = other.upper() if letter.isupper() else other
    else:
        letters[place] = letter * 2 if slip == "double" else ""
    pieces[at] = "".join(letters)
    return at


def _slip_in_line(pieces: list[str], at: int, rng: random.Random) -> int:
    """Say the word twice, leave it out, or let it change places with the next; return the last place touched."""
    word = pieces[at]
    has_next = at + 2 < len(pieces) and not {"\n", "\r"} & set(pieces[at + 1])
    slip = rng.choice(["double", "drop", "swap"] if has_next else ["double"])
    if slip == "double":
        pieces[at] = f"{word} {word}"
        return at
    if slip == "drop":  # with the blank after it; the last word of a line always stays
        pieces[at] = pieces[at + 1] = ""
        return at + 1
    pieces[at], pieces[at + 2] = pieces[at + 2], word
    return at + 2


def _clusters(word: str) -> list[str]:
    """The letters of a word, each with the marks that stand on it.

    >>> len(_clusters("e\\u0301a"))
    2
    """
    found: list[str] = []
    for letter in word:
        if found and unicodedata.category(letter) in ("Mn", "Mc", "Me", "Cf"):
            found[-1] += letter
        else:
            found.append(letter)
    return found
