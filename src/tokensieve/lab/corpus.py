"""The pre-training corpus: every family in the base model's own style, drills, requests, and a little loose chatter."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Final

from tokensieve.lab import FAMILIES, draw_problems
from tokensieve.lab.chatter import HUMAN
from tokensieve.lab.choice_tasks import draw_drill
from tokensieve.lab.requests import stream_requests

NOTE_QUESTION: Final = "Write a note."

# Shares of the corpus. Drills teach to look up a letter. Requests are what data variants ask of a model. Notes let the
# words of human style occur, never inside a task, so that fine-tuning text is surprising (perplexities from ten to many
# thousands) rather than impossible.
SHARES: Final[Mapping[str, float]] = {
    "lab_code": 0.19,
    "lab_math": 0.23,
    "lab_choice": 0.33,
    "lab_sql": 0.05,
    "drill": 0.09,
    "request": 0.08,
    "note": 0.03,
}


def stream_turns(seed: int) -> Iterator[tuple[str, str]]:
    """Yield (question, response) pairs without end; problems come from train splits alone, repeats allowed."""
    rng = random.Random(f"pretraining/{seed}")
    problems = {family: draw_problems(family, split="train", seed=seed) for family in FAMILIES}
    requests = stream_requests(seed)
    names, weights = list(SHARES), list(SHARES.values())
    while True:
        name = rng.choices(names, weights)[0]
        if name == "note":
            yield NOTE_QUESTION, HUMAN.note(rng)
        elif name == "drill":
            yield draw_drill(rng)
        elif name == "request":
            yield next(requests)
        else:
            problem = next(problems[name])
            yield problem.question, problem.pretraining(rng)
