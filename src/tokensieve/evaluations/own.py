"""Results of our own tasks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tokensieve.config import EvalConfig
from tokensieve.evaluations.older import find_other_versions
from tokensieve.evaluations.one_pass import OnePass
from tokensieve.evaluations.subject import Subject
from tokensieve.records import Corpus, EvalResult
from tokensieve.store import Artefact
from tokensieve.tasks import TASKS, Task

log = logging.getLogger(__name__)


def define_own_evaluations(subject: Subject, items: Mapping[str, Artefact[Corpus]]) -> OnePass:
    """The scores of `subject` on the items of each task in `items`, all of whose answers come from one pass."""
    shared = OnePass(subject, items)
    for name, corpus in items.items():
        shared.results[name] = _define_result(subject, TASKS[name], corpus, shared)
    return shared


def _define_result(subject: Subject, task: Task, items: Artefact[Corpus], shared: OnePass) -> Artefact[EvalResult]:
    config = subject.config.eval
    inputs: dict[str, Any] = {
        "task": asdict(task),
        "items": items.digest,
        "max_new_tokens": config.max_new_tokens,
        "code_seconds": config.code_seconds,
    }

    def evaluate() -> EvalResult:
        if versions := find_other_versions(subject.store, found.stamp):
            log.warning(
                "%s: the cache has results of version %s of this task; it is version %d now, so they are not used and "
                "it is evaluated again",
                *(task.name, " and ".join(map(str, versions)), task.version),
            )
        return shared.grade(task.name)

    found = subject.define(inputs | _read_by(task, config), evaluate)
    return found


def _read_by(task: Task, config: EvalConfig) -> dict[str, Any]:
    """The settings that only some tasks read, where this one does: another's results do not change with them."""
    if task.grader == "choice" and config.mode != "generate":
        return {"mode": config.mode}
    if task.grader == "code" and config.samples_per_item > 1:
        keys = ("samples_per_item", "temperature", "top_p", "seed")
        return {"samples": {key: getattr(config, key) for key in keys}}
    return {}
