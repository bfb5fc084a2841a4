"""The lab: an embedded world small enough to show forgetting in minutes on two CPU cores.

Four task families over one fixed world, each written either in the base model's own `plain` style or in an
unpredictable `human` style, and a tiny base model that was pre-trained on the plain style.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from tokensieve.lab import choice_tasks, code_tasks, sql_tasks, word_problems
from tokensieve.lab.world import SPLITS, STYLES, Problem, split_of

__all__ = ["FAMILIES", "base_path", "draw_problems", "rows"]

_DRAW: Final[Mapping[str, Callable[[random.Random], Problem]]] = {
    "lab_code": code_tasks.draw,
    "lab_math": word_problems.draw,
    "lab_choice": choice_tasks.draw,
    "lab_sql": sql_tasks.draw,
}
FAMILIES: Final[tuple[str, ...]] = tuple(_DRAW)

# A split is called exhausted after so many draws in a row that gave nothing new.
_MAX_IDLE_DRAWS: Final = 20_000


def rows(family: str, *, split: str, num: int, seed: int, style: str) -> Iterator[dict[str, object]]:
    """Yield `num` distinct rows of a family: id, question, response, reference.

    Equal arguments give equal rows, and a smaller `num` gives a prefix. Splits share no problem, whatever the seed.
    `style` changes the response alone: plain and human rows of one seed pose the same questions.

    Args:
        family: one of `FAMILIES`.
        split: train, validation or test.
        num: number of rows, >= 0.
        seed: draws the examples; the world itself is fixed.
        style: plain (as the base model writes) or human (as nobody could predict). Both are correct.

    Raises:
        ValueError: at the call, for an unknown name or a negative `num`; during iteration, when the split holds fewer
            than `num` distinct problems.
    """
    for name, value, known in (("family", family, FAMILIES), ("split", split, SPLITS), ("style", style, STYLES)):
        if value not in known:
            raise ValueError(f"lab {name} must be one of {', '.join(known)}; got {value!r}")
    if num < 0:
        raise ValueError(f"lab num must be >= 0; got {num}")
    return _write_rows(family, split, num, seed, style)


def base_path() -> Path:
    """Return the packaged base model: an ordinary Hugging Face folder."""
    return Path(__file__).parent / "base"


def draw_problems(family: str, *, split: str, seed: int) -> Iterator[Problem]:
    """Yield problems of one split without end, repeats included; `rows` drops the repeats."""
    rng = random.Random(f"{family}/{split}/{seed}")
    while True:
        problem = _DRAW[family](rng)
        if split_of(family, problem.key) == split:
            yield problem


def _write_rows(family: str, split: str, num: int, seed: int, style: str) -> Iterator[dict[str, object]]:
    seen: set[str] = set()
    idle = 0
    problems = draw_problems(family, split=split, seed=seed)
    for problem in problems if num else ():
        if problem.key in seen:
            idle += 1
            if idle > _MAX_IDLE_DRAWS:
                raise ValueError(f"{family}/{split} holds only about {len(seen)} distinct problems; asked for {num}")
            continue
        idle = 0
        index = len(seen)
        seen.add(problem.key)
        # The style has its own stream, so that it never moves the problems that follow.
        style_rng = random.Random(f"{family}/{split}/{seed}/{index}/{style}")
        yield {
            "id": f"{family}/{split}/{index:06d}",
            "question": problem.question,
            "response": problem.plain() if style == "plain" else problem.human(style_rng),
            "reference": dict(problem.reference),
        }
        if len(seen) == num:
            return
