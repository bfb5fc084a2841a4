"""Evaluation tasks: one small declaration each. Light: importing this loads no model library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tokensieve.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """How one task is generated and graded.

    Attributes:
        name: key in configs, tables and metric names (`eval/<name>/<metric>`).
        grader: key of `tokensieve.graders.GRADERS`.
        metric: name of the mean of the item scores.
        max_new_tokens: longest answer.
        stop: strings that end an answer; the text before the first one is graded.
        version: raised whenever a change here or in the grader can change a score; part of every stamp.
        lab_family: the lab's family that supplies the items; None: the dataset's own test split.
    """

    name: str
    grader: str
    metric: str
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    version: int = 1
    lab_family: str | None = None


TASKS: Final[Mapping[str, Task]] = {
    task.name: task
    for task in (
        Task(name="lab_code", grader="code", metric="pass_at_1", max_new_tokens=160, lab_family="lab_code"),
        Task(name="lab_math", grader="number", metric="accuracy", max_new_tokens=96, lab_family="lab_math"),
        Task(name="lab_choice", grader="choice", metric="accuracy", max_new_tokens=64, lab_family="lab_choice"),
        Task(name="lab_sql", grader="sql", metric="execution_accuracy", max_new_tokens=96, lab_family="lab_sql"),
        Task(name="mbpp", grader="code", metric="pass_at_1", max_new_tokens=1024),
    )
}


def find_task(name: str) -> Task:
    """Return a task by name.

    Raises:
        ConfigError: there is no such task; the message lists those there are.

    >>> find_task("lab_math").metric
    'accuracy'
    """
    if name not in TASKS:
        raise ConfigError(
            "eval.tasks", "must name known tasks", received=name, remedy=f"choose from {', '.join(TASKS)}"
        )
    return TASKS[name]
