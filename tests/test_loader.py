from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from tokensieve.loader import StepLoader, TrainingRows, plan_epoch, split_validation_batch, validation_batches
from tokensieve.micro_batches import (
    PassShape,
    count_examples,
    derive_seed,
    lay_out,
    longest_example,
    pad,
    split_batch,
    split_examples,
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
    return StepLoader(rows(normalise), **(settings | {"shape": PassShape(micro)} | changes))


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
    options: dict[str, Any] = {"shape": PassShape(2), "pad_id": 99, "num_ranks": ranks}
    shares = [validation_batches(data.tokens, data.mask, rank=rank, **options) for rank in range(ranks)]
    assert {len(share) for share in shares} == {-(-3 // ranks)}
    assert sum(float(batch.response.sum()) for share in shares for batch in share) == sum(2 + n for n in range(6))
    assert sum(float(batch.keep.sum()) for share in shares for batch in share) == 5
    parts = split_validation_batch(shares[0][0], 1)
    assert [part.input_ids.shape for part in parts] == [(1, 8), (1, 8)]


def every_shape() -> list[PassShape]:
    return [
        PassShape(2),
        PassShape(3, padding_free=True),
        *(PassShape(1, tokens, free) for tokens in (1, 9, 40) for free in (False, True)),
    ]


@pytest.mark.parametrize("shape", every_shape(), ids=str)
def test_passes_of_any_shape_hold_the_step_once(shape: PassShape) -> None:
    lengths = -np.sort(-np.random.default_rng(0).integers(1, 30, size=23))
    parts = shape.partition(lengths)
    assert sorted(np.concatenate(parts).tolist()) == list(range(23))
    for places in parts:
        if shape.max_tokens is None:
            assert len(places) <= shape.max_examples
        else:
            tokens = lengths[places].sum() if shape.padding_free else len(places) * lengths[places].max()
            assert tokens <= shape.max_tokens or len(places) == 1


def test_partition_of_nothing_is_nothing() -> None:
    for shape in every_shape():
        assert shape.partition(np.array([], dtype=np.int64)) == []


def test_tokens_are_filled_up() -> None:
    lengths = np.array([8, 5, 4, 3, 2, 2])

    def dealt(free: bool) -> list[list[int]]:
        return [lengths[places].tolist() for places in PassShape(1, 10, free).partition(lengths)]

    assert dealt(False) == [[8], [5, 4], [3, 2, 2]]
    assert dealt(True) == [[8, 2], [5, 4], [3, 2]]


def examples_of(step: list[Batch]) -> list[tuple[list[int], list[float]]]:
    """Ids and weights of each example of a step, whichever way its passes lay them out."""
    found = []
    for batch in step:
        lengths = batch.lengths or tuple(batch.attention_mask.sum(1).tolist())
        assert batch.attention_mask.sum() == sum(lengths)
        if batch.lengths is None:
            parts = [
                (ids[:length], weights[:length])
                for ids, weights, length in zip(batch.input_ids, batch.weights, lengths, strict=True)
            ]
        else:
            assert batch.input_ids.shape == batch.weights.shape == (1, sum(lengths))
            parts = list(
                zip(split_examples(batch.input_ids, lengths), split_examples(batch.weights, lengths), strict=True)
            )
        found += [(ids.tolist(), weights.tolist()) for ids, weights in parts]
    return sorted(found)


@pytest.mark.parametrize("shape", every_shape(), ids=str)
@pytest.mark.parametrize("limit", [None, 1, 2])
def test_no_shape_changes_a_step(shape: PassShape, limit: int | None) -> None:
    for one, other in zip(loader(1), loader(1, shape=shape, rows_limit=limit), strict=True):
        assert examples_of(one) == examples_of(other)
        assert {batch.step_weight for batch in one} == {batch.step_weight for batch in other}
        assert len({batch.seed for batch in other}) == len(other)
        if limit is not None:
            assert max(count_examples(batch) for batch in other) <= limit


@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize("shape", every_shape(), ids=str)
@pytest.mark.parametrize("limit", [None, 1, 2])
def test_ranks_in_lockstep_share_passes_of_any_shape(ranks: int, shape: PassShape, limit: int | None) -> None:
    options: dict[str, Any] = {"batch_size": 5, "shape": shape, "rows_limit": limit}
    shares = [list(loader(1, rank=rank, num_ranks=ranks, lockstep=True, **options)) for rank in range(ranks)]
    for number, whole in enumerate(loader(1, **options)):
        dealt = [share[number] for share in shares]
        assert len({len(batches) for batches in dealt}) == 1
        trained = [batch for batches in dealt for batch in batches if batch.weights.any()]
        assert examples_of(trained) == examples_of(whole)


def test_split_of_a_row_without_padding_keeps_examples_weights_and_denominator() -> None:
    ids, weights = [[5, 6, 7], [8], [9, 10]], [[0.0, 1.0, 0.5], [0.0], [0.0, 2.0]]
    batch = lay_out(ids, weights, pad_id=0, padding_free=True, step_weight=7.0, seed=3)
    assert split_batch(batch, 3) == [batch]
    assert (count_examples(batch), longest_example(batch)) == (3, 3)
    parts = split_batch(batch, 2)
    assert [part.lengths for part in parts] == [(3, 1), (2,)]
    assert [part.input_ids.tolist() for part in parts] == [[[5, 6, 7, 8]], [[9, 10]]]
    assert [part.weights.tolist() for part in parts] == [[[0.0, 1.0, 0.5, 0.0]], [[0.0, 2.0]]]
    assert [part.attention_mask.tolist() for part in parts] == [[[1] * 4], [[1] * 2]]
    assert {part.step_weight for part in parts} == {7.0}
    assert parts[0].seed == 3 != parts[1].seed
    padded = lay_out(ids, weights, pad_id=0, padding_free=False, step_weight=7.0, seed=3)
    assert padded.input_ids.tolist() == pad(ids, 0)[0].tolist()
    assert padded.weights.tolist() == [[0.0, 1.0, 0.5], [0.0, 0.0, 0.0], [0.0, 2.0, 0.0]]
    assert (count_examples(padded), longest_example(padded), padded.lengths) == (3, 3, None)


@pytest.mark.parametrize("ranks", [1, 2])
def test_validation_counts_the_same_in_passes_of_tokens(ranks: int) -> None:
    data = rows()
    shape = PassShape(1, 12, padding_free=True)  # which validation pads all the same
    shares = [
        validation_batches(data.tokens, data.mask, shape=shape, pad_id=99, rank=rank, num_ranks=ranks)
        for rank in range(ranks)
    ]
    assert len({len(share) for share in shares}) == 1
    batches = [batch for share in shares for batch in share]
    assert sum(float(batch.response.sum()) for batch in batches) == sum(2 + n for n in range(6))
    assert max(batch.input_ids.numel() for batch in batches) <= 12
