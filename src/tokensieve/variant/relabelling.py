"""RobustFT, second half: new labels for noisy rows, out of retrieved clean rows and a review, and their entropies."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from tokensieve.completions.records import Completion
from tokensieve.errors import ConfigError
from tokensieve.records import Corpus
from tokensieve.retrieval import TextIndex
from tokensieve.variant.bench import Bench
from tokensieve.variant.context import Positions, find_neighbours, questions
from tokensieve.variant.detection import BoolArray, read_predictions
from tokensieve.variant.example import Example, finite
from tokensieve.variant.prompts import Prompt, as_shots

_TRUST: Final[tuple[str, ...]] = (
    "context",
    "reasoning",
    "base",
    "review",
)  # whose text is preferred among those of equal answer


@dataclass(slots=True, kw_only=True)
class Proposal:
    """A new label for one noisy row.

    Attributes:
        position: of the row.
        said: every completion about the row, by step.
        neighbours: ids of the rows shown, nearest first.
        step: whose text is the new label; None: no step gives a usable answer.
        measured_step: whose confidence the selection ranks: the context-enhanced one where that gives an answer, else
            `step`.
    """

    position: int
    said: dict[str, Completion]
    neighbours: list[str] = field(default_factory=list)
    step: str | None = None
    measured_step: str = "base"

    @property
    def measured(self) -> Completion:
        """What the selection ranks."""
        return self.said[self.measured_step]

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Proposal:
        """Inverse of `to_json`."""
        values = json.loads(line)
        return cls(**values | {"said": {name: Completion(**entry) for name, entry in values["said"].items()}})


def relabel(bench: Bench, corpus: Corpus, is_noise: BoolArray, predictions: Path, proposals: Path) -> BoolArray:
    """Propose a label for every noisy row, a line each in `proposals`; say which rows' labels to use [N].

    The context-enhanced answer sees the k nearest rows that the checker found clean (all others, where nothing was
    checked). The reviewer sees it beside the reasoning one (the base one without reasoning) and gives the answer; the
    text that becomes the response is that of the first of the two with the reviewer's answer, so that it stands in the
    format of the data, else the reviewer's. Where the reviewer is off, or gives no usable answer, the first usable of
    the two stands, and the base answer where neither is.
    """
    settings = bench.settings
    positions: Positions | None = np.flatnonzero(~is_noise) if settings.use_checker else None
    index = TextIndex(questions(corpus, positions) if settings.use_context else [], bench.embedder)
    per_row = settings.use_context + settings.use_review
    total = per_row * int(is_noise.sum())
    said = read_predictions(predictions)
    ranked: list[tuple[int, float | None, float | None]] = []
    with proposals.open("w", encoding="utf-8") as stream:
        for chunk in bench.chunks(corpus, "variant robustft: relabel", per_row=per_row, total=total):
            known = [(example, next(said)) for example in chunk]
            noisy = [(example, answers) for example, answers in known if is_noise[example.position]]
            for proposal in _propose(bench, corpus, index, positions, noisy):
                stream.write(proposal.to_json() + "\n")
                if proposal.step is not None:
                    measured = proposal.measured
                    ranked.append((proposal.position, finite(measured.mean_entropy), finite(measured.mean_nll)))
    is_used = np.zeros(len(corpus), dtype=np.bool_)
    is_used[select_confident(bench, ranked)] = True
    return is_used


def read_proposals(path: Path) -> Iterator[Proposal]:
    """What was proposed, in row order."""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            yield Proposal.from_json(line)


def _propose(
    bench: Bench,
    corpus: Corpus,
    index: TextIndex,
    positions: Positions | None,
    noisy: Sequence[tuple[Example, Mapping[str, Completion]]],
) -> list[Proposal]:
    settings = bench.settings
    examples = [example for example, _ in noisy]
    made = [Proposal(position=example.position, said=dict(answers)) for example, answers in noisy]
    if settings.use_context:
        template = Prompt("context_prompt", settings.context_prompt)
        shots = find_neighbours(corpus, index, positions, examples, settings.num_neighbours)
        prompts = [
            example.asked(template.about(example, bench.grader, examples=as_shots(near)))
            for example, near in zip(examples, shots, strict=True)
        ]
        for proposal, near, row in zip(made, shots, bench.sample(prompts), strict=True):
            proposal.neighbours = [neighbour.id for neighbour in near]
            proposal.said["context"] = row[0]
    if settings.use_review:
        template = Prompt("review_prompt", settings.review_prompt)
        prompts = [
            example.asked(template.about(example, bench.grader, candidates=[one.text for one in _reviewed(proposal)]))
            for example, proposal in zip(examples, made, strict=True)
        ]
        for proposal, row in zip(made, bench.sample(prompts), strict=True):
            proposal.said["review"] = row[0]
    steps = [[step for step in _TRUST if step in proposal.said] for proposal in made]
    texts = [[proposal.said[step].text for step in own] for proposal, own in zip(made, steps, strict=True)]
    for proposal, own, found in zip(made, steps, bench.group(examples, texts), strict=True):
        answers = dict(zip(own, found, strict=True))
        _choose(bench, proposal, answers)
        for step in ("context", "review"):
            if step in answers:
                bench.note_answer(step, answers[step])
    return made


def _reviewed(proposal: Proposal) -> list[Completion]:
    """What the reviewer is shown: the two most trusted answers."""
    return [proposal.said[step] for step in _TRUST if step in proposal.said and step != "review"][:2]


def _choose(bench: Bench, proposal: Proposal, answers: Mapping[str, int | None]) -> None:
    """Decide whose text is the new label."""
    usable = [step for step, answer in answers.items() if answer is not None and bench.is_usable(proposal.said[step])]
    verdict = answers.get("review")
    agreeing = [step for step in usable if verdict is not None and answers[step] == verdict]
    proposal.step = next(iter(agreeing or usable), None)
    proposal.measured_step = "context" if answers.get("context") is not None else proposal.step or "base"


def select_confident(bench: Bench, ranked: Sequence[tuple[int, float | None, float | None]]) -> list[int]:
    """Positions of the proposals that are kept: the share `keep_fraction` of lowest entropy, ties by position.

    `ranked` holds (position, mean entropy, mean NLL), both in nats a token. The paper's normalised entropy divides by
    ln V, one constant for a model, which changes no rank. compat=paper does what the authors' code does: mean NLL of
    the sampled tokens, strictly below the median. The NLL also stands in where a back end tells no entropies.

    Raises:
        ConfigError: the back end tells neither.
    """
    settings = bench.settings
    if not settings.use_selection:
        return [position for position, _, _ in ranked]
    entropies = [entropy for _, entropy, _ in ranked]
    losses = [loss for _, _, loss in ranked]
    values: Sequence[Any] = losses if settings.compat == "paper" or None in entropies else entropies
    if None in values:
        raise ConfigError(
            "variant.use_selection",
            "needs a back end that tells entropies or log-probabilities",
            received="neither",
            remedy="set variant.use_selection=false, or serve the model with logprobs",
        )
    if settings.compat == "paper":
        middle = float(np.quantile(values, settings.keep_fraction)) if values else 0.0
        return [position for (position, _, _), value in zip(ranked, values, strict=True) if value < middle]
    order = sorted(range(len(ranked)), key=lambda at: (values[at], ranked[at][0]))
    num_kept = math.floor(settings.keep_fraction * len(ranked) + 0.5)
    return sorted(ranked[at][0] for at in order[:num_kept])
