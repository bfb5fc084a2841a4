"""One task put to a model and graded, as an evaluation does with several."""

from __future__ import annotations

from typing import Any

from tokensieve.evaluate import ask_task, grade_replies, put_requests
from tokensieve.length_limits import length_limit
from tokensieve.records import Corpus, EvalResult
from tokensieve.tasks import Task


def evaluate_task(
    model: Any, tokenizer: Any, corpus: Corpus, task: Task, *, batch_size: int, max_length: int | None, **options: Any
) -> EvalResult:
    limit = min((n for n in (max_length, length_limit(model)) if n is not None), default=None)
    inquiry = ask_task(tokenizer, corpus, task, max_length=limit, **options)
    replies = put_requests(model, tokenizer, inquiry.requests, batch_size=batch_size, max_length=limit)
    return grade_replies(inquiry, replies)
