"""Weights that are known before training: their values, their place beside the mask, and what the loader makes of them."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from tokensieve.frozen_weights import FrozenRule, content_digest, define_frozen_weights, select_excess, weigh_flow
from tokensieve.loader import StepLoader, TrainingRows
from tokensieve.micro_batches import PassShape, split_batch
from tokensieve.records import MaskStats, Stamp, TokenisedCorpus, TokenMask, TokenScores, TokenWeights
from tokensieve.store import Artefact, Store

NLL = [[math.nan, 9.0, 1.0, 3.0], [math.nan, 9.0, 4.0], [math.nan, 2.0, 0.0, 0.5, 9.0], [math.nan, 1.0]]
REFERENCE = [[math.nan, 0.0, 2.0, 1.0], [math.nan, 0.0, 0.0], [math.nan, 2.0, 1.0, 0.0, 0.0], [math.nan, 1.0]]
KEEP = [[False, False, True, True], [False, False, True], [False, True, True, True, False], [False, False]]


def ready(tmp_path: Path, name: str, value: Any) -> Artefact[Any]:
    """An artefact that need not be built."""
    return Artefact(Stamp("test", {"name": name}), Store(tmp_path), lambda folder: None, lambda folder: value)


def scores(tmp_path: Path, name: str, nll: list[list[float]]) -> Artefact[TokenScores]:
    rows = Dataset.from_list([{"id": str(number), "nll": row} for number, row in enumerate(nll)])
    return ready(tmp_path, name, TokenScores(rows, Stamp("scores", {})))


def mask(keep: list[list[bool]] = KEEP) -> TokenMask:
    rows = Dataset.from_list([{"id": str(number), "keep": row} for number, row in enumerate(keep)])
    return TokenMask(rows, MaskStats(len(keep), 1, 1, 1, math.nan, 1.0), Stamp("mask", {}))


def define(tmp_path: Path, rule: FrozenRule, keep: list[list[bool]] = KEEP) -> Artefact[TokenWeights]:
    found = ready(tmp_path, f"mask {keep}", mask(keep))
    return define_frozen_weights(
        Store(tmp_path), found, rule, scores(tmp_path, "base", NLL), scores(tmp_path, "reference", REFERENCE)
    )


def test_flow_weighs_a_sequence_by_its_mean_loss_over_kept_tokens(tmp_path: Path) -> None:
    weights = define(tmp_path, FrozenRule("flow")).get()
    means, counts = [2.0, 4.0, 2.5 / 3], [2, 1, 3]
    tau = statistics.median(means)
    raw = [math.exp(-mean / tau) for mean in means]
    scale = sum(counts) / sum(value * count for value, count in zip(raw, counts, strict=True))
    a, b, c = (scale * value for value in raw)
    expected = [[0, 0, a, a], [0, 0, b], [0, c, c, c, 0], [0, 0]]
    for got, row in zip(weights.rows["weight"], expected, strict=True):
        assert got == pytest.approx(row, rel=1e-6)
    assert weights.num_trained == 3
    assert weights.mean == pytest.approx(1.0)
    assert weights.rows["id"] == ["0", "1", "2", "3"]


def test_flow_weighs_tokens(tmp_path: Path) -> None:
    weights = define(tmp_path, FrozenRule("flow", level="token")).get()
    losses = [1.0, 3.0, 4.0, 2.0, 0.0, 0.5]
    tau = statistics.median(losses)
    raw = [math.exp(-loss / tau) for loss in losses]
    expected = [len(raw) * value / sum(raw) for value in raw]
    got = [weight for row in weights.rows["weight"] for weight in row if weight > 0]
    assert got == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("keep", "fraction", "expected"),
    [
        ("high", 0.5, [[0, 0, 0, 1], [0, 0, 1], [0, 0, 0, 1, 0], [0, 0]]),
        ("low", 0.3, [[0, 0, 1, 0], [0, 0, 0], [0, 0, 1, 0, 0], [0, 0]]),
        ("high", 1e-6, [[0, 0, 0, 0], [0, 0, 1], [0, 0, 0, 0, 0], [0, 0]]),
        ("low", 1.0, [[0, 0, 1, 1], [0, 0, 1], [0, 1, 1, 1, 0], [0, 0]]),
    ],
)
def test_rho_selects_among_the_kept_tokens_of_the_corpus(
    tmp_path: Path, keep: str, fraction: float, expected: list[list[int]]
) -> None:
    """Excess losses of the kept tokens: -1, 2 | 4 | 0, -1, 0.5."""
    weights = define(tmp_path, FrozenRule("rho", keep=keep, fraction=fraction)).get()
    assert list(weights.rows["weight"]) == expected
    assert weights.num_trained == sum(any(row) for row in expected)


def test_ties_at_the_border_are_kept() -> None:
    rule = FrozenRule("rho", fraction=0.25)
    assert select_excess(np.array([2.0, 2.0, 1.0, 2.0]), rule).tolist() == [1.0, 1.0, 0.0, 1.0]


def test_extreme_losses_weigh_finite_numbers() -> None:
    far = weigh_flow(np.array([5000.0, 5001.0, 9000.0]), np.ones(3))
    assert np.isfinite(far).all()
    assert far.mean() == pytest.approx(1.0)
    none = weigh_flow(np.array([0.0, 0.0, 3.0]), np.ones(3))  # a median of 0
    assert none.tolist() == pytest.approx([1.5, 1.5, 0.0])


def test_stamp_knows_what_a_rule_reads_and_content_what_came_of_it(tmp_path: Path) -> None:
    sequence = define(tmp_path, FrozenRule("flow"))
    assert sequence.digest == define(tmp_path, FrozenRule("flow", fraction=0.1, keep="low")).digest
    assert sequence.digest != define(tmp_path, FrozenRule("flow", level="token")).digest
    everything = [define(tmp_path, FrozenRule("rho", fraction=1.0, keep=keep)) for keep in ("high", "low")]
    assert everything[0].digest != everything[1].digest
    assert content_digest(everything[0]) == content_digest(everything[1]) != content_digest(sequence)


def tokens() -> TokenisedCorpus:
    rows = [
        {"id": str(number), "input_ids": list(range(len(row))), "is_response": [t > 0 for t in range(len(row))]}
        for number, row in enumerate(NLL)
    ]
    return TokenisedCorpus(Dataset.from_list(rows), Stamp("tokens", {}))


@pytest.mark.parametrize("padding_free", [True, False])
@pytest.mark.parametrize("normalise", ["kept", "response"])
def test_loader_carries_frozen_weights_and_counts_those_above_zero(
    tmp_path: Path, normalise: str, padding_free: bool
) -> None:
    weights = define(tmp_path, FrozenRule("rho", fraction=0.5)).get()
    data = TrainingRows.collect(tokens(), mask(), normalise=normalise, weights=weights)
    assert data.rows.tolist() == [0, 1, 2]
    (step,) = load(data, padding_free)
    assert sum(float(part.weights.sum()) for part in step) == 3
    assert {part.step_weight for part in step} == {3.0 if normalise == "kept" else 3.0 + 2.0 + 4.0}
    flow = TrainingRows.collect(
        tokens(), mask(), normalise="kept", weights=define(tmp_path, FrozenRule("flow", level="token")).get()
    )
    (step,) = load(flow, padding_free)
    assert {part.step_weight for part in step} == {6.0}
    assert sum(float(part.weights.sum()) for part in step) == pytest.approx(6.0)


@pytest.mark.parametrize("padding_free", [True, False])
def test_loader_carries_the_reference_along(tmp_path: Path, padding_free: bool) -> None:
    data = TrainingRows.collect(
        tokens(), mask(), normalise="kept", reference=scores(tmp_path, "reference", REFERENCE).get()
    )
    (step,) = load(data, padding_free)
    (whole,) = step
    for part in split_batch(whole, 1):
        assert part.reference_nll is not None
        row = part.weights[0].bool()
        number = [len(ids) for ids in NLL].index(int(part.attention_mask.sum()))
        expected = [value for value, kept in zip(REFERENCE[number], KEEP[number], strict=True) if kept]
        assert part.reference_nll[0][row].tolist() == expected
    (without,) = next(iter(load(TrainingRows.collect(tokens(), mask(), normalise="kept"), padding_free)))
    assert without.reference_nll is None


def load(data: TrainingRows, padding_free: bool) -> list[list[Any]]:
    loader = StepLoader(
        data, epochs=1, max_steps=None, batch_size=4, shape=PassShape(4, padding_free=padding_free),
        group_by_length=False, seed=0, pad_id=0,
    )  # fmt: skip
    return list(loader)
