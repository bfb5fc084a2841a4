"""Stage: generate a task's answers and grade them, item by item."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tokensieve.errors import DataError
from tokensieve.generate import encode_conversation, generate, length_limit
from tokensieve.graders import Grade, RowError, grade_texts
from tokensieve.records import Corpus, EvalResult
from tokensieve.statistics import wilson_interval
from tokensieve.tasks import Task

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


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
) -> EvalResult:
    """Score `model` on N items: greedy answers to the chat prompt of every message but the last.

    An item whose prompt leaves no room for an answer scores 0; how many there were stands in
    `decoding["prompts_too_long"]`.

    Args:
        model: a causal LM or a PEFT model on it.
        tokenizer: its tokenizer, with a chat template.
        corpus: the task's items.
        task: what is asked of them.
        batch_size: rows decoded at once.
        max_new_tokens: overrides the task's own limit; None: keeps it.
        max_length: tokens of prompt and answer together; None: the model's own limit.
        code_seconds: wall-clock limit of one program.

    Raises:
        DataError: no items, or an item without a usable reference.
    """
    if len(corpus) == 0:
        raise DataError(
            f"task {task.name}", "needs at least one item", remedy="check dataset.num_test and the test split"
        )
    ids: list[str] = list(corpus.rows["id"])
    references = [
        read_item_reference(text, item, task) for item, text in zip(ids, corpus.rows["reference"], strict=True)
    ]
    prompts = [encode_conversation(tokenizer, messages[:-1]) for messages in corpus.rows["messages"]]
    limit = min((n for n in (max_length, length_limit(model)) if n is not None), default=None)
    too_long = [limit is not None and len(prompt) >= limit for prompt in prompts]
    new_tokens = task.max_new_tokens if max_new_tokens is None else max_new_tokens
    outputs = generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=new_tokens,
        stop=task.stop,
        batch_size=batch_size,
        max_length=limit,
        progress=f"evaluate {task.name}",
    )
    try:
        grades = grade_texts(task.grader, outputs, references, seconds=code_seconds, progress=f"grade {task.name}")
    except RowError as error:
        where = f"task {task.name}, item {ids[error.row]}, {error.subject}"
        raise DataError(where, error.rule, received=error.received, remedy=error.remedy) from error
    grades = [Grade(0.0, "prompt too long") if long else grade for long, grade in zip(too_long, grades, strict=True)]
    if any(too_long):
        logger.warning(
            "%s: %d of %d prompts fill the limit of %s tokens and score 0", task.name, sum(too_long), len(ids), limit
        )
    scores = [grade.score for grade in grades]
    value, low, high = wilson_interval(sum(scores), len(scores))
    decoding = {
        "method": "greedy",
        "max_new_tokens": new_tokens,
        "stop": list(task.stop),
        "max_length": limit,
        "prompts_too_long": sum(too_long),
    }
    return EvalResult(
        task=task.name,
        metric=task.metric,
        version=task.version,
        item_ids=ids,
        item_scores=scores,
        value=value,
        low=low,
        high=high,
        decoding=decoding,
        outputs=outputs,
    )


def read_item_reference(text: str, item: str, task: Task) -> Mapping[str, Any]:
    """Parse the `reference` column of one item.

    Raises:
        DataError: it is not a JSON object.
    """
    try:
        reference = json.loads(text)
    except (TypeError, ValueError):
        reference = None
    if not isinstance(reference, dict):
        raise DataError(
            f"task {task.name}, item {item}",
            "the reference must be a JSON object",
            received=text,
            remedy="set dataset.reference to the columns that the grader reads",
        )
    return reference
