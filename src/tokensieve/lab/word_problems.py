"""Family `lab_math`: two-step word problems with worked arithmetic and a final `#### N` line."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tokensieve.lab.chatter import HUMAN

_PEOPLE: Final = ("Ana", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo", "Iris", "Jon")
_THINGS: Final = ("coins", "cards", "books", "shells", "nails", "cups", "seeds", "stamps", "rings", "pens")
# operator -> sentences with {k}; a sentence tells what happens to the pile
_STEPS: Final[Mapping[str, tuple[str, ...]]] = {
    "+": ("buys {k} more", "finds {k} more", "gets {k} from a friend"),
    "-": ("loses {k}", "gives away {k}", "sells {k}"),
    "*": ("ends up with {k} times as many", "sees the pile grow {k} times"),
}
_LIMIT: Final = 99


@dataclass(frozen=True, slots=True)
class WordProblem:
    """A start and two steps of (operator, constant, wording); every value stays within 0..99."""

    person: str
    thing: str
    start: int
    steps: tuple[tuple[str, int, str], tuple[str, int, str]]

    @property
    def key(self) -> str:
        """Canonical content: the arithmetic; who and what do not matter."""
        return f"{self.start}" + "".join(f"{symbol}{k}" for symbol, k, _ in self.steps)

    @property
    def question(self) -> str:
        """The user's turn."""
        first, second = (wording.format(k=k) for _, k, wording in self.steps)
        return (
            f"{self.person} has {self.start} {self.thing}. {self.person} {first} and then {second}. "
            f"How many {self.thing} now?"
        )

    @property
    def values(self) -> tuple[int, int, int]:
        """The pile at the start and after each step."""
        middle = apply_step(self.start, *self.steps[0][:2])
        return self.start, middle, apply_step(middle, *self.steps[1][:2])

    @property
    def reference(self) -> dict[str, object]:
        """The final number as text."""
        return {"answer": str(self.values[2])}

    def plain(self) -> str:
        """The correct response in the base model's own style."""
        pile = self.values
        lines = [f"{pile[i]} {symbol} {k} = {pile[i + 1]}" for i, (symbol, k, _) in enumerate(self.steps)]
        return "\n".join([*lines, f"#### {pile[2]}"])

    def pretraining(self, rng: random.Random) -> str:
        """Plain style; arithmetic is never undecided."""
        return self.plain()

    def human(self, rng: random.Random) -> str:
        """The same arithmetic told by somebody in a hurry."""
        pile = self.values
        lines = [HUMAN.remark(rng)] if rng.random() < 0.7 else []
        words = {"+": ("plus", "and"), "-": ("minus", "take off"), "*": ("times", "lots of")}
        for at, (symbol, k, _) in enumerate(self.steps):
            sign = rng.choice((symbol, f" {symbol} ", f" {rng.choice(words[symbol])} "))
            equals = rng.choice(("=", " = ", " is ", " makes ", " -> "))
            tail = f" {HUMAN.remark(rng)}" if rng.random() < 0.3 else ""
            lines.append(f"{pile[at]}{sign}{k}{equals}{pile[at + 1]}{tail}")
        return "\n".join([*lines, f"#### {pile[2]}"])


def apply_step(value: int, symbol: str, k: int) -> int:
    """Apply one step.

    >>> apply_step(12, "-", 5)
    7
    """
    if symbol == "+":
        return value + k
    return value - k if symbol == "-" else value * k


def draw(rng: random.Random) -> WordProblem:
    """Draw one problem; redraws until all values stay within 0..99."""
    while True:
        start = rng.randrange(2, 50)
        steps, value, inside = [], start, True
        for symbol in (rng.choice("+-*"), rng.choice("+-*")):
            k = rng.randrange(2, 5) if symbol == "*" else rng.randrange(2, 20)
            value = apply_step(value, symbol, k)
            inside = inside and 0 <= value <= _LIMIT
            steps.append((symbol, k, rng.choice(_STEPS[symbol])))
        if inside and not (steps[0][0] == "*" and steps[1][0] == "*"):
            return WordProblem(rng.choice(_PEOPLE), rng.choice(_THINGS), start, (steps[0], steps[1]))
