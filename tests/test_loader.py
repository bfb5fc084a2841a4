from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from tokensieve.loader import (
    StepLoader,
    TrainingRows,
    derive_seed,
    plan_epoch,
    split_batch,
    split_validation_batch,
    validation_batches,
)
from tokensieve.records import Batch


@pytest.mark.parametrize("grouped", [True, False])
def test_every_example_once_an_epoch_and_another_order_in_the_next(grouped: bool) -> None:
    lengths = np.random.default_rng(0).integers(5, 200, size=103)
    first, second = (plan_epoch(lengths, 8, seed=1, epoch=epoch, group_by_length=grouped) for epoch in (0, 1))
    assert sorted(np.concatenate(first).tolist()) == list(range(103))
    assert [len(step) for step in first] == [8] * 12 + [7]
    assert np.concatenate(first).tolist() != np.concatenate(second).tolist()


def test_grouping_by_length_pads_less() -> None:
    lengths = np.random.default_rng(0).lognormal(4, 0.7, size=640).astype(int) + 2

    def padded(grouped: bool) -> int:
        return sum(
            int(lengths[step].max()) * len(step)
            for step in plan_epoch(lengths, 8, seed=1, epoch=0, group_by_length=grouped)
        )

    assert padded(True) < 0.8 * padded(False)


def rows(normalise: str = "kept") -> TrainingRows:
    tokens = Dataset.from_list(
        [{"id": str(n), "input_ids": list(range(3 + n)), "is_response": [False] + [True] * (2 + n)} for n in range(6)]
    )
    mask = Dataset.from_list([{"id": str(n), "keep": [False] + [n != 2] + [False] * (1 + n)} for n in range(6)])
    record: Any = SimpleNamespace
    return TrainingRows.collect(record(rows=tokens), record(rows=mask), normalise=normalise)


def loader(micro: int, normalise: str = "kept", **changes: Any) -> StepLoader:
    settings = {"epochs": 2, "max_steps": None, "batch_size": 3, "group_by_length": True, "seed": 0, "pad_id": 99}
    return StepLoader(rows(normalise), micro_batch_size=micro, **(settings | changes))


def test_example_without_kept_token_is_not_trained() -> None:
    assert rows().rows.tolist() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize("normalise", ["kept", "response"])
def test_step_weight_is_the_denominator_of_the_whole_step(normalise: str) -> None:
    for step in loader(2, normalise):
        kept = sum(float(batch.weights.sum()) for batch in step)
        responses = sum(float((batch.attention_mask.sum(1) - 1).sum()) for batch in step)
        assert {batch.step_weight for batch in step} == {kept if normalise == "kept" else responses}


def test_micro_batches_hold_the_same_examples_whatever_their_size() -> None:
    for one, three in zip(loader(1), loader(3), strict=True):
        lengths = [sorted(n for batch in step for n in batch.attention_mask.sum(1).tolist()) for step in (one, three)]
        assert lengths[0] == lengths[1]
        assert len(three) == 1


def test_start_step_continues_the_same_sequence() -> None:
    whole, late = list(loader(2)), list(loader(2, start_step=2))
    assert len(loader(2, start_step=2)) == len(whole) == 4
    for expected, got in zip(whole[2:], late, strict=True):
        assert [batch.input_ids.tolist() for batch in expected] == [batch.input_ids.tolist() for batch in got]
        assert [batch.seed for batch in expected] == [batch.seed for batch in got]


def test_seeds_differ_by_step_and_micro_batch() -> None:
    assert len({derive_seed(1, step, micro) for step in range(50) for micro in range(4)}) == 200


def test_max_steps_cuts_the_plan() -> None:
    assert len(loader(3, max_steps=3)) == 3


def content(batch: Batch) -> tuple[Any, ...]:
    return batch.input_ids.tolist(), batch.weights.tolist(), batch.step_weight, batch.seed


@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize("micro", [1, 2, 3])
def test_ranks_share_the_micro_batches_of_one_process(ranks: int, micro: int) -> None:
    shares = [list(loader(micro, rank=rank, num_ranks=ranks)) for rank in range(ranks)]
    for number, whole in enumerate(loader(micro)):
        dealt = [share[number] for share in shares]
        together = [dealt[index % ranks][index // ranks] for index in range(len(whole))]
        assert [content(batch) for batch in together] == [content(batch) for batch in whole]
        assert sum(len(batches) for batches in dealt) == len(whole)


@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize("limit", [None, 1, 2])
def test_lockstep_adds_passes_without_weight(ranks: int, limit: int | None) -> None:
    shares = [
        list(loader(3, batch_size=5, rank=rank, num_ranks=ranks, lockstep=True, rows_limit=limit))
        for rank in range(ranks)
    ]
    for number, whole in enumerate(loader(3, batch_size=5)):
        dealt = [share[number] for share in shares]
        assert len({len(batches) for batches in dealt}) == 1
        weight = sum(float(batch.weights.sum()) for batches in dealt for batch in batches)
        assert weight == sum(float(batch.weights.sum()) for batch in whole) == whole[0].step_weight
        assert max(len(batch.input_ids) for batches in dealt for batch in batches) <= (limit or 3)


def test_split_batch_keeps_rows_weights_and_denominator_and_pads_less() -> None:
    (batch,) = next(iter(loader(3)))
    assert split_batch(batch, 3) == [batch]
    parts = split_batch(batch, 2)
    assert [len(part.input_ids) for part in parts] == [2, 1]
    rows = [
        row[mask.bool()].tolist()
        for part in parts
        for row, mask in zip(part.input_ids, part.attention_mask, strict=True)
    ]
    assert rows == [row[mask.bool()].tolist() for row, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]
    assert parts[1].input_ids.shape[1] == len(rows[2]) < batch.input_ids.shape[1]
    assert sum(float(part.weights.sum()) for part in parts) == float(batch.weights.sum())
    assert {part.step_weight for part in parts} == {batch.step_weight}
    assert parts[0].seed == batch.seed != parts[1].seed


@pytest.mark.parametrize("ranks", [1, 2, 4, 9])
def test_validation_is_counted_once_over_all_ranks(ranks: int) -> None:
    data = rows()
    options: dict[str, Any] = {"batch_size": 2, "pad_id": 99, "num_ranks": ranks}
    shares = [validation_batches(data.tokens, data.mask, rank=rank, **options) for rank in range(ranks)]
    assert {len(share) for share in shares} == {-(-3 // ranks)}
    assert sum(float(batch.response.sum()) for share in shares for batch in share) == sum(2 + n for n in range(6))
    assert sum(float(batch.keep.sum()) for share in shares for batch in share) == 5
    parts = split_validation_batch(shares[0][0], 1)
    assert [part.input_ids.shape for part in parts] == [(1, 8), (1, 8)]
