"""Stage 9, as artefacts: the scores of the base and of the trained model on every task."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokensieve.model import template_identity
from tokensieve.records import Corpus, EvalResult, Stamp
from tokensieve.resident import base_identity
from tokensieve.stages import Stages
from tokensieve.store import Artefact
from tokensieve.tasks import TASKS, Task

VERSION = 1
RESULT_FILE = "result.json"


def define_evaluations(stages: Stages, weights: Artefact[Path] | None) -> dict[str, Artefact[EvalResult]]:
    """One evaluation a task, in the order of the tasks; of the base model when `weights` is None.

    The base's are the same artefacts for every run of a sweep, and so are computed once.
    """
    return {name: _define_evaluation(stages, TASKS[name], items, weights) for name, items in stages.items.items()}


def _define_evaluation(
    stages: Stages, task: Task, items: Artefact[Corpus], weights: Artefact[Path] | None
) -> Artefact[EvalResult]:
    config = stages.config
    evaluated = config.trainer.evaluate_checkpoint
    inputs: dict[str, Any] = {
        "version": VERSION,
        "base": base_identity(config),
        "weights": [weights.digest, evaluated] if weights is not None else None,
        "task": asdict(task),
        "items": items.digest,
        "chat_template": template_identity(config.model.chat_template),
        "max_new_tokens": config.eval.max_new_tokens,
        "max_length": config.model.max_length,
        "code_seconds": config.eval.code_seconds,
        "libraries": {name: version(name) for name in ("torch", "transformers", "peft")},
    }
    stamp = Stamp("evaluate", inputs)

    def build(folder: Path) -> None:
        result = _evaluate(stages, task, items.get(), weights.get() / evaluated if weights is not None else None)
        (folder / RESULT_FILE).write_text(json.dumps(asdict(result)), encoding="utf-8")

    def load(folder: Path) -> EvalResult:
        return EvalResult(**json.loads((folder / RESULT_FILE).read_text(encoding="utf-8")))

    return Artefact(stamp, stages.store, build, load)


def _evaluate(stages: Stages, task: Task, items: Corpus, weights: Path | None) -> EvalResult:
    from tokensieve.evaluate import evaluate_task
    from tokensieve.model import load_tokenizer, max_length

    config = stages.config
    tokenizer = load_tokenizer(config.model.path, config.model.revision, config.model.chat_template)
    limit = config.model.max_length or max_length(config.model.path, config.model.revision)
    model: Any = stages.resident.base() if weights is None else stages.resident.trained(weights)
    return evaluate_task(
        model,
        tokenizer,
        items,
        task,
        batch_size=config.eval.batch_size,
        max_new_tokens=config.eval.max_new_tokens,
        max_length=limit,
        code_seconds=config.eval.code_seconds,
    )
