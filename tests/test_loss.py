from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_checkpoint import tiny_model
from torch import nn

from tokensieve import loss as loss_module
from tokensieve.head import OutputHead, split_head
from tokensieve.loss import token_nll, weighted_nll_sum


def plain_loss(model: nn.Module, ids: torch.Tensor, mask: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The slow formulation: full logits, a Python loop over tokens, weighted sum over the weight sum."""
    logits = model(input_ids=ids, attention_mask=mask).logits.float()
    total = torch.zeros(())
    for row in range(ids.shape[0]):
        for t in range(1, ids.shape[1]):
            if weights[row, t] > 0:
                total = total - weights[row, t] * F.log_softmax(logits[row, t - 1], dim=-1)[ids[row, t]]
    return total / weights.sum()


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 320, (4, 13), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    mask[2, 5:] = 0
    weights = (torch.rand(4, 13, generator=generator) < 0.4).float() * mask
    weights[:, 0] = 0
    weights[3] = 0  # a row that trains nothing
    return ids, mask, weights


@pytest.mark.parametrize("chunk", [320, 320 * 5, 10**9])
@pytest.mark.parametrize("overrides", [{}, {"tie_word_embeddings": True}])
def test_loss_and_gradients_equal_the_per_token_loop(
    chunk: int, overrides: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", chunk)
    ids, mask, weights = batch()
    expected_model, model = tiny_model(**overrides), tiny_model(**overrides)
    expected = plain_loss(expected_model, ids, mask, weights)
    expected.backward()
    decoder, head = split_head(model)
    hidden = decoder(input_ids=ids, attention_mask=mask).last_hidden_state
    loss = weighted_nll_sum(hidden, head, ids, weights) / weights.sum()
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    for (name, parameter), reference in zip(model.named_parameters(), expected_model.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, reference.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_accumulated_micro_batches_give_the_step_gradient_and_means_of_means_do_not() -> None:
    ids, mask, weights = batch(seed=3)
    whole, parts, naive = tiny_model(), tiny_model(), tiny_model()

    def backward(model: nn.Module, rows: slice, denominator: float) -> None:
        decoder, head = split_head(model)
        hidden = decoder(input_ids=ids[rows], attention_mask=mask[rows]).last_hidden_state
        (weighted_nll_sum(hidden, head, ids[rows], weights[rows]) / denominator).backward()

    total = float(weights.sum())
    backward(whole, slice(0, 4), total)
    for row in range(4):
        backward(parts, slice(row, row + 1), total)
        backward(naive, slice(row, row + 1), 4 * max(1.0, float(weights[row].sum())))
    errors = []
    for model in (parts, naive):
        pairs = zip(model.parameters(), whole.parameters(), strict=True)
        errors.append(max(float((a.grad - b.grad).norm() / b.grad.norm()) for a, b in pairs))  # type: ignore[operator]
    assert errors[0] < 2e-6
    assert errors[1] > 0.05  # the trap that the global denominator avoids


def test_batch_without_weights_is_zero_with_a_gradient_path() -> None:
    model = tiny_model()
    ids, mask, weights = batch()
    decoder, head = split_head(model)
    hidden = decoder(input_ids=ids, attention_mask=mask).last_hidden_state
    loss = weighted_nll_sum(hidden, head, ids, torch.zeros_like(weights))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all(float(p.grad.abs().sum()) == 0.0 for p in model.parameters() if p.grad is not None)


def test_head_applies_bias_scale_and_softcap() -> None:
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(7, 8), torch.randn(11, 8), torch.randn(11)
    targets = torch.randint(0, 11, (7,))
    logits = 3.0 * torch.tanh((hidden @ weight.T + bias) * 0.5 / 3.0)
    expected = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(token_nll(hidden, OutputHead(weight, bias, 0.5, 3.0), targets), expected)


@pytest.mark.parametrize("chunk", [1, 11 * 3, 10**9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.5, 3.0)])
def test_frozen_head_gives_the_gradient_of_a_trained_one(
    chunk: int, dtype: torch.dtype, scale: float, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gradient is made in the forward pass, unscaled: any weighting of the positions must come out the same."""
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", chunk)
    torch.manual_seed(0)
    start, weight, bias = (torch.randn(*shape, dtype=dtype) for shape in ((7, 8), (11, 8), (11,)))
    targets, factors = torch.randint(0, 11, (7,)), torch.randn(7)
    gradients = []
    for trained in (False, True):
        hidden = start.clone().requires_grad_()
        head = OutputHead(weight.clone().requires_grad_(trained), bias, scale, softcap)
        nll = token_nll(hidden, head, targets)
        assert nll.dtype == torch.float32
        (nll * factors).sum().backward()
        assert hidden.grad is not None
        gradients.append(hidden.grad)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(gradients[0], gradients[1], rtol=tolerance, atol=tolerance)


def test_frozen_head_makes_no_gradient_where_none_is_wanted() -> None:
    hidden, weight = torch.randn(3, 8), torch.randn(11, 8)
    nll = token_nll(hidden, OutputHead(weight, None), torch.tensor([1, 2, 3]))
    assert not nll.requires_grad
