from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokensieve.token_rules import TokenRule, count_masked, select_dpf, select_high_ppl, select_random

RULES = ("none", "high_ppl", "low_ppl", "random", "quantile", "dpf", "stm_dpf")


@st.composite
def scored_example(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    length = draw(st.integers(2, 40))
    prompt = draw(st.integers(1, length - 1))
    nll = np.array(draw(st.lists(st.floats(0, 20, width=32), min_size=length, max_size=length)), dtype=np.float32)
    tuned = np.array(draw(st.lists(st.floats(0, 20, width=32), min_size=length, max_size=length)), dtype=np.float32)
    response = np.arange(length) >= prompt
    nll[~response] = tuned[~response] = np.nan
    return nll, tuned, response


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=60, deadline=None)
@given(example=scored_example(), threshold=st.floats(0.5, 1e6))
def test_every_rule_keeps_a_subset_of_the_response_and_is_deterministic(
    name: str, example: tuple[np.ndarray, np.ndarray, np.ndarray], threshold: float
) -> None:
    nll, tuned, response = example
    rule = TokenRule(name, threshold=threshold, seed=7)
    keep = rule.select("id", nll, tuned, response, border=math.log(threshold))
    assert keep.dtype == bool
    assert not (keep & ~response).any()
    assert np.array_equal(keep, rule.select("id", nll, tuned, response, border=math.log(threshold)))


@pytest.mark.parametrize("name", ["low_ppl", "random"])
@settings(max_examples=60, deadline=None)
@given(example=scored_example(), threshold=st.floats(1.01, 1e6))
def test_controls_mask_exactly_as_many_as_high_ppl(
    name: str, example: tuple[np.ndarray, np.ndarray, np.ndarray], threshold: float
) -> None:
    nll, tuned, response = example
    keep = TokenRule(name, threshold=threshold, seed=1).select("id", nll, tuned, response, border=math.inf)
    assert int(response.sum() - keep.sum()) == count_masked(nll, response, threshold)


@settings(max_examples=60, deadline=None)
@given(example=scored_example(), low=st.floats(1.01, 100), factor=st.floats(1, 100))
def test_a_higher_threshold_keeps_a_superset(
    example: tuple[np.ndarray, np.ndarray, np.ndarray], low: float, factor: float
) -> None:
    nll, _, response = example
    assert not (select_high_ppl(nll, response, low) & ~select_high_ppl(nll, response, low * factor)).any()


@settings(max_examples=200, deadline=None)
@given(ppl=st.floats(1.0, 1e8))
def test_a_perplexity_equal_to_the_threshold_is_kept(ppl: float) -> None:
    nll = np.log(np.array([1.0, ppl])).astype(np.float32)
    assert select_high_ppl(nll, np.array([False, True]), ppl).tolist() == [False, True]


def test_dpf_at_zero_masks_what_got_worse() -> None:
    nll = np.log(np.array([1.0, 2.0, 3.0, 4.0], dtype=np.float32))
    tuned = np.log(np.array([1.0, 2.0, 2.0, 5.0], dtype=np.float32))
    keep = select_dpf(nll, tuned, np.array([False, True, True, True]), 0.0)
    assert keep.tolist() == [False, True, True, False]


def test_dpf_has_two_directions_that_share_nothing() -> None:
    nll = np.log(np.array([1.0, 2.0, 3.0, 4.0], dtype=np.float32))
    tuned = np.log(np.array([1.0, 2.0, 2.0, 5.0], dtype=np.float32))
    response = np.array([False, True, True, True])
    assert select_dpf(nll, tuned, response, 0.0, keep="risen").tolist() == [False, False, False, True]
    assert TokenRule("dpf", dpf_keep="risen").select("a", nll, tuned, response, math.inf).tolist() == [
        False,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("keep", ["most_fallen", "most_risen"])
@settings(max_examples=60, deadline=None)
@given(example=scored_example(), threshold=st.floats(1.01, 1e6))
def test_matched_dpf_keeps_exactly_as_many_as_high_ppl(
    keep: str, example: tuple[np.ndarray, np.ndarray, np.ndarray], threshold: float
) -> None:
    nll, tuned, response = example
    kept = TokenRule("dpf", threshold=threshold, dpf_keep=keep).select("id", nll, tuned, response, math.inf)
    assert int(response.sum() - kept.sum()) == count_masked(nll, response, threshold)
    change = np.exp(tuned.astype(np.float64)) - np.exp(nll.astype(np.float64))
    left = response & ~kept
    if kept.any() and left.any():
        worst, best = (
            (change[kept].max(), change[left].min())
            if keep == "most_fallen"
            else (-change[kept].min(), -change[left].max())
        )
        assert worst <= best


def test_random_masks_differ_by_seed_and_cover_the_response() -> None:
    nll = np.log(np.array([1.0] + [1.5] * 50 + [9.0] * 50, dtype=np.float32))
    response = np.arange(101) > 0
    masks = [select_random(nll, response, 2.5, np.random.default_rng(seed)) for seed in range(40)]
    assert len({mask.tobytes() for mask in masks}) == 40
    hits = np.mean([~mask[1:] for mask in masks], axis=0)
    assert abs(hits[:50].mean() - 0.5) < 0.06  # low-perplexity tokens are masked as often as high ones


def test_quantile_one_keeps_everything_and_small_keeps_one() -> None:
    nll = np.log(np.array([1.0, 5.0, 2.0, 3.0], dtype=np.float32))
    response = np.array([False, True, True, True])
    whole = TokenRule("quantile", quantile=1.0, quantile_scope="example")
    least = TokenRule("quantile", quantile=0.01, quantile_scope="example")
    assert whole.select("a", nll, None, response, math.inf).tolist() == response.tolist()
    assert least.select("a", nll, None, response, math.inf).tolist() == [False, False, True, False]


def test_stamp_ignores_what_a_rule_does_not_read() -> None:
    assert TokenRule("none", threshold=1).identity() == TokenRule("none", threshold=2).identity()
    assert TokenRule("high_ppl", seed=1).identity() == TokenRule("high_ppl", seed=2).identity()
    assert TokenRule("random", seed=1).identity() != TokenRule("random", seed=2).identity()
    assert TokenRule("dpf", threshold=1).identity() == TokenRule("dpf", threshold=2).identity()
    assert "dpf_keep" not in TokenRule("dpf").identity()  # masks of before the directions stay valid
    most = [
        TokenRule("dpf", dpf_keep="most_risen", **values) for values in ({}, {"threshold": 2}, {"dpf_threshold": 1})
    ]
    assert most[0].identity() == most[2].identity() != most[1].identity()
