"""A back end that follows a rule, a small corpus, and settings: what the tests of variants share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tokensieve.completions.records import Completion, Decoding, Messages
from tokensieve.config.variant import VariantConfig
from tokensieve.dataset import features
from tokensieve.records import Corpus, Stamp
from tokensieve.store import Artefact, Store
from tokensieve.tasks import Task
from tokensieve.variant import define_variant

LABELS = ["A", "B", "C", "D"]
CHOICE = Task(name="choice", grader="choice", metric="accuracy", max_new_tokens=16)
NUMBER = Task(name="number", grader="number", metric="accuracy", max_new_tokens=16)
Rule = Callable[[Messages, int], Completion | str]


class RuleBackend:
    """Answers by a rule of (conversation, number of the sample); remembers what it was asked."""

    def __init__(self, rule: Rule, name: str = "rule") -> None:
        self.rule, self.name = rule, name
        self.asked: list[tuple[Messages, int]] = []

    def identity(self) -> Mapping[str, Any]:
        return {"fake": self.name}

    def complete(
        self, requests: Sequence[tuple[Messages, int]], decoding: Decoding
    ) -> Iterator[tuple[int, Completion]]:
        for number, (messages, sample) in reversed(list(enumerate(requests))):  # any order is allowed
            self.asked.append((messages, sample))
            answer = self.rule(messages, sample)
            if isinstance(answer, str):
                answer = Completion(text=answer, is_complete=True, mean_nll=1.0, mean_entropy=1.0)
            yield number, answer


def row(
    position: int, label: str, *, answer: str | None = None, noise: str | None = None, question: str | None = None
) -> dict[str, Any]:
    """A multiple-choice row; `answer` is the correct label (None: `label`), `noise` the clean text of a noisy one."""
    response = label if len(label) > 1 else f"I say so.\nAnswer: {label}"
    provenance = [json.dumps({"stage": "dataset", "source": f"data.jsonl:{position + 1}"})]
    if noise is not None:
        clean = f"I say so.\nAnswer: {noise}" if len(noise) == 1 else noise
        provenance.append(json.dumps({"stage": "noise", "kind": "label_flip", "before": clean, "after": response}))
    return {
        "id": f"train/{position}",
        "task": "choice",
        "messages": [
            {"role": "user", "content": question or f"Question {position}: which letter?"},
            {"role": "assistant", "content": response},
        ],
        "reference": json.dumps({"answer": answer or label, "labels": LABELS}),
        "provenance": provenance,
    }


def make_corpus(store: Store, rows: list[dict[str, Any]]) -> Artefact[Corpus]:
    stamp = Stamp("dataset", {"rows": rows})

    def build(folder: Path) -> None:
        from datasets.arrow_writer import ArrowWriter

        with ArrowWriter(features=features(), path=str(folder / "data.arrow")) as writer:
            for entry in rows:
                writer.write(entry)
            writer.finalize()

    return Artefact(stamp, store, build, partial(open_rows, stamp=stamp))


def open_rows(folder: Path, *, stamp: Stamp) -> Corpus:
    from datasets import Dataset

    return Corpus(Dataset.from_file(str(folder / "data.arrow")), stamp)


def make_variant(
    folder: Path, rows: list[dict[str, Any]], asked: RuleBackend, /, task: Task | None = CHOICE, **changes: Any
) -> Artefact[Corpus]:
    """The variant that a config with `changes` describes, of these rows, with cache and completions in `folder`."""
    store = Store(folder / "cache")
    more = {key: changes.pop(key) for key in ("embedder", "losses") if key in changes}
    settings = VariantConfig(**changes).settings()
    path = folder / "completions.sqlite"
    return define_variant(store, make_corpus(store, rows), settings, backend=asked, completions=path, task=task, **more)


def responses(variant: Artefact[Corpus]) -> dict[str, str]:
    """Id -> response of every row."""
    rows = variant.get().rows
    return {key: turns[-1]["content"] for key, turns in zip(rows["id"], rows["messages"], strict=True)}


def entry_of(variant: Artefact[Corpus], key: str) -> dict[str, Any]:
    """The variant's own provenance entry of a row."""
    rows = variant.get().rows
    provenance = rows["provenance"][list(rows["id"]).index(key)]
    found: dict[str, Any] = json.loads(provenance[-1])
    return found


def question_number(messages: Messages) -> int:
    """The number that `row` put into the question, wherever the prompt quotes it last."""
    text = messages[-1]["content"]
    return int(text.rpartition("Question ")[2].partition(":")[0])
