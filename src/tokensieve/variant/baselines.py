"""The RobustFT paper's baselines (arXiv 2412.14922, section 4): self_label, self_select, self_rag."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from tokensieve.completions.records import Messages
from tokensieve.errors import AlignmentError
from tokensieve.records import Corpus
from tokensieve.retrieval import TextIndex
from tokensieve.variant.bench import Bench
from tokensieve.variant.context import find_neighbours, questions
from tokensieve.variant.example import Example, Outcome, Sampled, finite
from tokensieve.variant.prompts import Prompt, as_shots
from tokensieve.variant.rewriting import keep_or_drop


def self_label(bench: Bench, corpus: Corpus) -> Iterator[Outcome]:
    """The model's own answer to the row's prompt replaces the label, whatever the label was."""
    for examples in bench.chunks(corpus, "variant self_label", per_row=1):
        prompts = [example.prompt for example in examples]
        yield from _relabel_with(bench, "base", examples, prompts, [{} for _ in examples])


def self_rag(bench: Bench, corpus: Corpus) -> Iterator[Outcome]:
    """As self_label, with the k nearest other rows of the same, noisy, train set shown before the question.

    The paper's code retrieves from the noisy train set; so does this. A row is never shown to itself.
    """
    settings = bench.settings
    template = Prompt("context_prompt", settings.context_prompt)
    index = TextIndex(questions(corpus), bench.embedder)
    for examples in bench.chunks(corpus, "variant self_rag", per_row=1):
        shots = find_neighbours(corpus, index, None, examples, settings.num_neighbours)
        prompts = [
            example.asked(template.about(example, bench.grader, examples=as_shots(near)))
            for example, near in zip(examples, shots, strict=True)
        ]
        lineage = [{"context": [neighbour.id for neighbour in near]} for near in shots]
        yield from _relabel_with(bench, "context", examples, prompts, lineage)


def _relabel_with(
    bench: Bench,
    step: str,
    examples: Sequence[Example],
    prompts: Sequence[Messages],
    lineage: Sequence[Mapping[str, object]],
) -> Iterator[Outcome]:
    samples = bench.sample(prompts)
    groups = bench.group(
        examples, [[row[0].text, example.response] for row, example in zip(samples, examples, strict=True)]
    )
    for example, row, (answer, label), known in zip(examples, samples, groups, lineage, strict=True):
        bench.note_answer(step, answer)
        if answer is None or not bench.is_usable(row[0]):
            reason = "the model gives no answer" if answer is None else "the answer is empty or cut off"
            outcome = keep_or_drop(bench.settings, example, reason, Sampled(completions=row, verified=[None]))
            yield replace(outcome, lineage=known, flagged=not outcome.is_kept)
            continue
        text = row[0].text.strip()
        yield Outcome(
            example=example,
            action="relabelled",
            reason="agrees with the label" if answer == label else "differs from the label",
            response=text,
            sampled=Sampled(completions=row, verified=[None], chosen=0),
            lineage=known,
            flagged=answer != label,
            proposal=text,
        )


def self_select(bench: Bench, corpus: Corpus) -> Iterator[Outcome]:
    """Keep rows with their own labels: those that agree with the model's answer, or those of lowest loss."""
    if bench.settings.select_by == "loss":
        yield from _select_lowest_loss(bench, corpus)
        return
    for examples in bench.chunks(corpus, "variant self_select", per_row=1):
        samples = bench.sample([example.prompt for example in examples])
        pairs = [[row[0].text, example.response] for row, example in zip(samples, examples, strict=True)]
        for example, row, (answer, label) in zip(examples, samples, bench.group(examples, pairs), strict=True):
            bench.note_answer("base", answer)
            agrees = label is not None and answer == label
            yield Outcome(
                example=example,
                action="own" if agrees else "dropped",
                reason="the model agrees with the label" if agrees else "the model does not give the label",
                sampled=Sampled(completions=row, verified=[None]),
                flagged=not agrees,
            )


def _select_lowest_loss(bench: Bench, corpus: Corpus) -> Iterator[Outcome]:
    assert bench.losses is not None
    losses = np.nan_to_num(np.asarray(bench.losses(), dtype=np.float64), nan=np.inf)
    if len(losses) != len(corpus):
        rule = f"must be those of the corpus' {len(corpus)} rows"
        raise AlignmentError("variant losses", rule, received=f"{len(losses)} rows", remedy="score this corpus")
    num_kept = min(len(losses), max(1, math.floor(bench.settings.keep_fraction * len(losses) + 0.5)))
    kept = np.zeros(len(losses), dtype=bool)
    kept[np.argsort(losses, kind="stable")[:num_kept]] = True
    for examples in bench.chunks(corpus, "variant self_select", per_row=0):
        for example in examples:
            is_kept = bool(kept[example.position])
            yield Outcome(
                example=example,
                action="own" if is_kept else "dropped",
                reason=f"loss is {'among' if is_kept else 'above'} the {num_kept} lowest",
                lineage={"loss": finite(float(losses[example.position]))},
                flagged=not is_kept,
            )
