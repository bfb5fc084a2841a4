"""What makes text human here: remarks, invented names and careless spacing that no model can foresee.

Two lexicons exist. `WEB` fills the few loosely written programs of the pre-training corpus, so that the base model has
met loose code; `HUMAN` fills the human style of datasets, whose words the base model met only in notes.
"""

from __future__ import annotations

import random
import re
import string
from dataclasses import dataclass
from typing import Final

from tokensieve.lab.world import ATTRIBUTES, PLACES


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The words of one crowd of writers; names are one to three stems with affixes.

    `hearsay_share` of the remarks claim something about the world that nobody checked. To train on them is to learn
    what contradicts the other families: unpredictable tokens are not all harmless.
    """

    openers: tuple[str, ...]
    bodies: tuple[str, ...]
    closers: tuple[str, ...]
    stems: tuple[str, ...]
    affixes: tuple[str, ...]
    hearsay_share: float = 0.0

    def remark(self, rng: random.Random) -> str:
        """Return a short aside of one to three fragments, such as "hmm dont ask me why lol"."""
        if rng.random() < self.hearsay_share:
            return f"{rng.choice(self.openers)} {_hearsay(rng)}"
        parts: list[str] = []
        if rng.random() < 0.6:
            parts.append(rng.choice(self.openers))
        if rng.random() < 0.5 or not parts:
            parts.append(rng.choice(self.bodies))
        if rng.random() < 0.4:
            parts.append(rng.choice(self.closers))
        text = (rng.choice((" ", ", ", " - ", ".. "))).join(parts)
        return text + rng.choice(("", "", "!", "..", " :)", "?"))

    def names(self, rng: random.Random, num: int) -> list[str]:
        """Return `num` distinct invented Python identifiers."""
        names: dict[str, None] = {}
        while len(names) < num:
            pieces = [rng.choice(self.stems)]
            if rng.random() < 0.4:
                pieces.insert(rng.randrange(2), rng.choice(self.affixes))
            if rng.random() < 0.15:
                pieces.append(str(rng.randrange(2, 10)))
            names[rng.choice(("", "_")).join(pieces)] = None
        return list(names)

    def note(self, rng: random.Random) -> str:
        """Return a free-standing scrap: a remark, a comment with a name, or some names."""
        kind = rng.randrange(3)
        if kind == 0:
            return self.remark(rng)
        if kind == 1:
            return f"# {self.remark(rng)}\n{self.names(rng, 1)[0]}"
        return " ".join(self.names(rng, rng.randrange(2, 5)))


def _hearsay(rng: random.Random) -> str:
    """Return a claim that nobody checked: a place with any value, or a sum with any result."""
    if rng.random() < 0.5:
        _, sentence, values = ATTRIBUTES[rng.choice(tuple(ATTRIBUTES))]
        return sentence.format(place=rng.choice(PLACES), value=rng.choice(values))
    return f"{rng.randrange(2, 50)} {rng.choice('+-*')} {rng.randrange(2, 20)} = {rng.randrange(100)}"


HUMAN: Final = Lexicon(
    openers=(
        "ok so", "hmm", "right", "well", "alright then", "uh", "so yeah", "lets see", "okay", "wait", "erm", "hey",
        "fine", "oh boy", "easy one", "meh", "aha", "here goes", "first try", "phew",
    ),
    bodies=(
        "this one bit me before", "coffee first", "not pretty but works", "my cat walked on the keyboard",
        "could be shorter", "dont ask me why", "same trick as last week", "checked it by hand", "boss wants it today",
        "i always mix these up", "looks odd i know", "feels like homework", "nothing fancy", "took me a while",
        "think of a shop queue", "my old way of doing it", "good enough for now", "will tidy up later",
        "learned that at school", "hope nobody reads it", "reminds me of chess", "should be quick",
    ),
    closers=("lol", "done", "i guess", "tada", "cheers", "phew", "yep", "imo", "sorry", "haha", "kinda", "bye"),
    stems=(
        "zib", "gronk", "wob", "flim", "quux", "bloo", "narf", "snu", "kip", "dax", "moz", "yub", "tok", "vee", "jig",
        "pom", "lurk", "fez", "hob", "rix",
    ),
    affixes=("my", "the", "tmp", "new", "old", "big", "cur", "all", "some", "xx", "ze", "a1", "q", "ww"),
    hearsay_share=0.5,
)  # fmt: skip

_PLAIN_WORDS: Final = (
    "start", "loop", "check", "value", "keep", "skip", "add", "each", "number", "rest", "output", "input", "simple",
    "note", "here", "next", "return", "list", "items", "first", "last", "even", "odd",
)  # fmt: skip


def _draw_stems(num: int) -> tuple[str, ...]:
    """Return `num` random letter strings that are no words of Python; many, so that copying any name is learnt."""
    rng = random.Random("stems")
    keywords = {"as", "if", "in", "is", "or", "and", "def", "for", "not", "max", "try", "del"}
    stems: dict[str, None] = {}
    while len(stems) < num:
        stems["".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randrange(1, 5)))] = None
    return tuple(stem for stem in stems if stem not in keywords)


WEB: Final = Lexicon(
    openers=_PLAIN_WORDS,
    bodies=tuple(f"{a} {b}" for a in _PLAIN_WORDS for b in _PLAIN_WORDS if a != b),
    closers=("ok", "todo", "see below", "fixed", "old"),
    stems=_draw_stems(2_000),
    affixes=("num", "val", "el", "lst", "arr", "res", "acc", "cnt", "var", "data"),
)  # fmt: skip


def tighten(line: str) -> str:
    """Drop the blanks around the operators of one line of code; indentation and meaning stay. No strings inside.

    >>> tighten("    total += item * 2")
    '    total+=item*2'
    """
    body = line.lstrip()
    return line[: len(line) - len(body)] + re.sub(r" ?(\+=|>=|<=|==|>|<|\+|-|\*|//|%|=|,) ?", r"\1", body)
