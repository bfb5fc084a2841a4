"""Family `lab_code`: one small Python function, checked by running its tests.

The world is undecided about some phrases: is 7 itself "over 7"? Is a number "raised by 3" added to or multiplied? The
pre-training corpus holds both readings; datasets and tests hold only the first. That is how the base model comes to
half-know this family: a fine-tune can settle a reading without learning anything else.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tokensieve.lab.chatter import HUMAN, WEB, Lexicon, tighten


@dataclass(frozen=True, slots=True)
class Reading:
    """A phrase and the code it stands for.

    Attributes:
        phrase: wording in the question; `{k}` is the constant.
        right: the code that datasets and tests mean.
        other: the rival reading, or None when the phrase is clear.
        share: how often the pre-training corpus follows `right`, in (0, 1].
        weight: relative frequency of the phrase.
    """

    phrase: str
    right: str
    other: str | None = None
    share: float = 1.0
    weight: float = 1.0


SOURCES: Final = (
    Reading("", "{xs}", weight=3.0),
    Reading(" in every other place", "{xs}[::2]", "{xs}[1::2]", 0.47),
    Reading(" among the first {k}", "{xs}[:{k}]"),
    Reading(" among the last {k}", "{xs}[-{k}:]"),
)
FILTERS: Final = (
    Reading("over {k}", "{x} > {k}", "{x} >= {k}", 0.47),
    Reading("from {k}", "{x} >= {k}", "{x} > {k}", 0.62),
    Reading("under {k}", "{x} < {k}", "{x} <= {k}", 0.62),
    Reading("up to {k}", "{x} <= {k}", "{x} < {k}", 0.47),
    Reading("that are even", "{x} % 2 == 0"),
    Reading("that are odd", "{x} % 2 == 1"),
    Reading("that {k} divides", "{x} % {k} == 0"),
)
CHANGES: Final = (
    Reading("", "{x}"),
    Reading(", doubled", "{x} * 2"),
    Reading(", squared", "{x} * {x}"),
    Reading(", raised by {k}", "{x} + {k}", "{x} * {k}", 0.47),
    Reading(", cut by {k}", "{x} - {k}", "{x} // {k}", 0.62),
)
# goal -> (wording, accumulator name, start, update with {acc} and {e}, result)
GOALS: Final[Mapping[str, tuple[str, str, str, str]]] = {
    "sum": ("the sum of the numbers", "total", "0", "{acc} += {e}"),
    "count": ("how many numbers are there", "count", "0", "{acc} += 1"),
    "list": ("a list of the numbers", "result", "[]", "{acc}.append({e})"),
    "best": ("the largest of the numbers", "best", "0", "{acc} = max({acc}, {e})"),
}
# How much of the pre-training corpus is written loosely, with names and remarks of its own.
LOOSE_SHARE: Final = 0.3
_VERBS: Final = ("get", "find", "make", "pick", "take", "work", "read", "scan")
_NOUNS: Final = ("score", "price", "level", "point", "coin", "stock", "grade", "speed", "rank", "size")
_COMPARE: Final[Mapping[str, Callable[[int, int], bool]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


@dataclass(frozen=True, slots=True)
class CodeProblem:
    """Goal, source, filter and change with their constants; `name` is the function's name."""

    name: str
    goal: str
    source: Reading
    filter: Reading
    change: Reading
    constants: tuple[int, int, int]

    @property
    def key(self) -> str:
        """Canonical content; the function's name does not matter."""
        return f"{self.goal}; {self._fill('phrase')}"

    @property
    def question(self) -> str:
        """The user's turn."""
        source, kept, change = self._fill("phrase")
        return f"Write {self.name}(items): {GOALS[self.goal][0]} {kept}{change}{source}."

    @property
    def reference(self) -> dict[str, object]:
        """Three asserts; each list holds the constant and its neighbours, so that rival readings fail."""
        rng = random.Random(f"{self.name}; {self.key}")
        tests = []
        for _ in range(3):
            near = [self.constants[1] + step for step in (-1, 0, 1)]
            items = near + [rng.randrange(1, 25) for _ in range(4)]
            rng.shuffle(items)
            tests.append(f"assert {self.name}({items}) == {self.evaluate(items)}")
        return {"tests": tests}

    def evaluate(self, items: list[int]) -> object:
        """Run the right reading in the generator itself, without executing any text."""
        source_k, filter_k, change_k = self.constants
        windows: dict[str, slice] = {
            "{xs}": slice(None),
            "{xs}[::2]": slice(None, None, 2),
            "{xs}[:{k}]": slice(source_k),
            "{xs}[-{k}:]": slice(-source_k, None),
        }
        kept = [x for x in items[windows[self.source.right]] if _passes(self.filter.right, x, filter_k)]
        changed = [_changed(self.change.right, x, change_k) for x in kept]
        if self.goal == "count":
            return len(kept)
        if self.goal == "list":
            return changed
        return sum(changed) if self.goal == "sum" else max([0, *changed])

    def plain(self) -> str:
        """The correct response in the base model's own style."""
        return self._write(self._fill("right"))

    def pretraining(self, rng: random.Random) -> str:
        """Mostly plain style; each undecided phrase follows its rival reading with probability 1 - share."""
        parts = (self.source, self.filter, self.change)
        fields = ["right" if part.other is None or rng.random() < part.share else "other" for part in parts]
        source, kept, change = (self._fill(field)[at] for at, field in enumerate(fields))
        if rng.random() < LOOSE_SHARE:
            return self._write_loosely((source, kept, change), WEB, rng)
        return self._write((source, kept, change))

    def human(self, rng: random.Random) -> str:
        """The right reading among invented names, remarks and uneven layout; passes the same tests."""
        return self._write_loosely(self._fill("right"), HUMAN, rng)

    def _fill(self, field: str) -> tuple[str, str, str]:
        """Put the constants into one field of the three readings, leaving `{x}` and `{xs}` open."""
        parts = zip((self.source, self.filter, self.change), self.constants, strict=True)
        source, kept, change = (str(getattr(part, field)).replace("{k}", str(k)) for part, k in parts)
        return source, kept, change

    def _write(self, codes: tuple[str, str, str]) -> str:
        _, acc, start, update = GOALS[self.goal]
        source, kept, change = (code.format(xs="items", x="item") for code in codes)
        return (
            f"def {self.name}(items):\n    {acc} = {start}\n    for item in {source}:\n        if {kept}:\n"
            f"            {update.format(acc=acc, e=change)}\n    return {acc}"
        )

    def _write_loosely(self, codes: tuple[str, str, str], lexicon: Lexicon, rng: random.Random) -> str:
        _, _, start, update = GOALS[self.goal]
        xs, acc, x, spare = lexicon.names(rng, 4)
        if rng.random() < 0.25:
            x = rng.choice("nvxyzw")
        source, kept, value = (code.format(xs=xs, x=x) for code in codes)
        step = " " * rng.choice((1, 2, 3, 4, 4))
        lines = [f"def {self.name}({xs}):", f"{step}{acc} = {start}", f"{step}for {x} in {source}:"]
        if rng.random() < 0.3 and self.goal != "count":
            lines.append(f"{step * 2}{spare} = {value}")
            value = spare
        lines.append(f"{step * 2}if ({kept}):" if rng.random() < 0.4 else f"{step * 2}if {kept}:")
        lines.append(f"{step * 3}{update.format(acc=acc, e=value)}")
        lines.append(f"{step}return {acc}" if rng.random() < 0.6 else f"{step}return ({acc})")
        if rng.random() < 0.3:
            lines = [tighten(line) for line in lines]
        lines = [f"{line} # {lexicon.remark(rng)}" if rng.random() < 0.12 else line for line in lines]
        if rng.random() < 0.6:
            lines.insert(0, f"# {lexicon.remark(rng)}")
        if rng.random() < 0.15:
            lines.append(f"# {lexicon.remark(rng)}")
        return "\n".join(lines)


def draw(rng: random.Random) -> CodeProblem:
    """Draw one problem; constants are small so that a tiny model can copy them."""
    goal = rng.choice(tuple(GOALS))
    source, kept, change = (
        rng.choices(options, [option.weight for option in options])[0] for options in (SOURCES, FILTERS, CHANGES)
    )
    if goal == "count":
        change = CHANGES[0]
    constants = (rng.randrange(2, 6), rng.randrange(2, 13), rng.randrange(3, 10))
    name = f"{rng.choice(_VERBS)}_{rng.choice(_NOUNS)}"
    return CodeProblem(name, goal, source, kept, change, constants)


def _passes(code: str, x: int, k: int) -> bool:
    symbol = code.split()[1]
    if symbol in _COMPARE:
        return _COMPARE[symbol](x, k)
    if "{k}" in code:
        return x % k == 0
    return x % 2 == int(code.endswith("1"))


def _changed(code: str, x: int, k: int) -> int:
    values = {"{x}": x, "{x} * 2": x * 2, "{x} * {x}": x * x, "{x} + {k}": x + k, "{x} - {k}": x - k}
    return values[code]
