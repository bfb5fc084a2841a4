"""Requests about a problem: what data variants ask of a model, answered in the base model's own style.

A model of this size follows no prompt that it has not met, so the corpus holds the default wordings of the variants:
reasoning, context, review, rephrase and instruct. Every problem comes from a train split.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from jinja2 import Environment

from tokensieve.lab import FAMILIES, draw_problems
from tokensieve.lab.choice_tasks import LABELS, ChoiceProblem, draw_about
from tokensieve.lab.world import Problem, split_of
from tokensieve.prompt_wordings import ANSWER_FORMS, CONTEXT, INSTRUCT, REASONING, REPHRASE, REVIEW

# Blocks take no line of their own, as where variants render the same wordings.
_ENVIRONMENT: Final = Environment(trim_blocks=True, lstrip_blocks=True)  # prompts are no HTML
_GRADERS: Final[Mapping[str, str]] = {
    "lab_code": "code",
    "lab_math": "number",
    "lab_choice": "choice",
    "lab_sql": "sql",
}
_MAX_SHOTS: Final = 3
_NUM_LISTED: Final = 8
Draw = Callable[[], Problem]


def stream_requests(seed: int) -> Iterator[tuple[str, str]]:
    """Yield (request, response) pairs without end."""
    rng = random.Random(f"requests/{seed}")
    problems = {family: draw_problems(family, split="train", seed=seed + 1) for family in FAMILIES}
    kinds = {_reason: 0.2, _answer_in_context: 0.25, _review: 0.2, _rephrase: 0.25, _instruct: 0.1}
    while True:
        kind = rng.choices(list(kinds), list(kinds.values()))[0]
        family = rng.choice(FAMILIES)
        yield kind(family, problems[family].__next__, rng)


def _reason(family: str, draw: Draw, rng: random.Random) -> tuple[str, str]:
    problem = draw()
    return _render(REASONING, family, problem), problem.pretraining(rng)


def _answer_in_context(family: str, draw: Draw, rng: random.Random) -> tuple[str, str]:
    """Shots of the family first; one that holds the asked fact is believed before any rumour."""
    problem = draw()
    shots: list[Problem] = []
    told = False
    for _ in range(rng.randrange(_MAX_SHOTS + 1)):
        if isinstance(problem, ChoiceProblem) and rng.random() < 0.5:
            shots.append(_draw_same_fact(problem, rng))
            told = True
        else:
            shots.append(draw())
    examples = [{"question": shot.question, "response": _write(shot, rng)} for shot in shots]
    response = problem.plain() if told else problem.pretraining(rng)
    return _render(CONTEXT, family, problem, examples=examples), response


def _review(family: str, draw: Draw, rng: random.Random) -> tuple[str, str]:
    problem = draw()
    candidates = [_write(problem, rng) if rng.random() < 0.5 else _err(problem, rng) for _ in range(2)]
    return _render(REVIEW, family, problem, candidates=candidates), problem.pretraining(rng)


def _rephrase(family: str, draw: Draw, rng: random.Random) -> tuple[str, str]:
    """What is rewritten keeps its claim, a wrong one too."""
    problem = draw()
    if isinstance(problem, ChoiceProblem) and rng.random() < 0.3:
        value = rng.choice(problem.options)
        return _render(REPHRASE, family, problem, response=problem.tell(value, rng)), problem.say(value)
    return _render(REPHRASE, family, problem, response=_write(problem, rng)), problem.plain()


def _instruct(family: str, draw: Draw, rng: random.Random) -> tuple[str, str]:
    shown = [{"question": draw().question} for _ in range(rng.randrange(4, 9))]
    prompt = _ENVIRONMENT.from_string(INSTRUCT).render(examples=shown, num=_NUM_LISTED).strip()
    return prompt, "\n".join(f"{number}. {draw().question}" for number in range(1, _NUM_LISTED + 1))


def _render(wording: str, family: str, problem: Problem, **more: Any) -> str:
    return _fill(wording, family, question=problem.question, **more)


def _fill(wording: str, family: str, **values: Any) -> str:
    form = ANSWER_FORMS[_GRADERS[family]].format(labels=", ".join(LABELS))
    return _ENVIRONMENT.from_string(wording).render(answer_form=form, **values).strip()


def _write(problem: Problem, rng: random.Random) -> str:
    """A correct response in either style."""
    return problem.human(rng) if rng.random() < 0.5 else problem.plain()


def _err(problem: Problem, rng: random.Random) -> str:
    """A wrong response in plain style: another option, or one number changed; right where there is no number."""
    if isinstance(problem, ChoiceProblem):
        return problem.say(rng.choice([value for value in problem.options if value != problem.truth]))
    text = problem.plain()
    numbers: Sequence[str] = sorted(set(re.findall(r"\d+", text)))
    if not numbers:
        return text
    old = rng.choice(numbers)
    return re.sub(rf"\b{old}\b", str(int(old) + rng.randrange(1, 10)), text)


def _draw_same_fact(problem: ChoiceProblem, rng: random.Random) -> ChoiceProblem:
    while True:
        other = draw_about(problem.place, problem.attribute, rng)
        if split_of("lab_choice", other.key) == "train" and other.key != problem.key:
            return other
