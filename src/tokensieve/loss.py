"""Token NLL from hidden states, without ever holding [B, T, V]: the head is applied to the needed positions only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from tokensieve.head import OutputHead

# Logits of one chunk: 64 MiB in float32, a size at which the matrix product is already at full speed.
CHUNK_ELEMENTS = 16 * 1024 * 1024


def compute_logits(hidden_KD: torch.Tensor, head: OutputHead) -> torch.Tensor:
    """Logits [K, V] in float32, with products accumulated in float32 whatever the weights' dtype."""
    if hidden_KD.is_cuda and head.weight.dtype in (torch.bfloat16, torch.float16) and not torch.is_grad_enabled():
        logits = torch.mm(hidden_KD.to(head.weight.dtype), head.weight.T, out_dtype=torch.float32)
    elif torch.is_grad_enabled():
        logits = F.linear(hidden_KD.to(head.weight.dtype), head.weight).float()
    else:
        logits = F.linear(hidden_KD.float(), head.weight.float())
    if head.bias is not None:
        logits = logits + head.bias.float()
    if head.scale != 1.0:
        logits = logits * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return logits


def token_nll(hidden_KD: torch.Tensor, head: OutputHead, targets_K: torch.Tensor) -> torch.Tensor:
    """`-log softmax(logits)[target]` for each of K positions, float32 [K], in nats.

    Chunked over positions. Under autograd each chunk's logits are recomputed in the backward pass, so that peak
    memory is one chunk and not K x V.
    """
    rows = max(1, CHUNK_ELEMENTS // head.weight.shape[0])
    if len(targets_K) <= rows:
        return _chunk_nll(hidden_KD, head, targets_K)
    parts = []
    for start in range(0, len(targets_K), rows):
        hidden, targets = hidden_KD[start : start + rows], targets_K[start : start + rows]
        if torch.is_grad_enabled():
            parts.append(checkpoint(_chunk_nll, hidden, head, targets, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(_chunk_nll(hidden, head, targets))
    return torch.cat(parts)


def _chunk_nll(hidden_KD: torch.Tensor, head: OutputHead, targets_K: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(compute_logits(hidden_KD, head), targets_K, reduction="none")


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
