"""Token NLL from hidden states, without ever holding [B, T, V]: the head is applied to the needed positions only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from tokensieve.head import OutputHead

# Logits of one chunk: 32 MiB in float32, the most that the C library's allocator gives out again without mapping fresh
# pages, which cost half as much as the product. The matrix product is at full speed at that size.
CHUNK_ELEMENTS = 8 * 1024 * 1024

# (log p [K, V], log q [K, V], tokens [K]) -> [K], of the model in training and its reference.
Divergence = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class ReferenceStates(NamedTuple):
    """What the frozen reference makes of the same positions, [K, D], and how it is compared."""

    hidden: torch.Tensor
    head: OutputHead
    divergence: Divergence


class TokenTerms(NamedTuple):
    """Of each of K positions, float32 [K]. `entropy` has no gradient; it and `divergence` are 0 where not asked for."""

    nll: torch.Tensor
    entropy: torch.Tensor
    divergence: torch.Tensor


def compute_logits(hidden_KD: torch.Tensor, head: OutputHead) -> torch.Tensor:
    """Logits [K, V] in float32, with products accumulated in float32 whatever the weights' dtype."""
    if hidden_KD.is_cuda and head.weight.dtype in (torch.bfloat16, torch.float16) and not torch.is_grad_enabled():
        logits = torch.mm(hidden_KD.to(head.weight.dtype), head.weight.T, out_dtype=torch.float32)
    elif torch.is_grad_enabled():
        logits = F.linear(hidden_KD.to(head.weight.dtype), head.weight).float()
    else:
        weight = head.weight.float() if head.wide_weight is None else head.wide_weight
        exact = exact_products(hidden_KD.dtype, head.weight.dtype)
        with exact, torch.autocast(hidden_KD.device.type, enabled=False):
            logits = F.linear(hidden_KD.float(), weight)
    if head.bias is not None:
        logits = logits + head.bias.float()
    if head.scale != 1.0:
        logits = logits * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return logits


@contextmanager
def exact_products(*dtypes: torch.dtype) -> Iterator[None]:
    """Let float32 products of values that were bfloat16 run on the CPU's bfloat16 units: nothing is rounded by it.

    Such products are exact in float32, in which they are summed either way.
    """
    backend: Any = torch.backends.mkldnn
    setting = backend.matmul
    before = setting.fp32_precision
    if all(dtype == torch.bfloat16 for dtype in dtypes):
        setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


def token_nll(hidden_KD: torch.Tensor, head: OutputHead, targets_K: torch.Tensor) -> torch.Tensor:
    """`-log softmax(logits)[target]` for each of K positions, float32 [K], in nats.

    Chunked over positions, so that peak memory is one chunk and not K x V. Under autograd a frozen head's gradient is
    made beside each chunk; where the head itself is trained, a chunk's logits are recomputed in the backward pass.
    """
    if torch.is_grad_enabled() and hidden_KD.requires_grad and not _is_trained(head):
        found: torch.Tensor = _FrozenHeadNll.apply(hidden_KD, head, targets_K)  # type: ignore[no-untyped-call]
        return found
    rows = max(1, CHUNK_ELEMENTS // head.weight.shape[0])
    if len(targets_K) <= rows:
        return _chunk_nll(hidden_KD, head, targets_K)
    parts = []
    for hidden, targets in zip(hidden_KD.split(rows), targets_K.split(rows), strict=True):
        if torch.is_grad_enabled():
            parts.append(checkpoint(_chunk_nll, hidden, head, targets, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(_chunk_nll(hidden, head, targets))
    return torch.cat(parts)


def _is_trained(head: OutputHead) -> bool:
    return head.weight.requires_grad or (head.bias is not None and head.bias.requires_grad)


class _FrozenHeadNll(torch.autograd.Function):
    """`token_nll` with two products of the head a chunk, where recomputing its logits would take a third.

    A position's NLL depends on its own hidden state alone, so that the gradient of their sum is, row by row, the
    gradient of each: it is kept, [K, D], and scaled in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, hidden_KD: torch.Tensor, head: OutputHead, targets_K: torch.Tensor) -> torch.Tensor:
        rows = max(1, CHUNK_ELEMENTS // head.weight.shape[0])
        nll_K = torch.empty(len(targets_K), dtype=torch.float32, device=hidden_KD.device)
        gradient_KD = torch.empty_like(hidden_KD)
        for start in range(0, len(targets_K), rows):
            place = slice(start, start + rows)
            hidden = hidden_KD[place].detach().requires_grad_()
            with torch.enable_grad():
                nll = _chunk_nll(hidden, head, targets_K[place])
                (gradient_KD[place],) = torch.autograd.grad(nll.sum(), hidden)
            nll_K[place] = nll.detach()
        ctx.save_for_backward(gradient_KD)
        return nll_K

    @staticmethod
    def backward(ctx: Any, gradient_K: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient_KD,) = ctx.saved_tensors
        return gradient_KD * gradient_K[:, None].to(gradient_KD.dtype), None, None


def _chunk_nll(hidden_KD: torch.Tensor, head: OutputHead, targets_K: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(compute_logits(hidden_KD, head), targets_K, reduction="none")


def token_terms(
    hidden_KD: torch.Tensor,
    head: OutputHead,
    targets_K: torch.Tensor,
    *,
    entropy_top_k: int | None = None,
    reference: ReferenceStates | None = None,
) -> TokenTerms:
    """`token_nll`, and what needs the whole vocabulary beside it, from the same logits and chunked alike.

    The entropy, in nats, is that of the `entropy_top_k` likeliest tokens with their probabilities summing to 1.
    """
    if entropy_top_k is None and reference is None:
        nll = token_nll(hidden_KD, head, targets_K)
        return TokenTerms(nll, torch.zeros_like(nll), torch.zeros_like(nll))
    tensors_of_a_position = 1 if reference is None else 3  # both distributions, and their product
    rows = max(1, CHUNK_ELEMENTS // (head.weight.shape[0] * tensors_of_a_position))
    parts = []
    for start in range(0, len(targets_K), rows):
        place = slice(start, start + rows)
        other = reference and reference._replace(hidden=reference.hidden[place])
        chunk = (hidden_KD[place], head, targets_K[place], entropy_top_k, other)
        if torch.is_grad_enabled() and len(targets_K) > rows:
            parts.append(checkpoint(_chunk_terms, *chunk, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(_chunk_terms(*chunk))
    return parts[0] if len(parts) == 1 else TokenTerms(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _chunk_terms(
    hidden_KD: torch.Tensor,
    head: OutputHead,
    targets_K: torch.Tensor,
    entropy_top_k: int | None,
    reference: ReferenceStates | None,
) -> TokenTerms:
    logits = compute_logits(hidden_KD, head)
    nothing = logits.new_zeros(len(targets_K))
    entropy = nothing
    if entropy_top_k is not None:
        top = logits.detach().topk(min(entropy_top_k, logits.shape[-1])).values.log_softmax(-1)
        entropy = -(top.exp() * top).sum(-1)
    if reference is None:
        return TokenTerms(F.cross_entropy(logits, targets_K, reduction="none"), entropy, nothing)
    log_p = logits.log_softmax(-1)
    # Not under no_grad, whose logits are rounded otherwise: an unchanged model must be at distance 0.
    log_q = compute_logits(reference.hidden, reference.head).detach().log_softmax(-1)
    nll = F.nll_loss(log_p, targets_K, reduction="none")
    return TokenTerms(nll, entropy, reference.divergence(log_p, log_q, targets_K))


def weighted_nll_sum(
    hidden_BTD: torch.Tensor, head: OutputHead, input_ids_BT: torch.Tensor, weights_BT: torch.Tensor
) -> torch.Tensor:
    """Scalar `sum over (b, t) of weights[b, t] * -log p(input_ids[b, t] | input_ids[b, :t])`.

    Position t is predicted by the hidden state at t - 1, so column 0 of `weights` must be 0. Divide by the whole
    optimiser step's weight sum, never by this micro-batch's: the mean of means is another objective when kept counts
    differ. A batch without any weight gives a zero that still has a gradient path, so that ranks stay in step.
    """
    kept = weights_BT[:, 1:].nonzero(as_tuple=True)
    if kept[0].numel() == 0:
        return hidden_BTD.sum() * 0.0
    hidden_KD = hidden_BTD[:, :-1][kept]
    nll_K = token_nll(hidden_KD, head, input_ids_BT[:, 1:][kept])
    return (nll_K * weights_BT[:, 1:][kept]).sum()
