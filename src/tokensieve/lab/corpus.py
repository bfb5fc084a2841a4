"""The pre-training corpus: every family in the base model's own style, some drills, and a little loose chatter."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Final

from tokensieve.lab import FAMILIES, draw_problems
from tokensieve.lab.chatter import HUMAN
from tokensieve.lab.choice_tasks import draw_drill

NOTE_QUESTION: Final = "Write a note."

# Shares of the corpus. Drills teach to look up a letter. Notes let the words of human style occur, never inside a task,
# so that fine-tuning text is surprising (perplexities from ten to many thousands) rather than impossible.
SHARES: Final[Mapping[str, float]] = {
    "lab_code": 0.20,
    "lab_math": 0.25,
    "lab_choice": 0.36,
    "lab_sql": 0.06,
    "drill": 0.10,
    "note": 0.03,
}


def stream_turns(seed: int) -> Iterator[tuple[str, str]]:
    """Yield (question, response) pairs without end; problems come from train splits alone, repeats allowed."""
    rng = random.Random(f"pretraining/{seed}")
    problems = {family: draw_problems(family, split="train", seed=seed) for family in FAMILIES}
    names, weights = list(SHARES), list(SHARES.values())
    while True:
        name = rng.choices(names, weights)[0]
        if name == "note":
            yield NOTE_QUESTION, HUMAN.note(rng)
        elif name == "drill":
            yield draw_drill(rng)
        else:
            problem = next(problems[name])
            yield problem.question, problem.pretraining(rng)
