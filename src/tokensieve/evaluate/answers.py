"""Generated answers and their grades: one greedy text an item, or several drawn programs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tokensieve.completions.records import Decoding
from tokensieve.evaluate.questions import Questions
from tokensieve.generate import encode_conversation, generate, generate_completions
from tokensieve.graders import Grade, grade_samples, grade_texts
from tokensieve.statistics import score_samples

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

# The k of pass@k that are reported beside 1 and the number of samples, where there are as many samples.
_USUAL_K: Final = (10, 100)


@dataclass(frozen=True, slots=True)
class Answers:
    """Of N items: `scores` in [0, 1], `outputs`, whether the prompt was too long; and how all were made."""

    scores: list[float]
    outputs: list[str]
    too_long: list[bool]
    decoding: dict[str, Any]


def answer_greedily(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Questions,
    *,
    new_tokens: int,
    seconds: float,
) -> Answers:
    """One greedy text an item, graded; `decoding["outcomes"]` has the means of the task's further graders.

    Raises:
        RowError: a reference that cannot be used.
    """
    task = questions.task
    prompts, too_long = _encode(tokenizer, questions)
    outputs = generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=new_tokens,
        stop=task.stop,
        batch_size=questions.batch_size,
        max_length=questions.max_length,
        progress=f"evaluate {task.name}",
    )
    grades = grade_texts(task.grader, outputs, questions.references, seconds=seconds, progress=f"grade {task.name}")
    # Grading "" would call an empty reference program right; a prompt that did not fit must not.
    grades = [Grade(0.0, "prompt too long") if long else grade for long, grade in zip(too_long, grades, strict=True)]
    decoding: dict[str, Any] = {"method": "greedy", "max_new_tokens": new_tokens, "stop": list(task.stop)}
    if task.also:
        decoding["outcomes"] = {
            name: _mean(grade_texts(name, outputs, questions.references, seconds=seconds), too_long)
            for name in task.also
        }
    return Answers([grade.score for grade in grades], outputs, too_long, decoding)


def answer_repeatedly(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Questions,
    decoding: Decoding,
    *,
    num: int,
    seconds: float,
) -> Answers:
    """`num` sampled texts an item. Its score is the share that passes, the unbiased pass@1 (arXiv 2107.03374).

    `decoding["outcomes"]` has the mean pass@k of larger k; an output is a JSON list of the item's texts.

    Raises:
        RowError: a reference that cannot be used.
    """
    task = questions.task
    prompts, too_long = _encode(tokenizer, questions)
    samples = [[""] * num for _ in prompts]
    completions = generate_completions(
        model,
        tokenizer,
        [prompt for prompt in prompts for _ in range(num)],
        decoding,
        samples=[sample for _ in prompts for sample in range(num)],
        batch_size=questions.batch_size,
        max_length=questions.max_length,
        progress=f"evaluate {task.name}",
    )
    for at, completion in completions:
        samples[at // num][at % num] = completion.text
    grades = grade_samples(task.grader, samples, questions.references, seconds=seconds, progress=f"grade {task.name}")
    scores = [[0.0 if long else grade.score for grade in item] for long, item in zip(too_long, grades, strict=True)]
    wanted = sorted({k for k in _USUAL_K if k < num} | {num})
    outcomes = {f"pass_at_{k}": sum(score_samples(scores, k)) / len(scores) for k in wanted}
    return Answers(
        score_samples(scores, 1),
        [json.dumps(item, ensure_ascii=False) for item in samples],
        too_long,
        {
            "method": "sampled",
            "samples_per_item": num,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": decoding.seed,
            "max_new_tokens": decoding.max_new_tokens,
            "stop": list(decoding.stop),
            "outcomes": outcomes,
        },
    )


def _mean(grades: list[Grade], too_long: list[bool]) -> float:
    return sum(0.0 if long else grade.score for grade, long in zip(grades, too_long, strict=True)) / len(grades)


def _encode(tokenizer: PreTrainedTokenizerBase, questions: Questions) -> tuple[list[list[int]], list[bool]]:
    """The prompts' tokens, and whether they leave no room for an answer."""
    prompts = [encode_conversation(tokenizer, messages) for messages in questions.conversations]
    limit = questions.max_length
    return prompts, [limit is not None and len(prompt) >= limit for prompt in prompts]
