"""Generated answers and their grades: one greedy text an item, or several drawn programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from tokensieve.completions.records import Decoding
from tokensieve.evaluate.inquiry import Answers, Inquiry, TextRequest
from tokensieve.evaluate.questions import Questions
from tokensieve.generate import encode_conversation
from tokensieve.graders import Grade, grade_samples, grade_texts
from tokensieve.graders.grade import locate
from tokensieve.statistics import score_samples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The k of pass@k that are reported beside 1 and the number of samples, where there are as many samples.
_USUAL_K: Final = (10, 100)


def ask_greedily(
    tokenizer: PreTrainedTokenizerBase, questions: Questions, decoding: Decoding, *, seconds: float
) -> Inquiry:
    """One greedy text an item; `decoding["outcomes"]` has the means of the task's further graders.

    `grade` raises RowError: a reference that cannot be used.
    """
    task = questions.task
    prompts, too_long = _encode(tokenizer, questions)

    def grade(outputs: Sequence[str]) -> Answers:
        references = questions.references
        grades = grade_texts(task.grader, outputs, references, seconds=seconds, progress=f"grade {task.name}")
        # Grading "" would call an empty reference program right; a prompt that did not fit must not.
        grades = [Grade(0.0, "prompt too long") if long else one for long, one in zip(too_long, grades, strict=True)]
        how: dict[str, Any] = {
            "method": "greedy",
            "max_new_tokens": decoding.max_new_tokens,
            "stop": list(decoding.stop),
        }
        if task.also:
            how["outcomes"] = {
                name: _mean(grade_texts(name, outputs, references, seconds=seconds), too_long) for name in task.also
            }
        return Answers([one.score for one in grades], list(outputs), too_long, how)

    return Inquiry(questions, [TextRequest(prompt, decoding) for prompt in prompts], grade)


def ask_repeatedly(
    tokenizer: PreTrainedTokenizerBase, questions: Questions, decoding: Decoding, *, num: int, seconds: float
) -> Inquiry:
    """`num` sampled texts an item. Its score is the share that passes, the unbiased pass@1 (arXiv 2107.03374).

    `decoding["outcomes"]` has the mean pass@k of larger k; an output is a JSON list of the item's texts. `grade` raises
    RowError: a reference that cannot be used.
    """
    task = questions.task
    prompts, too_long = _encode(tokenizer, questions)

    def grade(texts: Sequence[str]) -> Answers:
        samples = [list(texts[start : start + num]) for start in range(0, len(texts), num)]
        grades = grade_samples(
            task.grader, samples, questions.references, seconds=seconds, progress=f"grade {task.name}"
        )
        scores = [[0.0 if long else one.score for one in item] for long, item in zip(too_long, grades, strict=True)]
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

    requests = [TextRequest(prompt, decoding, sample) for prompt in prompts for sample in range(num)]
    return Inquiry(questions, requests, grade)


def _mean(grades: list[Grade], too_long: list[bool]) -> float:
    return sum(0.0 if long else grade.score for grade, long in zip(grades, too_long, strict=True)) / len(grades)


def _encode(tokenizer: PreTrainedTokenizerBase, questions: Questions) -> tuple[list[list[int]], list[bool]]:
    """The prompts' tokens, and whether they leave no room for an answer.

    Raises:
        RowError: a prompt that the chat template refuses.
    """
    prompts = []
    for at, messages in enumerate(questions.conversations):
        with locate(at):
            prompts.append(encode_conversation(tokenizer, messages))
    limit = questions.max_length
    return prompts, [limit is not None and len(prompt) >= limit for prompt in prompts]
