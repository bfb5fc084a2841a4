"""Penalties against slow formulations: values, gradients, what is frozen and what comes back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_objective import make_batch, plain_step_loss, step_sums, tuned_model
from rank_fits import Stopped, run_case
from test_token_weights import assert_same, gradients
from tiny_checkpoint import tiny_model
from tiny_fit import make_module
from torch import nn

from tokensieve import loss as loss_module
from tokensieve.adapter import attach_adapter
from tokensieve.config import RegulariserConfig
from tokensieve.errors import ConfigError
from tokensieve.head import OutputHead
from tokensieve.loss import ReferenceStates, compute_logits, token_terms
from tokensieve.micro_batches import split_batch
from tokensieve.objective import Objective
from tokensieve.regulariser import DIVERGENCES, Regulariser, add_l2_sp_gradients, as_reference, copy_anchor
from tokensieve.token_weights import TokenWeighting
from tokensieve.trainer import read_curve

PENALTIES = [Regulariser("kl", coefficient, name) for name in DIVERGENCES for coefficient in (0.3, -0.3)]


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda penalty: f"{penalty.divergence} {penalty.coefficient}")
@pytest.mark.parametrize("rule", [TokenWeighting(), TokenWeighting("dft"), TokenWeighting("quantile_online")])
@pytest.mark.parametrize(("rows", "chunk"), [(4, 10**9), (1, 320 * 9)])
def test_step_equals_the_slow_loop(
    penalty: Regulariser, rule: TokenWeighting, rows: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", chunk)
    model, expected_model, batch = tuned_model(), tuned_model(), make_batch()
    expected = plain_step_loss(rule, penalty, expected_model, tiny_model(), batch)
    expected.backward()
    sums = step_sums(make_module(model, Objective(rule, penalty)), split_batch(batch, rows))
    sums[0].backward()
    torch.testing.assert_close(sums[0], expected, rtol=2e-5, atol=1e-6)
    assert_same(model, expected_model)


def test_asft_has_one_direction() -> None:
    config = RegulariserConfig(rule="asft", direction="reverse", estimator="k3")
    assert (config.divergence, config.identity()) == ("forward", {"rule": "asft", "coefficient": 0.05})


def test_asft_is_dft_and_the_forward_kl() -> None:
    """arXiv 2509.23753: sg(p) * nll + lambda * KL(base || model), both over the trained tokens."""
    losses = []
    for penalty in (Regulariser("asft", 0.05, "forward"), Regulariser("kl", 0.05, "forward")):
        sums = step_sums(make_module(tuned_model(), Objective(TokenWeighting("dft"), penalty)), [make_batch()])
        losses.append(sums.detach())
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_unchanged_model_is_at_distance_zero(name: str) -> None:
    model = attach_adapter(
        tiny_model(), method="lora", rank=4, alpha=8.0, dropout=0.3, target_modules="all-linear", use_dora=False,
        use_rslora=False, seed=1, gradient_checkpointing=False,
    )  # fmt: skip
    sums = step_sums(
        make_module(model, Objective(TokenWeighting(), Regulariser("kl", 1.0, name))), split_batch(make_batch(), 2)
    )
    assert float(sums[3].detach()) == pytest.approx(0.0, abs=1e-5)


def test_full_kl_is_not_negative_and_k3_neither() -> None:
    for name in ("forward", "reverse", "k3"):
        objective = Objective(TokenWeighting(), Regulariser("kl", 1.0, name))
        values = objective.metrics(step_sums(make_module(tuned_model(), objective), [make_batch()]).tolist())
        assert values["train/kl"] > 0
        assert values["train/loss"] == pytest.approx(values["train/nll"] + values["train/kl"], rel=1e-5)


@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_divergence_is_of_the_logits_that_the_heads_make(name: str) -> None:
    torch.manual_seed(0)
    head = OutputHead(torch.randn(30, 8), torch.randn(30), 0.5, 3.0)
    hidden, other, targets = torch.randn(9, 8), torch.randn(9, 8), torch.randint(0, 30, (9,))
    log_p, log_q = (compute_logits(states, head).log_softmax(-1) for states in (hidden, other))
    expected = DIVERGENCES[name](log_p, log_q, targets)
    terms = token_terms(hidden, head, targets, reference=ReferenceStates(other, head, DIVERGENCES[name]))
    torch.testing.assert_close(terms.divergence, expected)


def test_estimates_average_to_the_reverse_kl() -> None:
    """k1 and k3 are unbiased where tokens come from the model itself (and so are biased on data)."""
    generator = torch.Generator().manual_seed(0)
    log_p, log_q = (torch.randn(1, 6, generator=generator).log_softmax(-1) for _ in range(2))
    exact = float(DIVERGENCES["reverse"](log_p, log_q, torch.tensor([0])))
    for name in ("k1", "k3"):
        each = DIVERGENCES[name](log_p.expand(6, 6), log_q.expand(6, 6), torch.arange(6))
        assert float((log_p[0].exp() * each).sum()) == pytest.approx(exact, rel=1e-5)


def test_reference_is_the_base_and_everything_comes_back() -> None:
    model = tuned_model(dropout=0.5)
    model.train()
    ids = torch.tensor([[5, 6, 7, 8]])
    frozen = model.get_submodule("base_model.model.model.norm")
    frozen.eval()
    trainable = {name for name, value in model.named_parameters() if value.requires_grad}
    modes = {name: module.training for name, module in model.named_modules()}

    def fail_within() -> None:
        with as_reference(model):
            logits = model(ids).logits
            torch.testing.assert_close(logits, tiny_model()(ids).logits, rtol=1e-6, atol=1e-6)
            assert not logits.requires_grad
            raise KeyError

    with pytest.raises(KeyError):
        fail_within()
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name for name, value in model.named_parameters() if value.requires_grad} == trainable
    assert not torch.allclose(model.eval()(ids).logits, tiny_model()(ids).logits)


def test_reference_draws_no_dropout() -> None:
    """The same dropout with and without a penalty of size 0, and so the same NLL."""
    nll = []
    for objective in (Objective(TokenWeighting(), Regulariser()), Objective(TokenWeighting(), Regulariser("kl", 0.0))):
        model = tuned_model(dropout=0.5)
        model.train()
        torch.manual_seed(11)
        nll.append(float(step_sums(make_module(model, objective), [make_batch()])[1].detach()))
    assert nll[0] == pytest.approx(nll[1], rel=1e-6)


def test_full_fine_tuning_compares_with_a_copy() -> None:
    batch, penalty = make_batch(), Regulariser("kl", 0.2, "forward")
    models: list[Any] = [tiny_model(), tiny_model()]
    with torch.no_grad():
        for model in models:
            model.lm_head.weight.mul_(1.3)
    plain_step_loss(TokenWeighting(), penalty, models[0], tiny_model(), batch).backward()
    reference = tiny_model().requires_grad_(False)
    step_sums(make_module(models[1], Objective(TokenWeighting(), penalty, reference)), [batch])[0].backward()
    assert_same(models[1], models[0])
    assert not any(value.grad is not None for value in reference.parameters())


@pytest.mark.parametrize("changes", [{}, {"use_rslora": True}, {"target_modules": "q_proj,down_proj"}], ids=str)
def test_l2_sp_of_an_adapter_is_the_size_of_its_update(changes: dict[str, Any]) -> None:
    model, expected_model = tuned_model(**changes), tuned_model(**changes)
    merged: Any = expected_model
    deltas = []
    for module in merged.modules():
        if hasattr(module, "lora_A"):
            product = module.lora_B["default"].weight @ module.lora_A["default"].weight
            deltas.append((module.scaling["default"] * product).square().sum())
    (0.5 * 0.3 * sum(deltas)).backward()
    square = add_l2_sp_gradients(model, 0.3, {})
    assert float(square) == pytest.approx(sum(delta.item() for delta in deltas), rel=1e-5)
    assert_same(model, expected_model)


def test_l2_sp_of_an_adapter_is_the_distance_of_the_merged_weights() -> None:
    model: Any = tuned_model()
    square = float(add_l2_sp_gradients(model, 1.0, {}))
    merged, start = dict(model.merge_and_unload().named_parameters()), dict(tiny_model().named_parameters())
    distance = sum((value - start[name]).detach().double().square().sum().item() for name, value in merged.items())
    assert square == pytest.approx(distance, rel=1e-4)


def test_l2_sp_adds_to_what_is_there_and_starts_at_zero() -> None:
    model = tiny_model()
    objective = Objective(TokenWeighting(), Regulariser("l2_sp", 0.4))
    objective.remember_start(model)
    assert objective.penalise(model) == {"train/l2_sp": 0.0}
    start = copy_anchor(model)
    for value in model.parameters():
        value.grad = torch.ones_like(value)
        value.data += 0.5
    square = objective.penalise(model)["train/l2_sp"]
    assert square == pytest.approx(0.25 * sum(value.numel() for value in model.parameters()), rel=1e-6)
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.grad, 1 + 0.4 * (value.detach() - start[name]))


def test_l2_sp_of_other_adapters_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"l2_sp needs plain LoRA updates"):
        add_l2_sp_gradients(tuned_model(use_dora=True), 0.1, {})


@pytest.mark.parametrize("method", ["none", "lora"])
def test_interrupted_fit_measures_from_the_same_start(method: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": method, "penalty": {"rule": "l2_sp", "coefficient": 0.5}}
    run_case(tmp_path / "whole", **options)
    with pytest.raises(Stopped):
        run_case(tmp_path / "part", **options, stop_after=2, checkpoints="shared")
    run_case(tmp_path / "resumed", **options, checkpoints="shared")
    whole, resumed = read_curve(tmp_path / "whole"), read_curve(tmp_path / "resumed")
    for one, two in zip(whole, resumed, strict=True):
        assert one.get("train/l2_sp") == two.get("train/l2_sp")
        assert one.get("train/nll") == two.get("train/nll")
    assert whole[-2].get("train/l2_sp", 1.0) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"recompute": True},
        {"dora": True},
        {"method": "none"},
        {"dtype": "bfloat16", "precision": "bf16-mixed"},
        {"precision": "bf16-mixed"},
        {"chunk_elements": 700},
    ],
    ids=str,
)
def test_every_kind_of_training_starts_at_distance_zero(changes: dict[str, Any], tmp_path: Path) -> None:
    penalty = {"rule": "kl", "coefficient": 0.5, "divergence": "forward"}
    run_case(tmp_path / "fit", penalty=penalty, **changes)
    divergence = [entry["train/kl"] for entry in read_curve(tmp_path / "fit") if "train/kl" in entry]
    assert divergence[0] == pytest.approx(0.0, abs=1e-5)
    assert divergence[-1] > 1e-3


@pytest.mark.parametrize("rule", ["dft", "talr"])
def test_recomputed_activations_and_split_passes_change_nothing(rule: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "weighting": {"rule": rule},
        "penalty": {"rule": "kl", "coefficient": 0.5, "divergence": "reverse"},
        "dropout": 0.0,
    }
    run_case(tmp_path / "plain", **options)
    expected = read_curve(tmp_path / "plain")
    for name, changes in (("a", {"recompute": True}), ("b", {"micro": 1}), ("c", {"memory_rows": 2})):
        run_case(tmp_path / name, **options, **changes)
        for one, two in zip(expected, read_curve(tmp_path / name), strict=True):
            for key in one.keys() - {"time", "train/tokens_per_second"}:
                assert two[key] == pytest.approx(one[key], rel=2e-4, abs=1e-6), (name, key)


def test_penalties_that_need_no_reference_make_no_second_pass() -> None:
    passes: list[nn.Module] = []
    model: Any = tuned_model()
    model.get_base_model().get_decoder().register_forward_hook(lambda module, *rest: passes.append(module))
    for penalty, number in ((Regulariser(), 1), (Regulariser("l2_sp", 0.1), 1), (Regulariser("kl", 0.1), 2)):
        passes.clear()
        step_sums(make_module(model, Objective(TokenWeighting(), penalty)), [make_batch()])
        assert len(passes) == number


def test_gradient_of_k1_is_a_smaller_nll() -> None:
    plain, less = tuned_model(), tuned_model()
    step_sums(make_module(plain, Objective(TokenWeighting(), Regulariser())), [make_batch()])[0].backward()
    penalty = Regulariser("kl", 0.25, "k1")
    step_sums(make_module(less, Objective(TokenWeighting(), penalty)), [make_batch()])[0].backward()
    one, two = gradients(plain), gradients(less)
    for name, value in one.items():
        torch.testing.assert_close(0.75 * value, two[name], rtol=1e-4, atol=1e-6)
    assert math.isclose(penalty.coefficient, 0.25)


def test_logits_without_gradients_are_float32_under_autocast_too() -> None:
    head = OutputHead(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)), None)
    hidden = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = compute_logits(hidden, head)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(compute_logits(hidden, head), expected)
