"""Stage 9, as artefacts: the scores of the base and of the trained model on every task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tokensieve.evaluations.one_pass import OnePass
from tokensieve.evaluations.own import define_own_evaluations
from tokensieve.evaluations.subject import Subject, Weights
from tokensieve.evaluations.with_harness import define_harness_evaluation
from tokensieve.records import Corpus, EvalResult
from tokensieve.stages import Stages
from tokensieve.store import Artefact

__all__ = ["Evaluations", "Subject", "Weights", "define_evaluations", "define_results"]


class Evaluations(dict[str, Artefact[EvalResult]]):
    """Results by task. `answer` makes the pass over our own tasks that lack theirs; so does the first of them."""

    def __init__(self, own: OnePass) -> None:
        super().__init__(own.results)
        self.answer = own.answer


def define_evaluations(stages: Stages, weights: Artefact[Path] | None) -> Evaluations:
    """One evaluation a task, in the order of the tasks; of the base model when `weights` is None.

    The base's are the same artefacts for every run of a sweep, and so are computed once.
    """
    trained = None
    if weights is not None:
        evaluated = stages.config.trainer.evaluate_checkpoint
        trained = Weights([weights.digest, evaluated], lambda: weights.get() / evaluated)
    return define_results(Subject(stages.config, stages.store, stages.resident, trained), stages.items)


def define_results(subject: Subject, items: Mapping[str, Artefact[Corpus]]) -> Evaluations:
    """One evaluation for each of our own tasks in `items`, then one for each of the harness's that the config names."""
    found = Evaluations(define_own_evaluations(subject, items))
    if subject.config.eval.backend == "lm_eval":
        for name in subject.config.eval.tasks or []:
            found[f"lm_eval.{name}"] = define_harness_evaluation(subject, name)
    return found
