"""Flash attention's two functions in plain torch, for machines without its kernels: the same arguments and results."""

from __future__ import annotations

import pytest
import torch
from transformers import modeling_flash_attention_utils, modeling_utils

calls: list[str] = []  # the functions that were called


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
) -> torch.Tensor:
    """[B, T, heads, D] of `q` [B, T, heads, D], `k` and `v` [B, T, key heads, D]; `window_size` counts others only."""
    calls.append("attend")
    groups = q.shape[2] // k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2)))
    scores = q @ k.transpose(-1, -2) * (softmax_scale or q.shape[-1] ** -0.5)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    places = torch.arange(q.shape[2])
    distance = places[:, None] - places[None, :]
    allowed = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    if window_size[0] >= 0:
        allowed &= distance <= window_size[0]
    return (scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ v).transpose(1, 2)


def attend_varlen(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
) -> torch.Tensor:
    """[T, heads, D] of examples that end at `cu_seqlens_q`, which starts with 0."""
    assert cu_seqlens_q.dtype == torch.int32
    assert cu_seqlens_q.tolist() == cu_seqlens_k.tolist()
    assert max_seqlen_q == max_seqlen_k == int(cu_seqlens_q.diff().max())
    calls.append("varlen")
    parts = [
        attend(q[None, a:b], k[None, a:b], v[None, a:b], dropout_p, softmax_scale, causal, window_size, softcap)[0]
        for a, b in zip(cu_seqlens_q.tolist(), cu_seqlens_q.tolist()[1:], strict=False)
    ]
    return torch.cat(parts)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transformers find these functions as flash_attention_2, and forget what was called."""
    calls.clear()
    library = modeling_flash_attention_utils
    monkeypatch.setattr(library, "_loaded_implementation", None)
    monkeypatch.setattr(library, "_lazy_imports", lambda *a, **k: (attend, attend_varlen, None, None, None))
    monkeypatch.setattr(modeling_utils.PreTrainedModel, "_flash_attn_can_dispatch", lambda *a, **k: True)
