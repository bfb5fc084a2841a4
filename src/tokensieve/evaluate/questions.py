"""What a task's items ask: prompts that a model has room for, and references."""

from __future__ import annotations

import json
import logging
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokensieve.errors import DataError
from tokensieve.generate import encode_conversation
from tokensieve.records import Corpus
from tokensieve.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)
Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Questions:
    """N items of `task`: their ids, their turns up to the answer, what the grader reads.

    `max_length` is the limit of prompt and answer together in tokens, or None; `num_shed` is how many solved examples
    the prompts have lost to it.
    """

    ids: list[str]
    conversations: Sequence[Messages]
    references: Sequence[Mapping[str, Any]]
    task: Task
    max_length: int | None
    num_shed: int


def read_questions(
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    task: Task,
    *,
    max_length: int | None,
    answer_tokens: int,
) -> Questions:
    """The items of `corpus`; solved examples leave `answer_tokens` free, but half of the limit is theirs in any case.

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
    conversations: list[Messages] = [messages[:-1] for messages in corpus.rows["messages"]]
    num_shed = num_items = 0
    if max_length is not None and "provenance" in corpus.rows.column_names:
        for at, provenance in enumerate(corpus.rows["provenance"]):
            try:
                conversations[at], num = shed_examples(
                    conversations[at],
                    provenance,
                    room=max(max_length - answer_tokens, max_length // 2),
                    count_tokens=lambda messages: len(encode_conversation(tokenizer, messages)),
                )
            except DataError as error:
                where = f"task {task.name}, item {ids[at]}, {error.subject}"
                raise DataError(where, error.rule, received=error.received, remedy=error.remedy) from error
            num_shed, num_items = num_shed + num, num_items + bool(num)
    if num_shed:
        logger.warning(
            "%s: %d of %d prompts leave no room for %d tokens below the limit of %s and lose %d examples in all",
            *(task.name, num_items, len(ids), answer_tokens, max_length, num_shed),
        )
    return Questions(ids, conversations, references, task, max_length, num_shed)


def shed_examples(
    messages: Messages, provenance: Sequence[str], *, room: int, count_tokens: Callable[[Messages], int]
) -> tuple[Messages, int]:
    """Leave out the first of a prompt's solved examples, as few as make it fit into `room` tokens.

    Args:
        messages: a prompt; its examples stand behind the system turn, if there is one, and before the question.
        provenance: the item's ledger; its `few_shot` entry says how many turns each example has.
        room: tokens.
        count_tokens: the length of a prompt.

    Returns:
        The prompt, and how many examples it lost: all of them where even the question alone does not fit.
    """
    entry = next((found for found in map(json.loads, provenance) if found.get("stage") == "few_shot"), None)
    turns: list[int] = entry["num_turns"] if entry is not None else []
    first = 1 if messages[0]["role"] == "system" else 0

    def without(num: int) -> Messages:
        return [*messages[:first], *messages[first + sum(turns[:num]) :]]

    num = bisect_left(range(len(turns)), True, key=lambda num: count_tokens(without(num)) <= room)
    return (without(num), num) if num else (messages, 0)


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
