"""What a trial of a search is judged by: the objectives of its trained model, on validation items.

The items that the report scores are test items; no search ever sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tokensieve.config import SearchConfig
from tokensieve.corpora import define_validation_items
from tokensieve.dataset import DATA_FILE, open_corpus, write_examples
from tokensieve.errors import ConfigError
from tokensieve.evaluations import Weights
from tokensieve.evaluations.own import define_own_evaluations
from tokensieve.evaluations.subject import Subject
from tokensieve.pruning import TrialReport, pruned
from tokensieve.records import Corpus, EvalResult, Stamp
from tokensieve.run_folder import RunFolder, write_outputs
from tokensieve.stages import Stages
from tokensieve.store import Artefact

VERSION = 1


def find_judged_tasks(stages: Stages) -> list[str]:
    """The tasks whose validation items the objectives need: the target for gain, the others for forgetting.

    Raises:
        ConfigError: none of our own, or one without validation data.
    """
    config, wanted = stages.config, stages.config.search.objective
    target, others = config.dataset.task, [name for name in stages.items if name != config.dataset.task]
    if "gain" in wanted and target not in stages.items:
        raise _not_measurable("gain", "a target task that our own graders score", "set search.objective=[nll]")
    if "forgetting" in wanted and not others:
        raise _not_measurable("forgetting", "other tasks than the target", "choose a suite, such as eval=lab")
    return [name for name in stages.items if ("gain" if name == target else "forgetting") in wanted]


def _not_measurable(objective: str, needs: str, remedy: str) -> ConfigError:
    return ConfigError("search.objective", f"{objective} needs {needs}", received="none", remedy=remedy)


def check_trial(stages: Stages) -> None:
    """Raise what can be known of a trial's objectives before a model loads; nothing, for a run outside of a search.

    Raises:
        ConfigError: an objective that this run cannot have.
    """
    search = stages.config.search
    if search.trial is None:
        return
    reads_nll = search.prunes_fits or {"nll", "nll_kept"} & set(search.objective)
    if reads_nll and stages.validation_tokens is None:
        raise _not_measurable("a validation NLL", "a validation split", "set dataset.val_fraction=0.1")
    for name in find_judged_tasks(stages):
        define_validation_items(stages.config, stages.store, name, search.num_items)


def measure_trial(
    stages: Stages, weights: Artefact[Path], record: RunFolder, fit_values: Mapping[str, float]
) -> dict[str, float]:
    """The objectives of this job's trial by name, in their order; {} for a run outside of a search.

    Per-item results go to `validation/` in the run's folder. `fit_values`: `val/...` of the evaluated weights.

    Raises:
        TrialPruned: items so far say that the best trial is better.
    """
    config, search = stages.config, stages.config.search
    if search.trial is None:
        return {}
    evaluated = config.trainer.evaluate_checkpoint
    trained = Weights([weights.digest, evaluated], lambda: weights.get() / evaluated)
    after = Subject(config, stages.store, stages.resident, trained)
    items = {
        name: define_validation_items(config, stages.store, name, search.num_items)
        for name in find_judged_tasks(stages)
    }
    bases = define_own_evaluations(replace(after, weights=None), items).results
    results = define_own_evaluations(after, items).results
    change, found = {}, []
    for name in items:
        base = record.build(f"evaluate base/validation {name}", bases[name])
        with record.timed(f"evaluate/validation {name}"):
            if search.pruner == "wilcoxon":
                result = _evaluate_in_parts(after, name, items[name], TrialReport(search))
            else:
                result = results[name].get()
        change[name] = 100 * (result.value - base.value)
        found.append(result)
    write_outputs(record.folder / "validation", found)
    others = [points for name, points in change.items() if name != config.dataset.task]
    measures: dict[str, Callable[[], float]] = {
        "gain": lambda: change[str(config.dataset.task)],
        "forgetting": lambda: -sum(others) / len(others),
        "nll": lambda: fit_values["val/nll"],
        "nll_kept": lambda: fit_values["val/nll_kept"],
    }
    return {name: measures[name]() for name in search.objective}


def _evaluate_in_parts(subject: Subject, name: str, items: Artefact[Corpus], trial: TrialReport) -> EvalResult:
    """A trial that may end before all items are answered; each part is kept once it is done."""
    search, parts = subject.config.search, []
    scores: dict[int, float] = {}
    size = len(items.get())
    num_parts = -(-size // search.items_per_test)
    for part in range(num_parts):
        rows = range(part, size, num_parts)  # strides, because neighbours may be alike
        result = define_own_evaluations(subject, {name: define_part(items, part, num_parts)}).results[name].get()
        parts.append(result)
        scores.update(zip(rows, result.item_scores, strict=True))
        if trial.is_hopeless(scores) and part + 1 < num_parts:
            raise _ended(search, len(scores), size, sum(scores.values()) / len(scores))
    return join_results(parts)


def _ended(search: SearchConfig, answered: int, size: int, score: float) -> Exception:
    return pruned(search, f"after {answered} of {size} validation items, with {100 * score:.1f} % of their score")


def define_part(items: Artefact[Corpus], part: int, num_parts: int) -> Artefact[Corpus]:
    """Items `part`, `part + num_parts`, ... in their order."""
    inputs: dict[str, Any] = {"version": VERSION, "items": items.digest, "part": part, "num_parts": num_parts}
    stamp = Stamp("items_part", inputs)

    def build(folder: Path) -> None:
        rows = items.get().rows
        write_examples(folder / DATA_FILE, iter(rows.select(range(part, len(rows), num_parts))))

    return Artefact(stamp, items.store, build, partial(open_corpus, stamp=stamp))


def join_results(parts: list[EvalResult]) -> EvalResult:
    """One result over the items of all parts."""
    from tokensieve.statistics import wilson_interval

    scores = [score for part in parts for score in part.item_scores]
    value, low, high = wilson_interval(sum(scores), len(scores))
    return replace(
        parts[0],
        item_ids=[name for part in parts for name in part.item_ids],
        item_scores=scores,
        outputs=[text for part in parts for text in part.outputs],
        value=value,
        low=low,
        high=high,
    )
