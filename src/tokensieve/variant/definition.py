"""The variant of a corpus as an artefact: its stamp now, its rows when somebody asks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any, Final

from tokensieve.completions.records import Backend
from tokensieve.errors import ConfigError
from tokensieve.records import Corpus, Stamp, TokenisedCorpus, TokenScores
from tokensieve.store import Artefact, Store
from tokensieve.tasks import Task
from tokensieve.variant.files import DATA_FILE
from tokensieve.variant.inputs import ask_through, open_completions, read_mean_losses
from tokensieve.variant.prompts import check_prompts
from tokensieve.variant.settings import FIELDS, VariantSettings

if TYPE_CHECKING:
    from tokensieve.completions.store import CompletionStore
    from tokensieve.retrieval import Embedder
    from tokensieve.variant.bench import Bench
    from tokensieve.variant.example import Outcome

VERSION = 1
VARIANTS: Final = tuple(FIELDS)
Losses = tuple[Artefact[TokenisedCorpus], Artefact[TokenScores]]
_EMPTY_REMEDIES: Final[Mapping[str, str]] = {
    "filter_correct": "use a stronger checker model, lower variant.agreement_threshold, or raise variant.num_samples",
    "self_instruct": "raise variant.temperature or variant.novelty_threshold, or use a stronger model",
    "self_select": "use a stronger model, or variant.select_by=loss",
    "robustft": "use a stronger model, raise variant.keep_fraction, or set variant.use_selection=false",
}
log = logging.getLogger(__name__)


def define_variant(
    store: Store,
    corpus: Artefact[Corpus],
    settings: VariantSettings,
    *,
    backend: Backend | None = None,
    completions: str | Path | CompletionStore | None = None,
    task: Task | None = None,
    code_seconds: float = 5.0,
    embedder: Embedder | None = None,
    losses: Losses | None = None,
) -> Artefact[Corpus]:
    """`corpus` with responses as the variant makes them, not yet built; `corpus` itself for ground_truth.

    Rows keep their ids, and gain a provenance entry of stage "variant". The artefact's folder holds a ledger with a
    line for every decision, dropped rows included.

    Args:
        store: the cache.
        corpus: the (perhaps noisy) examples.
        settings: which variant, and how.
        backend: the model that is asked; only `identity()` is read before the artefact is built.
        completions: where its answers are kept, so that a killed build resumes; a path is opened and closed here.
        task: whose grader verifies responses and reads answers; None: answers are compared as text.
        code_seconds: wall-clock limit of one program or query.
        embedder: vectors for retrieval; None: TF-IDF.
        losses: tokens and token scores of `corpus`, for self_select with select_by=loss.

    Raises:
        ConfigError: a variant that lacks what it needs: a back end, a task with a grader, losses.
        DataError: when built: no row is left, or a reference that the grader cannot read.
    """
    if settings.name == "ground_truth":
        return corpus
    _check(settings, backend, completions, task, losses)
    inputs = {"version": VERSION, "corpus": corpus.digest, **_inputs(settings, backend, task, code_seconds)}
    if "num_neighbours" in FIELDS[settings.name] and embedder is not None:
        inputs["embedder"] = dict(embedder.identity())
    if losses is not None and not settings.needs_backend:
        inputs["losses"] = losses[1].digest
    stamp = Stamp("variant", inputs)

    def build(folder: Path) -> None:
        from tokensieve.variant.bench import Bench

        scratch = folder / "scratch"
        scratch.mkdir()
        with open_completions(completions) as kept:
            bench = Bench(
                settings=settings,
                ask=ask_through(backend, kept),
                task=task,
                code_seconds=code_seconds,
                embedder=embedder,
                folder=scratch,
                losses=partial(read_mean_losses, *losses) if losses is not None else None,
            )
            _build(folder, corpus.get(), bench)
        rmtree(scratch)

    return Artefact(stamp, store, build, partial(_open, stamp=stamp))


def _inputs(
    settings: VariantSettings, backend: Backend | None, task: Task | None, code_seconds: float
) -> dict[str, Any]:
    """What, besides the corpus, decides the content, as JSON values."""
    read_of_task = ("grader", "version", "max_new_tokens", "stop")
    is_timed = task is not None and task.grader in ("code", "sql", "math")
    return {
        "settings": {"name": settings.name, **settings.identity()},
        "backend": dict(backend.identity()) if backend is not None and settings.needs_backend else None,
        "task": {key: getattr(task, key) for key in read_of_task} if task is not None else None,
        "code_seconds": code_seconds if is_timed else None,
    }


def _build(folder: Path, corpus: Corpus, bench: Bench) -> None:
    from tokensieve.variant.writing import write_variant

    name = bench.settings.name
    if name in ("self_output", "larger_model", "rephrase") and not bench.settings.verify:
        log.warning("variant %s: verify is off, so no response is checked for correctness", name)
    remedy = _EMPTY_REMEDIES.get(
        name, "use a stronger model, raise variant.num_samples, or set variant.on_no_correct=ground_truth"
    )
    outcomes = _find_maker(name)(bench, corpus)
    write_variant(folder, bench, corpus, outcomes, remedy)


def _find_maker(name: str) -> Callable[[Bench, Corpus], Iterator[Outcome]]:
    """The function that makes a variant; its libraries are loaded only here."""
    from tokensieve.variant.baselines import self_label, self_rag, self_select
    from tokensieve.variant.rewriting import filter_correct, rewrite
    from tokensieve.variant.robustft import robustft
    from tokensieve.variant.self_instruct import self_instruct

    makers = {"filter_correct": filter_correct, "self_instruct": self_instruct, "robustft": robustft}
    makers |= {"self_label": self_label, "self_select": self_select, "self_rag": self_rag}
    return makers.get(name, rewrite)


def _check(
    settings: VariantSettings,
    backend: Backend | None,
    completions: str | Path | CompletionStore | None,
    task: Task | None,
    losses: Losses | None,
) -> None:
    check_prompts(settings)
    if settings.needs_backend and (backend is None or completions is None):
        remedy = "set variant.backend to local or openai"
        raise ConfigError("variant.backend", f"variant {settings.name} must ask a model", remedy=remedy)
    if settings.needs_grader and task is None:
        raise ConfigError(
            "variant.verify",
            f"variant {settings.name} needs a task whose grader verifies responses",
            received="a dataset without a task",
            remedy="set dataset.task"
            + ("" if settings.name == "filter_correct" else ", or variant.verify=false to take any response"),
        )
    if settings.name == "self_select" and settings.select_by == "loss" and losses is None:
        remedy = "use variant.select_by=agreement"
        raise ConfigError("variant.select_by", "needs the losses of the responses", received="loss", remedy=remedy)


def _open(folder: Path, *, stamp: Stamp) -> Corpus:
    from datasets import Dataset

    return Corpus(Dataset.from_file(str(folder / DATA_FILE)), stamp)
