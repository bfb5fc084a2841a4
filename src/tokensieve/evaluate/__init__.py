"""Stage: put a task's items to a model and grade what it answers, item by item."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Literal

from tokensieve.completions.records import Decoding
from tokensieve.errors import DataError
from tokensieve.evaluate.answers import Answers, answer_greedily, answer_repeatedly
from tokensieve.evaluate.choices import choose_options
from tokensieve.evaluate.questions import read_item_reference, read_questions
from tokensieve.generate import length_limit
from tokensieve.graders import RowError
from tokensieve.records import Corpus, EvalResult
from tokensieve.statistics import wilson_interval
from tokensieve.tasks import Task

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

__all__ = ["evaluate_task", "read_item_reference"]

logger = logging.getLogger(__name__)
_OPTION_TOKENS: Final = 64  # that solved examples leave free for an option


def evaluate_task(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    task: Task,
    *,
    batch_size: int,
    max_new_tokens: int | None,
    max_length: int | None,
    code_seconds: float,
    mode: Literal["generate", "log_likelihood"] = "generate",
    samples_per_item: int = 1,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
) -> EvalResult:
    """Score `model` on N items: its answers to the chat prompt of every message but the last.

    A prompt too long loses solved examples, the first ones first. One that leaves no room for an answer all the same
    scores 0; how many there were stands in `decoding["prompts_too_long"]`. What was measured beside the score stands in
    `decoding["outcomes"]`.

    Args:
        model: a causal LM or a PEFT model on it.
        tokenizer: its tokenizer, with a chat template.
        corpus: the task's items.
        task: what is asked of them.
        batch_size: rows decoded at once.
        max_new_tokens: overrides the task's own limit; None: keeps it.
        max_length: tokens of prompt and answer together; None: the model's own limit.
        code_seconds: wall-clock limit of one program.
        mode: log_likelihood: a choice task's answer is its likeliest option (`choose_options`).
        samples_per_item: above 1, code tasks draw so many programs an item (`answer_repeatedly`).
        temperature: of those samples.
        top_p: nucleus mass of those samples.
        seed: of those samples.

    Raises:
        DataError: no items, or an item without a usable reference.
    """
    limit = min((n for n in (max_length, length_limit(model)) if n is not None), default=None)
    new_tokens = task.max_new_tokens if max_new_tokens is None else max_new_tokens
    by_likelihood = mode == "log_likelihood" and task.grader == "choice"
    questions = read_questions(
        tokenizer,
        corpus,
        task,
        batch_size=batch_size,
        max_length=limit,
        answer_tokens=_OPTION_TOKENS if by_likelihood else new_tokens,
    )
    ids = questions.ids
    try:
        if by_likelihood:
            answers = choose_options(model, tokenizer, questions)
        elif samples_per_item > 1 and task.grader == "code":
            decoding = Decoding(
                max_new_tokens=new_tokens, temperature=temperature, top_p=top_p, stop=task.stop, seed=seed
            )
            answers = answer_repeatedly(
                model, tokenizer, questions, decoding, num=samples_per_item, seconds=code_seconds
            )
        else:
            answers = answer_greedily(model, tokenizer, questions, new_tokens=new_tokens, seconds=code_seconds)
    except RowError as error:
        where = f"task {task.name}, item {ids[error.row]}, {error.subject}"
        raise DataError(where, error.rule, received=error.received, remedy=error.remedy) from error
    _warn(answers, task, limit)
    value, low, high = wilson_interval(sum(answers.scores), len(answers.scores))
    return EvalResult(
        task=task.name,
        metric=task.metric,
        version=task.version,
        item_ids=ids,
        item_scores=answers.scores,
        value=value,
        low=low,
        high=high,
        decoding=answers.decoding
        | {"max_length": limit, "prompts_too_long": sum(answers.too_long)}
        | ({"examples_left_out": questions.num_shed} if questions.num_shed else {}),
        outputs=answers.outputs,
    )


def _warn(answers: Answers, task: Task, limit: int | None) -> None:
    num = len(answers.outputs)
    if any(answers.too_long):
        logger.warning(
            "%s: %d of %d prompts fill the limit of %s tokens and score 0", task.name, sum(answers.too_long), num, limit
        )
    empty = sum(not text.strip() and not long for text, long in zip(answers.outputs, answers.too_long, strict=True))
    if empty:
        logger.warning("%s: %d of %d answers are empty", task.name, empty, num)
