"""Stage 7: the order of training, and its micro-batches. Every step's denominator is known before step one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from tokensieve.micro_batches import PassShape, derive_seed, lay_out, pad, split_batch
from tokensieve.records import Batch, TokenisedCorpus, TokenMask, TokenScores, TokenWeights

# Batches that are sorted together when grouping by length: large enough to pad little, small enough to mix well.
GROUP_BATCHES = 16


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """What the loader needs of N examples: row numbers of those that train, their lengths and loss weights."""

    tokens: TokenisedCorpus
    mask: TokenMask
    rows: npt.NDArray[np.int64]  # row numbers with at least one kept token
    lengths: npt.NDArray[np.int64]  # tokens, of those rows
    denominators: npt.NDArray[np.int64]  # of those rows: kept tokens, or all response tokens
    weights: TokenWeights | None = None
    reference: TokenScores | None = None

    @classmethod
    def collect(
        cls,
        tokens: TokenisedCorpus,
        mask: TokenMask,
        *,
        normalise: str,
        weights: TokenWeights | None = None,
        reference: TokenScores | None = None,
    ) -> TrainingRows:
        """`normalise` kept counts kept tokens, response counts all response tokens of the rows that train.

        Frozen `weights` take the mask's place: tokens of weight 0 are not kept. The `reference`'s NLL goes along.
        """
        keeps, responses = mask.rows["keep"] if weights is None else weights.rows["weight"], tokens.rows["is_response"]
        kept = np.array([sum(weight > 0 for weight in row) for row in keeps], dtype=np.int64)
        counted = kept if normalise == "kept" else np.array([sum(row) for row in responses], dtype=np.int64)
        lengths = np.array([len(row) for row in responses], dtype=np.int64)
        rows = np.flatnonzero(kept > 0)
        return cls(tokens, mask, rows, lengths[rows], counted[rows], weights, reference)


def plan_epoch(
    lengths: npt.NDArray[np.int64], batch_size: int, *, seed: int, epoch: int, group_by_length: bool
) -> list[npt.NDArray[np.int64]]:
    """Positions of each optimiser step of one epoch: every position once, the last step possibly short.

    With `group_by_length`, positions are shuffled, sorted within windows of `GROUP_BATCHES` steps, cut into steps,
    and the steps are shuffled: little padding, and still another order each epoch.

    >>> [len(step) for step in plan_epoch(np.arange(5), 2, seed=0, epoch=0, group_by_length=True)]
    [2, 2, 1]
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    if group_by_length:
        window = batch_size * GROUP_BATCHES
        parts = [order[start : start + window] for start in range(0, len(order), window)]
        order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])
    steps = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if not group_by_length:
        return steps
    full, short = (
        [step for step in steps if len(step) == batch_size],
        [step for step in steps if len(step) < batch_size],
    )
    return [full[place] for place in generator.permutation(len(full))] + short


class StepLoader:
    """Iterates over optimiser steps; each is the list of its micro-batches. Deterministic, and can start anywhere.

    A step's examples, and so its loss, are the same for every `shape` of its passes.
    Of `num_ranks` ranks, rank r gets the micro-batches r, r + num_ranks, ... of every step: which examples form a step,
    which a micro-batch, and its dropout seed do not depend on the number of ranks. A rank may get fewer than another,
    even none; with `lockstep` micro-batches without weight make the numbers equal, for ranks that compute together.
    `rows_limit` cuts micro-batches that do not fit into memory.
    """

    def __init__(
        self,
        data: TrainingRows,
        *,
        epochs: int,
        max_steps: int | None,
        batch_size: int,
        shape: PassShape,
        group_by_length: bool,
        seed: int,
        pad_id: int,
        start_step: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
        lockstep: bool = False,
        rows_limit: int | None = None,
    ) -> None:
        plans = (
            plan_epoch(data.lengths, batch_size, seed=seed, epoch=epoch, group_by_length=group_by_length)
            for epoch in range(epochs)
        )
        self.steps = [step for plan in plans for step in plan][:max_steps]
        self.steps_per_epoch = -(-len(data.rows) // batch_size)
        self.start_step = start_step
        self._data = data
        self._shape = shape
        self._seed = seed
        self._pad_id = pad_id
        self._rank = rank
        self._num_ranks = num_ranks
        self._lockstep = lockstep
        self._rows_limit = rows_limit

    def __len__(self) -> int:
        """All steps of the run, also those before `start_step`: Lightning counts them as done when it resumes."""
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Batch]]:
        for number in range(self.start_step, len(self.steps)):
            yield self.micro_batches(number)

    def micro_batches(self, number: int) -> list[Batch]:
        """This rank's micro-batches of optimiser step `number` (from 0), longest first."""
        step = self.steps[number]
        step = step[np.argsort(-self._data.lengths[step], kind="stable")]
        step_weight = float(self._data.denominators[step].sum())
        passes = self._shape.partition(self._data.lengths[step])
        batches = [
            self._collate(step[places], step_weight, derive_seed(self._seed, number, index))
            for index, places in list(enumerate(passes))[self._rank :: self._num_ranks]
        ]
        limit = self._rows_limit or len(step)
        batches = [part for batch in batches for part in split_batch(batch, limit)]
        if self._lockstep:  # every rank makes as many passes of each round as the one that makes most
            parts = [-(-len(places) // limit) for places in passes]
            rounds = [max(parts[start : start + self._num_ranks]) for start in range(0, len(parts), self._num_ranks)]
            empty = self._collate(step[-1:], step_weight, derive_seed(self._seed, number, len(passes)))
            missing = sum(rounds) - len(batches)
            batches += [empty._replace(weights=torch.zeros_like(empty.weights))] * missing
        return batches

    def _collate(self, positions: npt.NDArray[np.int64], step_weight: float, seed: int) -> Batch:
        numbers = self._data.rows[positions].tolist()
        tokens = self._data.tokens.rows[numbers]
        weights, reference = self._data.weights, self._data.reference

        def place(values: Sequence[Sequence[float]]) -> Batch:
            return lay_out(
                tokens["input_ids"],
                values,
                pad_id=self._pad_id,
                padding_free=self._shape.padding_free,
                step_weight=step_weight,
                seed=seed,
            )

        batch = place(weights.rows[numbers]["weight"] if weights else self._data.mask.rows[numbers]["keep"])
        if reference is None:
            return batch
        return batch._replace(reference_nll=place(reference.rows[numbers]["nll"]).weights)


class ValidationBatch(NamedTuple):
    """Rows of the validation split: `response` marks all response tokens, `keep` those the run's rule trains."""

    input_ids: torch.Tensor  # int64 [B, T]
    attention_mask: torch.Tensor  # int64 [B, T]
    response: torch.Tensor  # float32 [B, T]
    keep: torch.Tensor  # float32 [B, T]


def validation_batches(
    tokens: TokenisedCorpus, mask: TokenMask, *, shape: PassShape, pad_id: int, rank: int = 0, num_ranks: int = 1
) -> list[ValidationBatch]:
    """The whole validation split, sorted by length, in padded rows; of several ranks, each gets its part of it.

    All ranks get the same number of batches, some of which may count nothing.
    """
    lengths = np.array([len(row) for row in tokens.rows["input_ids"]])
    order = np.argsort(-lengths, kind="stable")
    batches = []
    parts = replace(shape, padding_free=False).partition(lengths[order])
    for places in parts[rank::num_ranks]:
        numbers = order[places].tolist()
        rows = tokens.rows[numbers]
        input_ids, attention_mask = pad(rows["input_ids"], pad_id)
        response = pad(rows["is_response"], 0)[0].float()
        keep = pad(mask.rows[numbers]["keep"], 0)[0].float()
        batches.append(ValidationBatch(input_ids, attention_mask, response, keep))
    if len(batches) < -(-len(parts) // num_ranks):
        input_ids, attention_mask = pad(tokens.rows[order[-1:].tolist()]["input_ids"], pad_id)
        nothing = torch.zeros(input_ids.shape)
        batches.append(ValidationBatch(input_ids, attention_mask, nothing, nothing))
    return batches


def split_validation_batch(batch: ValidationBatch, rows: int) -> list[ValidationBatch]:
    """Batches of at most `rows` rows with the same rows."""
    return [
        ValidationBatch(*(field[start : start + rows] for field in batch))
        for start in range(0, len(batch.input_ids), rows)
    ]
