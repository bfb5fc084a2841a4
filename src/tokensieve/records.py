"""The types that flow between stages. No I/O beyond Arrow's memory maps, no torch.

Shapes, project-wide: N examples, B rows, T tokens, K kept positions, D width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import datasets
    import torch


def digest(value: object) -> str:
    """Hex SHA-256 of the canonical JSON of `value`: equal content, equal digest, whatever the key order.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Stamp:
    """What made an artefact: the stage, and every input that can change its content.

    `inputs` holds JSON values only; upstream artefacts appear as their own stamps' digests, so that a stamp
    is a complete provenance and two equal stamps may share one artefact.
    """

    stage: str
    inputs: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """64 hex digits; the cache key."""
        return digest({"stage": self.stage, "inputs": dict(self.inputs)})

    def __str__(self) -> str:
        return f"{self.stage}:{self.digest[:12]}"


@dataclass(frozen=True, slots=True)
class Corpus:
    """N examples as a memory-mapped Arrow dataset.

    Columns: `id` str (stable through every stage), `task` str, `messages` list of {role, content} (the last one
    is the trained response, role `assistant`), `reference` str (JSON; what the grader reads), `provenance`
    list of str (JSON ledger entries of noise and variant).
    """

    rows: datasets.Dataset
    stamp: Stamp

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class TokenisedCorpus:
    """Columns: `id` str, `input_ids` list of int32 [T], `is_response` list of bool [T].

    `is_response` is true for the tokens of a trained assistant turn and for its end token, false at position 0.
    """

    rows: datasets.Dataset
    stamp: Stamp

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Columns: `id` str, `nll` list of float32 [T], in nats: `nll[t] = -log p(x_t | x_<t)`; `nll[0]` is NaN."""

    rows: datasets.Dataset
    stamp: Stamp

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class MaskStats:
    """What a token rule did to a corpus.

    `kept_fraction` is kept over response tokens, in [0, 1]. `dropped_examples` kept no token and are not trained.
    `masked_nll_fraction` is the share of the response NLL that masked tokens carry (NaN without scores).
    `end_kept_fraction` is the share of examples whose last response token (the end token) is kept.
    """

    num_examples: int
    dropped_examples: int
    response_tokens: int
    kept_tokens: int
    masked_nll_fraction: float
    end_kept_fraction: float

    @property
    def kept_fraction(self) -> float:
        return self.kept_tokens / self.response_tokens if self.response_tokens else float("nan")


@dataclass(frozen=True, slots=True)
class TokenMask:
    """Columns: `id` str, `keep` list of bool [T], a subset of `is_response`. Rows align with the TokenisedCorpus."""

    rows: datasets.Dataset
    stats: MaskStats
    stamp: Stamp

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class TokenWeights:
    """Columns: `id` str, `weight` list of float32 [T], 0 wherever the mask is. Rows align with the TokenisedCorpus.

    `num_trained` counts the examples that have a token of a weight above 0; `mean` is over the kept tokens.
    """

    rows: datasets.Dataset
    num_trained: int
    mean: float
    stamp: Stamp

    def __len__(self) -> int:
        return len(self.rows)


class Batch(NamedTuple):
    """One micro-batch: rows padded on the right, or with `lengths` one row of several examples without padding.

    A NamedTuple, because Lightning refuses to move frozen dataclasses.

    `weights` [B, T] is 0 where a position is not trained; `weights[b, t]` belongs to the prediction OF token t. It is
    a hard mask, or frozen weights. `step_weight` is the denominator of the loss: the tokens of the whole optimiser
    step (all micro-batches, all ranks) that are trained, or those of its responses.
    """

    input_ids: torch.Tensor  # int64 [B, T]
    attention_mask: torch.Tensor  # int64 [B, T]
    weights: torch.Tensor  # float32 [B, T]
    step_weight: float
    seed: int  # of this micro-batch's dropout: a function of (run seed, step, micro-batch), not of history
    lengths: tuple[int, ...] | None = None  # of the examples in the one row, in order; None: an example a row
    reference_nll: torch.Tensor | None = None  # float32 [B, T]: of a frozen reference, where a weight rule reads it
    online_weights: torch.Tensor | None = None  # float32 [B, T]: factors of `weights` that follow from the whole step


@dataclass(frozen=True, slots=True)
class EvalResult:
    """Scores of one model on one task.

    `item_ids` and `item_scores` (each in [0, 1]) align, in the order of the task's corpus, so that two arms can be
    compared item by item. `value` is their mean; `low`, `high` its 95 % Wilson interval. `decoding` holds what was
    used to generate (max_new_tokens, sampling, stop strings) and `version` the task's version.
    """

    task: str
    metric: str
    version: int
    item_ids: Sequence[str]
    item_scores: Sequence[float]
    value: float
    low: float
    high: float
    decoding: Mapping[str, Any] = field(default_factory=dict)
    split: str = "test"
    outputs: Sequence[str] = ()  # generated texts, aligned with item_ids

    @property
    def num_items(self) -> int:
        return len(self.item_ids)


@dataclass(frozen=True, slots=True)
class RunResult:
    """All that the report needs to know of one finished run; written as `result.json` in the run's folder."""

    job_id: str
    name: str
    status: str  # FINISHED, FAILED, KILLED
    config: Mapping[str, Any]
    target_task: str
    stamps: Mapping[str, str]  # stage -> stamp digest
    mask: MaskStats | None
    base_evals: Sequence[EvalResult]
    evals: Sequence[EvalResult]
    fit: Mapping[str, float]  # last values of train/... quantities; val/... of the evaluated checkpoint
    seconds: Mapping[str, float]  # by stage
    peak_memory_bytes: Mapping[str, int]  # by stage
    versions: Mapping[str, str]
    git_commit: str | None
    objectives: Mapping[str, float] = field(default_factory=dict)  # of a trial of a search, on validation items

    def to_json(self) -> str:
        """JSON text; numbers that are not finite become null."""
        return json.dumps(_finite_or_none(dataclasses.asdict(self)), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> RunResult:
        """Inverse of `to_json`; null numbers become NaN."""
        values = json.loads(text)
        for key in ("base_evals", "evals"):
            values[key] = tuple(EvalResult(**_none_to_nan(entry, ("value", "low", "high"))) for entry in values[key])
        if values["mask"] is not None:
            values["mask"] = MaskStats(**_none_to_nan(values["mask"], ("masked_nll_fraction", "end_kept_fraction")))
        for key in ("fit", "objectives"):
            values[key] = _none_to_nan(values.get(key, {}), tuple(values.get(key, {})))
        return cls(**values)


def _finite_or_none(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite_or_none(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite_or_none(entry) for entry in value]
    return value


def _none_to_nan(entry: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: math.nan if value is None and key in keys else value for key, value in entry.items()}
