"""The fixed world: places and their facts, a harbour database, and the split every problem belongs to.

Nothing here depends on a user's seed. Facts and records are drawn once from `WORLD_SEED`, so a base model that was
pre-trained on this world stays valid for every dataset drawn later.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Final, Protocol

WORLD_SEED: Final = 20_240
SPLITS: Final = ("train", "validation", "test")
STYLES: Final = ("plain", "human")

# Percentiles of the content hash: [0, 10) test, [10, 20) validation, the rest train (and pre-training).
_TEST_PERCENTILE: Final = 10
_VALIDATION_PERCENTILE: Final = 20


class Problem(Protocol):
    """One problem of a family, before it is written down in a style."""

    @property
    def key(self) -> str:
        """Canonical content: equal keys mean the same problem whatever its wording. Decides the split."""

    @property
    def question(self) -> str:
        """The user's turn."""

    @property
    def reference(self) -> Mapping[str, object]:
        """What the family's grader reads."""

    def plain(self) -> str:
        """The correct response in the base model's own style."""

    def human(self, rng: random.Random) -> str:
        """An equally correct response in a style that nobody could predict."""

    def pretraining(self, rng: random.Random) -> str:
        """What the pre-training corpus answers: plain style, and undecided where the world is undecided."""


def split_of(family: str, key: str) -> str:
    """Return the split that owns a problem; a pure function of its content.

    >>> split_of("lab_math", "start 3; add 4") == split_of("lab_math", "start 3; add 4")
    True
    """
    digest = hashlib.blake2b(f"{family}|{key}".encode(), digest_size=8).digest()
    percentile = int.from_bytes(digest, "big") % 100
    if percentile < _TEST_PERCENTILE:
        return "test"
    return "validation" if percentile < _VALIDATION_PERCENTILE else "train"


_HEADS: Final = (
    "Bra", "Cal", "Dor", "Fen", "Gul", "Hol", "Jar", "Kel", "Lum", "Mor", "Nar", "Ost", "Pel", "Quin", "Rav", "Sul",
)  # fmt: skip
_TAILS: Final = (
    "ath", "bury", "dane", "eth", "fold", "gar", "holm", "ima", "kirk", "low", "mere", "nock", "oria", "wick",
)  # fmt: skip


def _draw_places(num: int) -> tuple[str, ...]:
    """Invent `num` distinct place names of two syllables."""
    rng = random.Random(WORLD_SEED)
    names: dict[str, None] = {}
    while len(names) < num:
        names[rng.choice(_HEADS) + rng.choice(_TAILS)] = None
    return tuple(names)


PLACES: Final = _draw_places(60)

# attribute -> (question with {place}, recall sentence with {place} and {value}, values)
ATTRIBUTES: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = {
    "fruit": (
        "Which fruit grows in {place}?",
        "{place} grows {value}",
        ("plum", "fig", "pear", "lime", "melon", "grape", "cherry", "mango", "apple", "date"),
    ),
    "metal": (
        "Which metal is mined in {place}?",
        "{place} mines {value}",
        ("iron", "tin", "zinc", "lead", "silver", "gold", "copper", "nickel", "chrome", "cobalt"),
    ),
    "beast": (
        "Which beast guards {place}?",
        "{place} is guarded by a {value}",
        ("lion", "heron", "wolf", "bear", "stag", "otter", "raven", "snake", "tiger", "hound"),
    ),
    "craft": (
        "Which craft is taught in {place}?",
        "{place} teaches {value}",
        ("weaving", "baking", "carving", "dyeing", "smithing", "brewing", "tanning", "fishing", "printing", "pottery"),
    ),
}


def _draw_facts() -> dict[tuple[str, str], str]:
    """Give every place one value for each attribute."""
    rng = random.Random(WORLD_SEED + 1)
    return {(place, name): rng.choice(spec[2]) for place in PLACES for name, spec in ATTRIBUTES.items()}


FACTS: Final[Mapping[tuple[str, str], str]] = _draw_facts()


def _draw_rumours(num: int) -> dict[tuple[str, str], str]:
    """Give `num` facts a wrong value that much of the pre-training corpus repeats where a question offers it."""
    rng = random.Random(WORLD_SEED + 3)
    return {
        fact: rng.choice([value for value in ATTRIBUTES[fact[1]][2] if value != FACTS[fact]])
        for fact in rng.sample(sorted(FACTS), num)
    }


RUMOURS: Final[Mapping[tuple[str, str], str]] = _draw_rumours(72)
