"""Intervals and effect sizes, against hand computation and reference implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tokensieve import statistics as st


def test_wilson_by_hand() -> None:
    # n=10, k=8, z=1.959964: centre (0.8 + z^2/20) / (1 + z^2/10), half z*sqrt(.016 + z^2/400)/(1 + z^2/10)
    z = 1.959963984540054
    centre = (0.8 + z * z / 20) / (1 + z * z / 10)
    half = z * math.sqrt(0.8 * 0.2 / 10 + z * z / 400) / (1 + z * z / 10)
    assert st.wilson_interval(8, 10) == pytest.approx((0.8, centre - half, centre + half))


def test_wilson_at_the_edges() -> None:
    assert all(math.isnan(x) for x in st.wilson_interval(0, 0))
    zero, one = st.wilson_interval(0, 20), st.wilson_interval(20, 20)
    assert zero.value == 0
    assert zero.low == pytest.approx(0, abs=1e-12)
    assert zero.high == pytest.approx(1 - one.low)
    assert st.wilson_interval(2.5, 5).value == 0.5


def test_paired_bootstrap_agrees_with_scipy() -> None:
    rng = np.random.default_rng(1)
    before = rng.integers(0, 2, 200).astype(float)
    after = np.where(rng.random(200) < 0.2, 1 - before, before)
    ours = st.paired_bootstrap(after, before, num_samples=20_000)
    theirs = stats.bootstrap(
        (after - before,), np.mean, n_resamples=20_000, method="percentile", rng=2
    ).confidence_interval
    assert ours.value == pytest.approx((after - before).mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)


def test_paired_bootstrap_is_seeded_and_strict() -> None:
    after, before = [1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]
    assert st.paired_bootstrap(after, before, seed=3) == st.paired_bootstrap(after, before, seed=3)
    assert math.isnan(st.paired_bootstrap([], []).low)
    with pytest.raises(ValueError, match="align"):
        st.paired_bootstrap([1.0], [1.0, 0.0])


def test_bootstrap_of_many_distinct_values() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, 500)
    ours = st.paired_bootstrap(values, np.zeros(500), num_samples=4000)
    assert ours.high - ours.low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(500), rel=0.1)


def test_seed_interval_by_hand() -> None:
    # mean 2, s 1, n 3, t(.975, 2) = 4.302653
    half = 4.302652729911275 / math.sqrt(3)
    assert st.seed_interval([1, 2, 3]) == pytest.approx((2, 2 - half, 2 + half))
    assert st.seed_interval([1, math.nan, 2, 3]) == st.seed_interval([1, 2, 3])
    assert math.isnan(st.seed_interval([]).value)
    one = st.seed_interval([0.4])
    assert one.value == 0.4
    assert math.isnan(one.low)


def test_compare_arms_widens_with_the_spread_of_seeds() -> None:
    zeros = [[0.0] * 100] * 3
    alike = st.compare_arms([[1.0] * 30 + [0.0] * 70] * 3, zeros)
    apart = st.compare_arms([[1.0] * k + [0.0] * (100 - k) for k in (5, 30, 55)], zeros)
    assert alike.value == apart.value == pytest.approx(0.3)
    assert apart.high - apart.low > 3 * (alike.high - alike.low)
    # equal seeds: the items' own sampling error over three seeds of 100 items
    assert alike.high - alike.low == pytest.approx(2 * 1.96 * math.sqrt(0.3 * 0.7 / 300), rel=0.1)


def test_compare_arms_of_one_seed_is_the_paired_bootstrap() -> None:
    after, before = [1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]
    assert st.compare_arms([after], [before]) == st.paired_bootstrap(after, before)
    with pytest.raises(ValueError, match="same seeds"):
        st.compare_arms([after], [])


def test_ti_and_bwt_reproduce_published_rows() -> None:
    # arXiv 2501.14315, table 12, Gemma-2-2B trained on MBPP without mask: table 2 prints TI -21.76 and BWT -38.19
    bases = {"math": 0.281, "arc": 0.7474, "gsm8k": 0.5845, "bird": 0.1389}
    tuned = {"math": 0.229, "arc": 0.7159, "gsm8k": 0.1926, "bird": 0.0514}
    assert st.target_improvement(0.3995, 0.5106) == pytest.approx(-21.76, abs=0.01)
    assert st.backward_transfer(tuned, bases) == pytest.approx(-38.19, abs=0.01)
    points = (0.229 - 0.281 + 0.7159 - 0.7474 + 0.1926 - 0.5845 + 0.0514 - 0.1389) * 25
    assert st.backward_transfer_points(tuned, bases) == pytest.approx(points)


def test_undefined_changes_are_nan() -> None:
    assert math.isnan(st.target_improvement(0.5, 0.0))
    assert math.isnan(st.backward_transfer({"a": 0.5, "b": 0.5}, {"a": 0.0, "b": 0.5}))
    assert math.isnan(st.backward_transfer({}, {}))
    assert math.isnan(st.backward_transfer_points({}, {}))
    with pytest.raises(ValueError, match="tasks differ"):
        st.backward_transfer({"a": 1.0}, {"b": 1.0})
