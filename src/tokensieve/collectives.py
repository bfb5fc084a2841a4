"""Sums over the ranks of a process group, which are no-ops in a process that has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from torch import nn

# Gradients of one all-reduce: large enough for the full bandwidth of a link, small beside a model.
_BUCKET_BYTES = 128 * 1024 * 1024


def num_ranks() -> int:
    """Processes that fit together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them, from 0."""
    return dist.get_rank() if num_ranks() > 1 else 0


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Sum of every rank's `values`, in place and returned. All ranks must call it."""
    if num_ranks() > 1:
        dist.all_reduce(values)
    return values


def gather_over_ranks(values_K: torch.Tensor) -> torch.Tensor:
    """Every rank's 1-D `values_K`, whose lengths may differ, in one tensor, by rank. All ranks must call it."""
    if num_ranks() == 1:
        return values_K
    own = torch.tensor([len(values_K)], device=values_K.device)
    lengths = [torch.zeros_like(own) for _ in range(num_ranks())]
    dist.all_gather(lengths, own)
    sizes = [int(length) for length in lengths]
    padded = values_K.new_zeros(max(sizes))
    padded[: len(values_K)] = values_K
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def decide(flag: bool, device: torch.device) -> bool:
    """Rank 0's `flag`, on every rank: for decisions that depend on the clock. All ranks must call it."""
    if num_ranks() == 1:
        return flag
    shared = torch.tensor(int(flag), device=device)
    dist.broadcast(shared, 0)
    return bool(shared)


def broadcast_parameters(parameters: Sequence[nn.Parameter]) -> None:
    """Give every rank the values of rank 0."""
    for parameter in parameters:
        dist.broadcast(parameter.data, 0)


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its sum over the ranks; a rank without one counts as zero.

    Sums are taken in float32. A parameter that has a gradient on no rank keeps none, as in a single process, so that
    no optimiser decays it.
    """
    if num_ranks() == 1 or not parameters:
        return
    present = sum_over_ranks(
        torch.tensor([int(parameter.grad is not None) for parameter in parameters], device=parameters[0].device)
    ).tolist()
    bucket: list[torch.Tensor] = []
    num_bytes = 0
    for parameter, count in zip(parameters, present, strict=True):
        if not count:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradient = parameter.grad
        if bucket and (num_bytes + gradient.nbytes > _BUCKET_BYTES or bucket[0].dtype != gradient.dtype):
            _sum_bucket(bucket)
            bucket, num_bytes = [], 0
        bucket.append(gradient)
        num_bytes += gradient.nbytes
    if bucket:
        _sum_bucket(bucket)


def _sum_bucket(gradients: Sequence[torch.Tensor]) -> None:
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients]).float()
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def gather(value: torch.Tensor) -> torch.Tensor:
    """`value`, or the whole tensor that a shard of it belongs to. All ranks must call it."""
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value
