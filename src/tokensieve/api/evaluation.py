"""`evaluate`: scores of a model on a suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tokensieve.api.subject import find_model
from tokensieve.errors import ConfigError
from tokensieve.records import EvalResult

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Evaluation:
    """One result a task, in the suite's order."""

    model: str
    suite: str
    results: tuple[EvalResult, ...]

    def __getitem__(self, task: str) -> EvalResult:
        found = next((result for result in self.results if result.task == task), None)
        if found is None:
            raise KeyError(f"{task!r}; there are {', '.join(result.task for result in self.results)}")
        return found

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a task: task, metric, value, low, high (95 % Wilson), n, version."""
        import pandas as pd

        keys = ("task", "metric", "value", "low", "high")
        rows = [
            {key: getattr(result, key) for key in keys} | {"n": result.num_items, "version": result.version}
            for result in self.results
        ]
        return pd.DataFrame(rows)

    @cached_property
    def items(self) -> pd.DataFrame:
        """One row an item: task, item, score in [0, 1], and the answer where one was generated."""
        import pandas as pd

        parts = []
        for result in self.results:
            scores = np.array([np.nan if score is None else score for score in result.item_scores], dtype=np.float64)
            outputs: list[str | None] = [*result.outputs] or [None] * result.num_items
            columns = {"task": result.task, "item": list(result.item_ids), "score": scores, "answer": outputs}
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True)


def evaluate(
    model: str | Path = "lab",
    suite: str = "lab",
    *,
    tasks: Sequence[str] | None = None,
    num_items: int | None = None,
    adapter: str | Path | None = None,
    revision: str | None = None,
    chat_template: str | Path | None = None,
    dtype: str = "auto",
    accelerator: str = "auto",
    overrides: Sequence[str] = (),
    output_dir: str | Path = "outputs",
) -> Evaluation:
    """Scores of a model on the tasks of a suite, as `tokensieve evaluate`; from the cache where they are known.

    Args:
        model: `lab`, a folder, a hub id, or a finished run's folder, which brings what it trained.
        suite: an option of conf/eval (lab, target, open_llm, ...).
        tasks: of the suite, these alone; None: all.
        num_items: items a task; None: the suite's.
        adapter: a PEFT adapter folder, put on `model`.
        revision: commit of a hub id.
        chat_template: a Jinja file that replaces, or supplies, the tokenizer's.
        dtype: auto, float32, bfloat16 or float16.
        accelerator: auto, cpu or gpu.
        overrides: of the config groups eval and dataset (`eval.mode=log_likelihood`, `dataset=gsm8k`).
        output_dir: the cache is in its folder `cache`.

    Raises:
        ConfigError: no such model, suite or task, or a value out of its range.
    """
    from tokensieve.cli.suite import SuiteChoice, define_suite, open_subject

    if isinstance(tasks, str):
        tasks = [tasks]
    if num_items is not None and num_items < 1:
        raise ConfigError("num_items", "must be at least 1", received=num_items, remedy="leave it out for all items")
    options = {"adapter": adapter, "revision": revision, "chat_template": chat_template}
    trained = find_model(model, dtype=dtype, accelerator=accelerator, **options)  # type: ignore[arg-type]
    # A comma or a brace in a folder's name is not grammar.
    folder = "output_dir='" + str(output_dir).replace("\\", "\\\\").replace("'", "\\'") + "'"
    choice = SuiteChoice(suite=suite, tasks=tasks, num_items=num_items, overrides=[*overrides, folder])
    subject = open_subject(trained, choice)
    results = tuple(artefact.get() for artefact in define_suite(subject, choice).values())
    subject.resident.forget()
    return Evaluation(trained.label, suite, results)
