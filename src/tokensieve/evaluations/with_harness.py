"""Results of lm-evaluation-harness's tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tokensieve.errors import ConfigError
from tokensieve.evaluations.subject import Subject
from tokensieve.installed import version
from tokensieve.records import EvalResult
from tokensieve.store import Artefact, file_checksum


def define_harness_evaluation(subject: Subject, name: str) -> Artefact[EvalResult]:
    """The score of `subject` on a task or scored group of the harness, named `lm_eval.<name>` among our own.

    Stamped by the harness's version and the files of `include_path`. Data that a task takes from the hub without a
    commit is whatever was newest when the result was computed.
    """
    config = subject.config.eval
    folder = Path(config.include_path).expanduser() if config.include_path is not None else None
    options: dict[str, Any] = {"num_items": config.num_items, "num_fewshot": config.num_fewshot, "seed": config.seed}
    inputs = options | {
        "harness": version("lm_eval"),
        "tasks": [name],
        "include_path": _checksums(folder) if folder is not None else None,
        "is_templated": config.chat_template,
    }

    def evaluate() -> EvalResult:
        from tokensieve.harness import evaluate_with_harness

        found = evaluate_with_harness(
            subject.load_model(),
            subject.load_tokenizer(),
            [name],
            batch_size=config.batch_size,
            include_path=folder,
            max_length=subject.find_limit(),
            chat_template=config.chat_template,
            **options,
        )
        if len(found) != 1:
            raise ConfigError(
                "eval.tasks",
                "must name tasks, or groups with a score of their own",
                received=name,
                remedy=f"name its tasks: {', '.join(result.task for result in found)}",
            )
        return replace(found[0], task=f"lm_eval.{name}")

    return subject.define(inputs, evaluate)


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): file_checksum(path) for path in files}
