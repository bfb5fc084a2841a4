"""Stage: put tasks' items to a model and grade what it answers, item by item.

`ask_task` makes requests of a task's items, `put_requests` has a model answer those of any number of tasks at once, and
`grade_replies` makes a task's result of its share.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal

from tokensieve.completions.records import Decoding
from tokensieve.errors import DataError
from tokensieve.evaluate.answers import ask_greedily, ask_repeatedly
from tokensieve.evaluate.choices import ask_options
from tokensieve.evaluate.inquiry import Answers, Inquiry, Reply, Request, order_requests, put_requests
from tokensieve.evaluate.questions import Questions, read_item_reference, read_questions
from tokensieve.graders import RowError
from tokensieve.records import Corpus, EvalResult
from tokensieve.statistics import wilson_interval
from tokensieve.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Inquiry",
    "Reply",
    "Request",
    "ask_task",
    "grade_replies",
    "order_requests",
    "put_requests",
    "read_item_reference",
]

logger = logging.getLogger(__name__)
_OPTION_TOKENS: Final = 64  # that solved examples leave free for an option


def ask_task(
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    task: Task,
    *,
    max_new_tokens: int | None,
    max_length: int | None,
    code_seconds: float,
    mode: Literal["generate", "log_likelihood"] = "generate",
    samples_per_item: int = 1,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
) -> Inquiry:
    """The requests of a task's N items: the chat prompt of every message but the last, to be answered.

    A prompt too long loses solved examples, the first ones first.

    Args:
        tokenizer: the model's, with a chat template.
        corpus: the task's items.
        task: what is asked of them.
        max_new_tokens: overrides the task's own limit; None: keeps it.
        max_length: tokens of prompt and answer together; None: no limit.
        code_seconds: wall-clock limit of one program.
        mode: log_likelihood: a choice task's answer is its likeliest option (`ask_options`).
        samples_per_item: above 1, code tasks draw so many programs an item (`ask_repeatedly`).
        temperature: of those samples.
        top_p: nucleus mass of those samples.
        seed: of those samples.

    Raises:
        DataError: no items, or an item without a usable reference.
    """
    new_tokens = task.max_new_tokens if max_new_tokens is None else max_new_tokens
    by_likelihood = mode == "log_likelihood" and task.grader == "choice"
    questions = read_questions(
        tokenizer,
        corpus,
        task,
        max_length=max_length,
        answer_tokens=_OPTION_TOKENS if by_likelihood else new_tokens,
    )
    greedy = Decoding(max_new_tokens=new_tokens, stop=task.stop)
    with _naming_items(questions):
        if by_likelihood:
            return ask_options(tokenizer, questions)
        if samples_per_item > 1 and task.grader == "code":
            drawn = replace(greedy, temperature=temperature, top_p=top_p, seed=seed)
            return ask_repeatedly(tokenizer, questions, drawn, num=samples_per_item, seconds=code_seconds)
        return ask_greedily(tokenizer, questions, greedy, seconds=code_seconds)


def grade_replies(inquiry: Inquiry, replies: Sequence[Reply]) -> EvalResult:
    """The result of a task from one reply to each of its requests.

    A prompt that left no room for an answer scores 0; how many there were stands in `decoding["prompts_too_long"]`.
    What was measured beside the score stands in `decoding["outcomes"]`.

    Raises:
        DataError: an item without a usable reference.
    """
    questions, task = inquiry.questions, inquiry.questions.task
    with _naming_items(questions):
        answers = inquiry.grade(replies)
    _warn(answers, questions)
    value, low, high = wilson_interval(sum(answers.scores), len(answers.scores))
    return EvalResult(
        task=task.name,
        metric=task.metric,
        version=task.version,
        item_ids=questions.ids,
        item_scores=answers.scores,
        value=value,
        low=low,
        high=high,
        decoding=answers.decoding
        | {"max_length": questions.max_length, "prompts_too_long": sum(answers.too_long)}
        | ({"examples_left_out": questions.num_shed} if questions.num_shed else {}),
        outputs=answers.outputs,
    )


@contextmanager
def _naming_items(questions: Questions) -> Iterator[None]:
    """A fault of a row is reported with the task and the item's id."""
    try:
        yield
    except RowError as error:
        where = f"task {questions.task.name}, item {questions.ids[error.row]}, {error.subject}"
        raise DataError(where, error.rule, received=error.received, remedy=error.remedy) from error


def _warn(answers: Answers, questions: Questions) -> None:
    name, num = questions.task.name, len(answers.outputs)
    if any(answers.too_long):
        too_long = sum(answers.too_long)
        logger.warning(
            "%s: %d of %d prompts fill the limit of %s tokens and score 0", name, too_long, num, questions.max_length
        )
    empty = sum(not text.strip() and not long for text, long in zip(answers.outputs, answers.too_long, strict=True))
    if empty:
        logger.warning("%s: %d of %d answers are empty", name, empty, num)
