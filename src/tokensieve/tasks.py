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
        also: further graders of the same answers; the mean of each is reported beside the metric, under its own name.
        version: raised whenever a change here or in the grader can change a score; part of every stamp.
    """

    name: str
    grader: str
    metric: str
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    version: int = 1


TASKS: Final[Mapping[str, Task]] = {
    task.name: task
    for task in (
        Task(name="lab_code", grader="code", metric="pass_at_1", max_new_tokens=160, version=2),
        Task(name="lab_math", grader="number", metric="accuracy", max_new_tokens=96, version=5),
        Task(name="lab_choice", grader="choice", metric="accuracy", max_new_tokens=64, version=5),
        Task(
            name="lab_sql",
            grader="sql",
            metric="execution_accuracy",
            max_new_tokens=96,
            version=3,
        ),
        Task(name="mbpp", grader="code", metric="pass_at_1", max_new_tokens=1024, version=3),
        Task(name="humaneval", grader="code", metric="pass_at_1", max_new_tokens=512, version=2),
        Task(name="math", grader="math", metric="accuracy", max_new_tokens=512, version=3),
        Task(name="gsm8k", grader="number", metric="accuracy", max_new_tokens=512, version=4),
        Task(name="arc_challenge", grader="choice", metric="accuracy", max_new_tokens=512, version=4),
        Task(name="mmlu", grader="choice", metric="accuracy", max_new_tokens=512, version=4),
        Task(name="hellaswag", grader="choice", metric="accuracy", max_new_tokens=16, version=4),
        Task(name="winogrande", grader="choice", metric="accuracy", max_new_tokens=16, version=4),
        Task(name="truthfulqa_mc", grader="choice", metric="accuracy", max_new_tokens=16, version=4),
        Task(name="fpb", grader="choice", metric="accuracy", max_new_tokens=512, version=4),
        Task(name="pubmedqa", grader="choice", metric="accuracy", max_new_tokens=512, version=4),
        Task(name="drop", grader="drop_f1", metric="f1", max_new_tokens=64, also=("drop_em",), version=2),
        Task(name="bird", grader="sql", metric="execution_accuracy", max_new_tokens=512, version=2),
        Task(name="spider", grader="sql", metric="execution_accuracy", max_new_tokens=512),
        Task(name="exact_match", grader="exact_match", metric="accuracy", max_new_tokens=128),
        Task(name="fuzzy_match", grader="fuzzy_match", metric="accuracy", max_new_tokens=256, version=2),
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
