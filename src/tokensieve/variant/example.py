"""A source row as the variants see it, and what a variant made of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tokensieve.completions.records import Completion, Messages
from tokensieve.errors import DataError

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row of a corpus; `position` is its number in the corpus, from 0."""

    position: int
    id: str
    task: str
    messages: Messages
    reference_text: str
    provenance: Sequence[str]

    @property
    def prompt(self) -> Messages:
        """Every turn but the last: what a model is asked."""
        return self.messages[:-1]

    @property
    def response(self) -> str:
        """The data's own response."""
        return self.messages[-1]["content"]

    @property
    def question(self) -> str:
        """The last user turn; empty when there is none."""
        return next((turn["content"] for turn in reversed(self.prompt) if turn["role"] == "user"), "")

    @cached_property
    def reference(self) -> Mapping[str, Any]:
        """What the grader reads.

        Raises:
            DataError: it is not a JSON object.
        """
        try:
            value = json.loads(self.reference_text)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            remedy = "set dataset.reference to the columns that the grader reads"
            raise DataError(
                f"row {self.id}", "the reference must be a JSON object", received=self.reference_text, remedy=remedy
            )
        return value

    @cached_property
    def noise(self) -> Mapping[str, Any] | None:
        """The first entry of the noise ledger about this row: kind, before (the clean text), after."""
        entries = (json.loads(text) for text in self.provenance)
        return next((entry for entry in entries if entry.get("stage") == "noise"), None)

    def asked(self, text: str) -> Messages:
        """The conversation up to the response, with `text` in place of the last user turn."""
        turns = [dict(turn) for turn in self.prompt]
        for turn in reversed(turns):
            if turn["role"] == "user":
                turn["content"] = text
                return turns
        return [*turns, {"role": "user", "content": text}]


def read_examples(rows: datasets.Dataset, size: int) -> Iterator[list[Example]]:
    """The rows in order, `size` at a time."""
    for start in range(0, len(rows), size):
        columns = rows[start : start + size]
        yield [
            Example(
                position=start + at,
                id=columns["id"][at],
                task=columns["task"][at],
                messages=columns["messages"][at],
                reference_text=columns["reference"][at],
                provenance=columns["provenance"][at],
            )
            for at in range(len(columns["id"]))
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """The model's texts about one row, in the order they were asked for, and what was found out about them.

    Attributes:
        completions: what the model said.
        verified: correct or not by the grader; None where nobody looked.
        steps: what each was asked for, where they were not asked the same.
        chosen: number of the one that is used; None: none of them.
    """

    completions: Sequence[Completion] = ()
    verified: Sequence[bool | None] = ()
    steps: Sequence[str] = ()
    chosen: int | None = None

    def lineage(self) -> dict[str, Any]:
        """The short form, for a row's provenance."""
        known = [entry for entry in self.verified if entry is not None]
        return {
            "num_samples": len(self.completions),
            "num_verified": sum(known) if known else None,
            "chosen": self.chosen,
            "perplexity": perplexity(self.completions[self.chosen]) if self.chosen is not None else None,
        }

    def audit(self) -> dict[str, Any]:
        """The long form, for the ledger."""
        return {
            "samples": [entry.text for entry in self.completions],
            **({"steps": list(self.steps)} if self.steps else {}),
            "verified": list(self.verified),
            "chosen": self.chosen,
            "perplexities": [perplexity(entry) for entry in self.completions],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a variant decided about one row.

    Attributes:
        example: the source row; for a new one, the row that is written.
        action: own (kept as it is), rewritten, relabelled, fallback (kept as it is for want of a usable sample), new,
            dropped.
        reason: one line.
        response: the new response; None: the data's own.
        sampled: what the model said on the way.
        lineage: what else a kept row's provenance tells.
        flagged: whether a variant that judges labels took this one for noise; None: nobody asked.
        proposal: the new label, also where the row was dropped afterwards; None: there is none.
    """

    example: Example
    action: str
    reason: str
    response: str | None = None
    sampled: Sampled = Sampled()
    lineage: Mapping[str, Any] = field(default_factory=dict)
    flagged: bool | None = None
    proposal: str | None = None

    @property
    def is_kept(self) -> bool:
        return self.action != "dropped"


def perplexity(completion: Completion) -> float | None:
    """exp(mean NLL) of the sampled tokens given the prompt; None where the back end does not tell."""
    nll = finite(completion.mean_nll)
    return math.exp(min(nll, 700.0)) if nll is not None else None


def finite(value: float | None) -> float | None:
    """The number, or None where there is none: NaN and infinities have no JSON, and no rank."""
    return value if value is not None and math.isfinite(value) else None
