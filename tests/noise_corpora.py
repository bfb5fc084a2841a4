"""Small corpora for the tests of noise, as artefacts, without a source file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tokensieve import lab
from tokensieve.dataset import features
from tokensieve.records import Corpus, Stamp
from tokensieve.store import Artefact, Store

Example = dict[str, Any]
FAMILY_OF = {"label_flip": "lab_choice", "wrong_number": "lab_math", "wrong_code": "lab_code"}


def example(
    number: int, response: str, reference: Mapping[str, Any] | None = None, prompt: str | None = None
) -> Example:
    return {
        "id": f"train/{number}",
        "task": "t",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": prompt or f"Question {number}"},
            {"role": "assistant", "content": response},
        ],
        "reference": json.dumps(dict(reference or {})),
        "provenance": [json.dumps({"stage": "dataset", "source": f"rows.jsonl:{number + 1}"})],
    }


def family_examples(kind: str, num: int) -> list[Example]:
    """Rows of the lab family that `kind` is made for, in the human style."""
    family = FAMILY_OF.get(kind, "lab_math")
    rows = lab.rows(family, split="train", num=num, seed=0, style="human")
    return [
        example(number, str(row["response"]), row["reference"], str(row["question"]))  # type: ignore[arg-type]
        for number, row in enumerate(rows)
    ]


def make_corpus(root: Path, examples: Sequence[Example]) -> Artefact[Corpus]:
    """An artefact like the dataset stage's."""

    def build(folder: Path) -> None:
        from datasets.arrow_writer import ArrowWriter

        with ArrowWriter(features=features(), path=str(folder / "data.arrow"), writer_batch_size=7) as writer:
            for row in examples:
                writer.write(row)
            writer.finalize()

    stamp = Stamp("dataset", {"examples": list(examples)})
    return Artefact(stamp, Store(root / "cache"), build, partial(_open, stamp=stamp))


def _open(folder: Path, *, stamp: Stamp) -> Corpus:
    from datasets import Dataset

    return Corpus(Dataset.from_file(str(folder / "data.arrow")), stamp)


def responses(corpus: Corpus) -> list[str]:
    return [turns[-1]["content"] for turns in corpus.rows["messages"]]
