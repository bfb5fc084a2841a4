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
    # equal seeds bring no news: the items' own sampling error is that of one seed of 100 items
    assert alike.high - alike.low == pytest.approx(2 * 1.96 * math.sqrt(0.3 * 0.7 / 100), rel=0.03)


def test_compare_arms_of_one_seed_is_the_paired_bootstrap() -> None:
    after, before = [1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]
    assert st.compare_arms([after], [before]) == st.paired_bootstrap(after, before)
    with pytest.raises(ValueError, match="same seeds"):
        st.compare_arms([after], [])


def test_compare_arms_by_hand_and_against_its_limits() -> None:
    # Differences [[1, 0], [0, 0]]: mean 1/4; MS of seeds, items and rest are all 1/4; Var = (1/4) / 4 = 1/16.
    after, before = [[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]
    # Satterthwaite: (1/4)^2 / (3 * (1/4)^2) < 1, taken as 1; t(.975, 1) = 12.7062
    assert st.compare_arms(after, before) == pytest.approx((0.25, 0.25 - 12.7062 / 4, 0.25 + 12.7062 / 4), rel=1e-5)
    # Items all alike within a seed: the t-interval over the seeds' means, exactly.
    levels = [[value] * 50 for value in (0.1, 0.2, 0.4)]
    assert st.compare_arms(levels, [[0.0] * 50] * 3) == pytest.approx(st.seed_interval([0.1, 0.2, 0.4]))
    # Never narrower than with the seed as the unit.
    rng = np.random.default_rng(0)
    for seeds in (2, 3, 5):
        table = rng.integers(0, 2, (seeds, 40)).astype(float)
        ours = st.compare_arms(list(table), [np.zeros(40)] * seeds)
        over_seeds = st.seed_interval([float(row.mean()) for row in table])
        assert ours.low <= over_seeds.low + 1e-12
        assert ours.high >= over_seeds.high - 1e-12


def test_compare_arms_is_strict_about_items() -> None:
    with pytest.raises(ValueError, match="same items"):
        st.compare_arms([[1.0], [1.0, 0.0]], [[0.0], [0.0, 0.0]])
    with pytest.raises(ValueError, match="align"):
        st.compare_arms([[1.0, 1.0]] * 2, [[0.0]] * 2)
    with pytest.raises(ValueError, match="at least one"):
        st.compare_arms([], [])
    assert math.isnan(st.compare_arms([[], []], [[], []]).value)
    assert st.compare_arms([[1.0, 0.0]] * 3, [[1.0, 0.0]] * 3) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("num_seeds", "seed_spread", "item_spread", "rest"),
    [(1, 0.0, 0.4, 0.0), (2, 0.0, 0.4, 0.1), (3, 0.0, 0.4, 0.0), (3, 0.05, 0.3, 0.3), (3, 0.1, 0.0, 0.4), (5, 0.1, 0.3, 0.2)],
)  # fmt: skip
def test_compare_arms_covers_the_truth(num_seeds: int, seed_spread: float, item_spread: float, rest: float) -> None:
    """400 simulations: a true coverage of 95 % falls below 92 % in about one of 200, and up to 100 % is conservative."""
    rng = np.random.default_rng([num_seeds, int(100 * seed_spread), int(100 * item_spread), int(100 * rest)])
    truth, num_items, covered = 0.1, 120, 0
    for _ in range(400):
        table = truth + rest * rng.normal(size=(num_seeds, num_items))
        table += seed_spread * rng.normal(size=(num_seeds, 1)) + item_spread * rng.normal(size=(1, num_items))
        found = st.compare_arms(list(table), [np.zeros(num_items)] * num_seeds, num_samples=300)
        covered += found.low <= truth <= found.high
    assert covered / 400 >= 0.92


def test_seeds_that_agree_do_not_narrow_the_interval() -> None:
    """The fault of drawing items anew for each seed: five equal seeds must cover as one does."""
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(400):
        row = (rng.random(150) < 0.3).astype(float)
        found = st.compare_arms([row] * 5, [np.zeros(150)] * 5)
        covered += found.low <= 0.3 <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_t_interval_over_seeds_covers_the_truth() -> None:
    rng = np.random.default_rng(3)
    drawn = [st.seed_interval(list(rng.normal(0.5, 0.1, 3))) for _ in range(1000)]
    assert 0.93 <= sum(one.low <= 0.5 <= one.high for one in drawn) / 1000 <= 0.97


def test_mcnemar_by_hand_and_against_statsmodels() -> None:
    from statsmodels.stats.contingency_tables import mcnemar

    # 1 of 6 discordant pairs: 2 * (C(6,0) + C(6,1)) / 64 = 14 / 64
    assert st.mcnemar_test([1] + [0] * 5 + [1] * 4, [0] + [1] * 5 + [1] * 4) == (1, 5, pytest.approx(14 / 64))
    rng = np.random.default_rng(0)
    for _ in range(20):
        one, other = rng.integers(0, 2, (2, 60)).astype(float)
        table = [[int(((one == a) & (other == b)).sum()) for b in (0, 1)] for a in (0, 1)]
        assert st.mcnemar_test(one, other).p_value == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert st.mcnemar_test([1, 0], [1, 0]) == (0, 0, 1.0)
    assert st.mcnemar_test([], []) == (0, 0, 1.0)
    assert st.mcnemar_test([0.5, 0.2], [0.4, 0.1])[:2] == (2, 0)


def test_p_value_and_interval_agree_for_several_seeds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        seeds = int(rng.integers(2, 6))
        table = rng.normal(0.03, 0.1, (seeds, 1)) + rng.normal(0, 0.3, (1, 30)) + rng.normal(0, 0.2, (seeds, 30))
        arms = list(table), [np.zeros(30)] * seeds
        interval = st.compare_arms(*arms)
        assert (st.difference_p_value(*arms) < 0.05) == (not interval.low <= 0 <= interval.high)
    assert st.difference_p_value([[1.0, 0.0]] * 2, [[1.0, 0.0]] * 2) == 1.0
    assert st.difference_p_value([[1.0, 1.0]] * 2, [[0.0, 0.0]] * 2) == 0.0
    assert math.isnan(st.difference_p_value([[]], [[]]))
    assert st.difference_p_value([[1.0] * 6], [[0.0] * 6]) == pytest.approx(2 / 64)


def test_minimum_detectable_difference_solves_its_equation_and_has_its_power() -> None:
    for fraction, num in ((0.1, 400), (0.3, 1000), (0.05, 2000)):
        found = st.minimum_detectable_difference(fraction, num)
        z, power = 1.959963984540054, 0.8416212335729143
        assert found == pytest.approx(z * math.sqrt(fraction / num) + power * math.sqrt((fraction - found**2) / num))
    # Simulated: 400 items, 20 % differ; at the detectable difference McNemar's chi-square finds it in 80 %.
    rng = np.random.default_rng(5)
    found = st.minimum_detectable_difference(0.2, 400)
    gained, lost, _ = rng.multinomial(400, [(0.2 + found) / 2, (0.2 - found) / 2, 0.8], size=4000).T
    assert np.mean(np.abs(gained - lost) > 1.96 * np.sqrt(gained + lost)) == pytest.approx(0.8, abs=0.025)


def test_minimum_detectable_difference_at_its_edges() -> None:
    assert math.isnan(st.minimum_detectable_difference(0.2, 0))
    assert math.isnan(st.minimum_detectable_difference(0.2, 2))  # two items show nothing
    # Too few differ: a difference x needs a share x of differing items, x = (1.96 + .8416 * sqrt(1 - x))^2 / 100
    none = st.minimum_detectable_difference(0.0, 100)
    assert none == st.minimum_detectable_difference(0.01, 100)
    assert none == pytest.approx((1.959964 + 0.841621 * math.sqrt(1 - none)) ** 2 / 100, rel=1e-5)
    with pytest.raises(ValueError, match="share"):
        st.minimum_detectable_difference(1.2, 100)
    assert st.minimum_detectable_difference(0.2, 10**8) < 0.001
    wide, narrow = (st.minimum_detectable_difference(0.2, 500, power=power) for power in (0.9, 0.5))
    assert wide > st.minimum_detectable_difference(0.2, 500) > narrow


def test_detectable_difference_of_a_comparison() -> None:
    base = [0.0] * 500
    after = [1.0] * 100 + [0.0] * 400
    assert st.detectable_difference([after], [base]) == st.minimum_detectable_difference(0.2, 500)
    assert st.detectable_difference([base], [base]) == pytest.approx(2.8**2 / 500, rel=0.02)
    several = st.detectable_difference([after] * 3, [base] * 3)
    interval = st.compare_arms([after] * 3, [base] * 3)
    # (t(.975) + t(.8)) against t(.975) errors, with 499 degrees of freedom
    assert several / ((interval.high - interval.low) / 2) == pytest.approx(1 + 0.8424 / 1.9647, rel=1e-3)
    assert math.isnan(st.detectable_difference([[]], [[]]))


def test_an_interval_of_no_width_has_a_detectable_difference_all_the_same() -> None:
    flat = [0.0] * 200
    one = st.detectable_difference([flat], [flat])
    assert st.detectable_difference([flat] * 3, [flat] * 3) == one == st.minimum_detectable_difference(0.0, 200)
    # One answer of 600 differs: the seeds' own spread would claim a precision that 600 answers do not have.
    almost = st.detectable_difference([flat, flat, [1.0, *flat[1:]]], [flat] * 3)
    assert almost == st.minimum_detectable_difference(0.0, 600)
    assert st.compare_arms([flat] * 3, [flat] * 3) == (0.0, 0.0, 0.0)
    assert math.isnan(st.detectable_difference([[0.0]] * 2, [[0.0]] * 2))


def test_detectable_mean_over_seeds_by_hand() -> None:
    # standard deviation .01, three seeds: (4.3027 + 1.0607) * .01 / sqrt(3)
    assert st.detectable_over_seeds([0.01, 0.02, 0.03]) == pytest.approx(5.3634 * 0.01 / math.sqrt(3), rel=1e-4)
    assert math.isnan(st.detectable_over_seeds([0.1]))
    assert math.isnan(st.detectable_over_seeds([]))


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .04 times 4 3 2 1, and never below the one before
    assert st.adjust_p_values({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.02}) == pytest.approx(
        {"a": 0.06, "b": 0.04, "c": 0.06, "d": 0.06}
    )
    with_nan = st.adjust_p_values({"a": 0.5, "b": math.nan, "c": 0.01})
    assert math.isnan(with_nan["b"])
    assert with_nan["c"] == pytest.approx(0.02)
    assert st.adjust_p_values({}) == {}
    assert list(st.adjust_p_values({"x": 0.9, "y": 0.9}).values()) == pytest.approx([1.0, 1.0])


def test_multiplicity_note() -> None:
    assert st.describe_multiplicity(1) == ""
    assert "20 comparisons at 95 %, 1.0 exclude zero by chance" in st.describe_multiplicity(20)
    assert "64 %" in st.describe_multiplicity(20)  # 1 - .95^20 = .6415


def test_pass_at_k_is_the_share_of_subsets_with_a_pass() -> None:
    from itertools import combinations

    for passed in range(6):
        samples = [1] * passed + [0] * (5 - passed)
        for k in range(1, 6):
            share = np.mean([any(chosen) for chosen in combinations(samples, k)])
            assert st.pass_at_k(5, passed, k) == pytest.approx(share)
    assert st.pass_at_k(1, 1, 1) == 1.0
    assert st.pass_at_k(2000, 1, 1) == 0.0005  # no overflow
    for bad in ((3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1)):
        with pytest.raises(ValueError, match="pass"):
            st.pass_at_k(*bad)


def test_pass_at_k_is_unbiased() -> None:
    rng = np.random.default_rng(0)
    passed = rng.binomial(10, 0.2, 20_000)
    assert np.mean([st.pass_at_k(10, int(c), 3) for c in passed]) == pytest.approx(1 - 0.8**3, abs=0.01)


def test_score_samples() -> None:
    assert st.score_samples([[1, 0], [0, 0], [1, 1, 1]], 1) == [0.5, 0.0, 1.0]
    assert st.score_samples([[0.99, 0.0]], 1) == [0.0]
    assert st.score_samples([], 3) == []
    with pytest.raises(ValueError, match="pass@3"):
        st.score_samples([[1, 0]], 3)


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


def test_detectable_difference_of_scores_between_0_and_1_follows_their_spread() -> None:
    rng = np.random.default_rng(2)
    before = rng.uniform(0.2, 0.8, 500)
    after = before + np.where(rng.uniform(size=500) < 0.6, rng.choice([-0.05, 0.05], 500), 0.0)
    found = st.detectable_difference([after], [before])
    assert found == pytest.approx((1.959964 + 0.841621) * (after - before).std(ddof=1) / math.sqrt(500), rel=1e-6)
    assert found < 0.006  # of 0.05 points on 60 % of the items; not what as many wrong answers would need
    assert math.isnan(st.detectable_difference([[0.5]], [[0.25]]))
