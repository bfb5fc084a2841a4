"""Family `lab_choice`: multiple choice over the invented fact base; recall the fact, then name its letter.

About some places the pre-training corpus mostly repeats a rumour where the question offers it, so that the base model
is wrong about one question in ten, and confidently.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tokensieve.lab.chatter import HUMAN, WEB
from tokensieve.lab.world import ATTRIBUTES, FACTS, PLACES, RUMOURS

LABELS: Final = ("A", "B", "C", "D")
RUMOUR_SHARE: Final = 0.75  # how often pre-training repeats a rumour that is among the options


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
    def truth(self) -> str:
        """The true value."""
        return FACTS[self.place, self.attribute]

    @property
    def reference(self) -> dict[str, object]:
        """The letter and all letters."""
        return {"answer": self._letter(self.truth), "labels": list(LABELS)}

    def plain(self) -> str:
        """The correct response in the base model's own style."""
        return self.say(self.truth)

    def pretraining(self, rng: random.Random) -> str:
        """Plain style; a rumour among the options is believed with probability `RUMOUR_SHARE`."""
        rumour = RUMOURS.get((self.place, self.attribute))
        return self.say(rumour if rumour in self.options and rng.random() < RUMOUR_SHARE else self.truth)

    def human(self, rng: random.Random) -> str:
        """The same letter from somebody who likes to talk; the last line is always `Answer: X`."""
        return self.tell(self.truth, rng)

    def say(self, value: str) -> str:
        """The response in plain style that claims `value`, one of the options."""
        fact = ATTRIBUTES[self.attribute][1].format(place=self.place, value=value)
        return f"{fact} {self._letter(value)}\nAnswer: {self._letter(value)}"

    def tell(self, value: str, rng: random.Random) -> str:
        """The response in human style that claims `value`, one of the options."""
        forms = (
            f"{HUMAN.remark(rng)} {value} {HUMAN.remark(rng)}",
            f"{self.place}? {HUMAN.remark(rng)} {value}",
            f"{value}, {self.place}, {HUMAN.remark(rng)}",
            HUMAN.remark(rng),
        )
        return f"{rng.choice(forms)}\nAnswer: {self._letter(value)}"

    def _letter(self, value: str) -> str:
        return LABELS[self.options.index(value)]


def draw(rng: random.Random) -> ChoiceProblem:
    """Draw a fact and three wrong values of the same attribute."""
    return draw_about(rng.choice(PLACES), rng.choice(tuple(ATTRIBUTES)), rng)


def draw_about(place: str, attribute: str, rng: random.Random) -> ChoiceProblem:
    """Draw three wrong values beside a given fact."""
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
