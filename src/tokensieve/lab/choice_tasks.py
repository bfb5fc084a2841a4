"""Family `lab_choice`: multiple choice over the invented fact base; recall the fact, then name its letter."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tokensieve.lab.chatter import HUMAN, WEB
from tokensieve.lab.world import ATTRIBUTES, FACTS, PLACES

LABELS: Final = ("A", "B", "C", "D")


@dataclass(frozen=True, slots=True)
class ChoiceProblem:
    """A place, an attribute, and four values in the order of `LABELS`, one of them true."""

    place: str
    attribute: str
    options: tuple[str, ...]

    @property
    def key(self) -> str:
        """Canonical content: the same four options in another order are the same problem."""
        return f"{self.place}; {self.attribute}; {', '.join(sorted(self.options))}"

    @property
    def question(self) -> str:
        """The user's turn."""
        return f"{ATTRIBUTES[self.attribute][0].format(place=self.place)} Options: {_list(self.options)}"

    @property
    def answer(self) -> str:
        """The letter of the true value."""
        return LABELS[self.options.index(FACTS[self.place, self.attribute])]

    @property
    def reference(self) -> dict[str, object]:
        """The letter and all letters."""
        return {"answer": self.answer, "labels": list(LABELS)}

    def plain(self) -> str:
        """The correct response in the base model's own style."""
        fact = ATTRIBUTES[self.attribute][1].format(place=self.place, value=FACTS[self.place, self.attribute])
        return f"{fact} {self.answer}\nAnswer: {self.answer}"

    def pretraining(self, rng: random.Random) -> str:
        """Plain style; facts are never undecided."""
        return self.plain()

    def human(self, rng: random.Random) -> str:
        """The same letter from somebody who likes to talk; the last line is always `Answer: X`."""
        value = FACTS[self.place, self.attribute]
        forms = (
            f"{HUMAN.remark(rng)} {value} {HUMAN.remark(rng)}",
            f"{self.place}? {HUMAN.remark(rng)} {value}",
            f"{value}, {self.place}, {HUMAN.remark(rng)}",
            HUMAN.remark(rng),
        )
        return f"{rng.choice(forms)}\nAnswer: {self.answer}"


def draw(rng: random.Random) -> ChoiceProblem:
    """Draw a fact and three wrong values of the same attribute."""
    place, attribute = rng.choice(PLACES), rng.choice(tuple(ATTRIBUTES))
    truth = FACTS[place, attribute]
    options = [truth, *rng.sample([value for value in ATTRIBUTES[attribute][2] if value != truth], 3)]
    rng.shuffle(options)
    return ChoiceProblem(place, attribute, tuple(options))


def draw_drill(rng: random.Random) -> tuple[str, str]:
    """Draw a question and response that ask for letters without any fact; pre-training alone holds such drills.

    They carry four look-ups instead of one, so that the model learns to find a value among options in minutes. Half of
    them list invented names: a model that can repeat any name can follow a program that uses odd ones.
    """
    if rng.random() < 0.5:
        options = rng.sample(ATTRIBUTES[rng.choice(tuple(ATTRIBUTES))][2], len(LABELS))
    else:
        options = rng.choice((HUMAN, WEB)).names(rng, len(LABELS))
    pairs = list(zip(options, LABELS, strict=True))
    rng.shuffle(pairs)
    asked = ", ".join(value for value, _ in pairs)
    return f"Which letters have {asked}? Options: {_list(options)}", "\n".join(f"{v} {label}" for v, label in pairs)


def _list(options: Sequence[str]) -> str:
    return ", ".join(f"{label} {value}" for label, value in zip(LABELS, options, strict=True))
