"""Every weight rule against a slow loop: values, gradients, masks, accumulation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from plain_objective import make_batch, plain_step_loss, step_sums, tuned_model
from tiny_checkpoint import tiny_model
from tiny_fit import make_module
from torch import nn

from tokensieve import loss as loss_module
from tokensieve import token_weights
from tokensieve.head import OutputHead
from tokensieve.loss import compute_logits, token_terms
from tokensieve.micro_batches import split_batch
from tokensieve.objective import Objective
from tokensieve.regulariser import Regulariser
from tokensieve.token_weights import TokenWeighting, select_lowest, select_profit, weigh_power, weigh_talr

RULES = [
    TokenWeighting("none"),
    TokenWeighting("dft"),
    TokenWeighting("power", alpha=0.5),
    TokenWeighting("power", alpha=0.0),
    TokenWeighting("eaft"),
    TokenWeighting("eaft", alpha=2.0, top_k=5),
    TokenWeighting("profit", threshold=0.002),
    TokenWeighting("profit", threshold=0.002, mode="lower"),
    TokenWeighting("profit", threshold=0.0005, threshold_high=0.01, mode="middle"),
    TokenWeighting("talr"),
    TokenWeighting("rho", fraction=0.6),
    TokenWeighting("rho", fraction=0.3, keep="low"),
    TokenWeighting("quantile_online", fraction=0.8),
]
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.rule}-{rule.mode}-{rule.keep}")


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def assert_same(got: nn.Module, expected: nn.Module) -> None:
    one, two = gradients(got), gradients(expected)
    assert one.keys() == two.keys() != set()
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=2e-4, atol=1e-6, msg=name)


@every_rule
@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("chunk", [320 * 5, 10**9])
def test_step_equals_the_slow_loop(
    rule: TokenWeighting, rows: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the micro-batches: the step's Z, median and border are those of all of it."""
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", chunk)
    model, expected_model, batch = tuned_model(), tuned_model(), make_batch()
    expected = plain_step_loss(rule, Regulariser(), expected_model, tiny_model(), batch)
    expected.backward()
    sums = step_sums(make_module(model, Objective(rule, Regulariser())), split_batch(batch, rows))
    sums[0].backward()
    torch.testing.assert_close(sums[0], expected, rtol=1e-5, atol=1e-6)
    assert_same(model, expected_model)


@every_rule
def test_mask_comes_first(rule: TokenWeighting) -> None:
    """Masked tokens change nothing: neither medians and borders nor the denominator."""
    batch = make_batch()
    masked = batch.weights == 0
    other = batch._replace(reference_nll=torch.where(masked, torch.full_like(batch.weights, 99.0), batch.reference_nll))
    results = []
    for each in (batch, other):
        model = tuned_model()
        sums = step_sums(make_module(model, Objective(rule, Regulariser())), [each])
        sums[0].backward()
        results.append((sums.detach(), gradients(model)))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    assert float(results[0][0][4]) == float((~masked).sum())


@every_rule
def test_step_of_response_tokens_as_denominator_is_that_much_smaller(rule: TokenWeighting) -> None:
    """loss.normalise=response divides by more tokens and changes nothing else."""
    batch = make_batch()
    losses = [
        float(step_sums(make_module(tuned_model(), Objective(rule, Regulariser())), [each])[0].detach())
        for each in (batch, batch._replace(step_weight=3 * batch.step_weight))
    ]
    assert losses[0] == pytest.approx(3 * losses[1], rel=1e-6)


def test_frozen_weights_multiply_online_ones() -> None:
    batch = make_batch()
    batch = batch._replace(weights=batch.weights * torch.linspace(0.2, 2.0, 13))
    rule, model, expected_model = TokenWeighting("dft"), tuned_model(), tuned_model()
    expected = plain_step_loss(rule, Regulariser(), expected_model, tiny_model(), batch)
    expected.backward()
    sums = step_sums(make_module(model, Objective(rule, Regulariser())), [batch])
    sums[0].backward()
    torch.testing.assert_close(sums[0], expected, rtol=1e-5, atol=1e-6)
    assert_same(model, expected_model)


def test_metrics_tell_nll_and_weight_apart() -> None:
    batch, objective = make_batch(), Objective(TokenWeighting("dft"), Regulariser())
    values = objective.metrics(step_sums(make_module(tuned_model(), objective), [batch]).tolist())
    plain = step_sums(make_module(tuned_model(), Objective(TokenWeighting(), Regulariser())), [batch])
    assert values["train/nll"] == pytest.approx(float(plain[0].detach()))
    assert 0 < values["train/mean_weight"] < 0.5
    assert values["train/loss"] < values["train/nll"]
    assert "train/kl" not in values


def test_self_normalised_rules_have_mean_weight_one() -> None:
    batch = make_batch()
    for rule in RULES:
        if rule.is_stepwise:
            sums = step_sums(make_module(tuned_model(), Objective(rule, Regulariser())), split_batch(batch, 1))
            assert float(sums[2].detach()) == pytest.approx(float(sums[4].detach()), rel=1e-6)


def test_step_without_weights_is_zero_with_a_gradient_path() -> None:
    batch = make_batch()
    empty = batch._replace(weights=torch.zeros_like(batch.weights))
    for rule in RULES:
        model = tuned_model()
        sums = step_sums(make_module(model, Objective(rule, Regulariser("kl", 0.1))), [empty])
        sums[0].backward()
        assert sums.detach().tolist() == [0.0] * 5
        assert all(float(value.abs().sum()) == 0 for value in gradients(model).values())


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 3.0])
def test_power_has_the_gradient_of_f_alpha(alpha: float) -> None:
    """arXiv 2510.00526: the weight p^alpha, held constant, on the NLL is the gradient of (1 - p^alpha) / alpha."""
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.tensor([0, 3, 6, 2, 2])
    nll = nn.functional.cross_entropy(logits, targets, reduction="none")
    (weigh_power(nll.detach(), alpha) * nll).sum().backward()
    got, logits.grad = logits.grad, None
    p = logits.softmax(-1).gather(-1, targets[:, None])
    ((1 - p**alpha) / alpha).sum().backward()
    torch.testing.assert_close(got, logits.grad)


def test_weights_have_no_gradient() -> None:
    """Each rule's weight is a constant of the step, even when it is given a loss that has gradients."""
    nll = torch.tensor([0.5, 1.0, 3.0], requires_grad=True)
    for rule in RULES:
        weight = rule.weigh(nll, torch.tensor([0.1, 0.5, 1.0]), 0)
        assert weight is None or not weight.requires_grad


def test_profit_modes_share_out_the_tokens() -> None:
    nll = -torch.rand(500, generator=torch.Generator().manual_seed(0)).clamp_min(1e-3).log()
    higher, lower, middle, above = (
        select_profit(nll, mode, low, 0.7, 0)
        for mode, low in (("higher", 0.2), ("lower", 0.2), ("middle", 0.2), ("higher", 0.7))
    )
    assert torch.equal(higher + lower, torch.ones(500))
    assert torch.equal(middle + above, higher)


def test_random_profit_masks_its_share_and_repeats_with_its_seed() -> None:
    nll = torch.zeros(20_000)
    state = torch.random.get_rng_state()
    one, same, other = (select_profit(nll, "random", 0.3, 0.9, seed) for seed in (7, 7, 8))
    assert torch.equal(torch.random.get_rng_state(), state)  # dropout is drawn as without it
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert 1 - float(one.mean()) == pytest.approx(0.3, abs=0.015)


def test_talr_is_plain_training_where_all_tokens_are_alike() -> None:
    same = torch.full((4,), 1.7)
    assert weigh_talr(same, same).tolist() == pytest.approx([1.0] * 4)
    certain = torch.tensor([0.0, 0.0, 0.0, 5.0])  # a median of 0
    assert weigh_talr(certain, certain).tolist() == pytest.approx([4 / 3] * 3 + [0.0])


def test_selection_keeps_ties_and_at_least_one_token() -> None:
    tied = torch.tensor([1.0, 1.0, 1.0, 2.0])
    assert select_lowest(tied, tied, 0.25).tolist() == pytest.approx([4 / 3] * 3 + [0.0])
    assert select_lowest(tied, tied, 1e-9).tolist() == pytest.approx([4 / 3] * 3 + [0.0])
    assert select_lowest(tied, tied, 1.0).tolist() == [1.0] * 4
    one = torch.tensor([3.0])
    assert select_lowest(one, one, 0.1).tolist() == [1.0]


@pytest.mark.parametrize("top_k", [2, 20, 500])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_entropy_is_of_the_logits_that_the_head_makes(top_k: int, softcap: float | None) -> None:
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(9, 8), torch.randn(30, 8), torch.randn(30)
    head, targets = OutputHead(weight, bias, 0.5, softcap), torch.randint(0, 30, (9,))
    top = compute_logits(hidden, head).topk(min(top_k, 30)).values
    expected = torch.distributions.Categorical(logits=top).entropy()
    terms = token_terms(hidden, head, targets, entropy_top_k=top_k)
    torch.testing.assert_close(terms.entropy, expected)
    torch.testing.assert_close(terms.nll, loss_module.token_nll(hidden, head, targets))


def test_vocabulary_larger_than_a_chunk_is_never_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []

    def watched(hidden: torch.Tensor, head: OutputHead) -> torch.Tensor:
        rows.append(len(hidden))
        return compute_logits(hidden, head)

    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", 320 * 6)
    monkeypatch.setattr(loss_module, "compute_logits", watched)
    for rule, penalty, most in ((RULES[4], Regulariser(), 6), (RULES[0], Regulariser("kl", 0.1), 2)):
        rows.clear()
        sums = step_sums(make_module(tuned_model(), Objective(rule, penalty)), [make_batch()])
        sums[0].backward()
        assert max(rows) == most
        assert sum(rows) >= 2 * int(make_batch().weights.sum())  # once more in the backward pass


def test_weights_of_certain_and_impossible_tokens_are_finite() -> None:
    nll = torch.tensor([0.0, 200.0, 1e4])
    for rule in RULES:
        weight: Any = rule.weigh(nll, torch.zeros(3), 0)
        if rule.is_stepwise:
            weight = rule.weigh_step(rule.value(nll, torch.tensor([1e4, 0.0, 0.0])), rule.value(nll, nll.flip(0)))
        assert weight is None or bool(torch.isfinite(weight).all())
    assert math.isfinite(token_weights.TokenWeighting("talr").alpha)
