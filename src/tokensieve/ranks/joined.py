"""A program that torchrun or srun started once a device: rank 0 runs it, the others wait for its fit and take part."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tokensieve.errors import ConfigError
from tokensieve.ranks.layout import find_joined
from tokensieve.ranks.order import FitOrder

# Rank 0 may score a large corpus before it fits.
_LONGEST_WAIT = timedelta(days=7)
_orders: list[Any] = []  # the process group that orders travel in, once connected


def refuse_joined(what: str) -> None:
    """Raise a ConfigError where `what` is started by torchrun or srun: every process would do all of it."""
    joined = find_joined()
    if joined is not None:
        raise ConfigError(
            what,
            "must be started as one process",
            received=f"{joined.num_ranks} processes of torchrun or srun",
            remedy="start it alone: each multi-device job starts its own ranks",
        )


def follow_or_lead() -> bool:
    """Connect the ranks that torchrun or srun started; True in those that have then done all there was to do.

    Call it once, before anything is computed. False in rank 0 and in a program that was started alone, which go on.
    """
    joined = find_joined()
    if joined is None:
        return False
    _connect(joined.local_rank)
    if joined.rank == 0:
        return False
    from tokensieve.ranks.work import fit_order

    order = _exchange(None)
    if order is not None:
        fit_order(order, None)
    return True


def dismiss() -> None:
    """Tell the followers that no fit will come. Without followers, or after a fit, nothing happens."""
    if _orders:
        _exchange(None)


def share_order(order: FitOrder) -> None:
    """Send `order` to the followers, who begin it at once. One fit a program: they end after it."""
    if not _orders:
        raise ConfigError(
            "trainer.devices",
            "needs the other ranks of torchrun or srun, which only train.py connects",
            received="ranks that were not connected",
            remedy="start train.py itself, without -m",
        )
    _exchange(order)


def _connect(local_rank: int) -> None:
    import torch
    import torch.distributed as dist

    from tokensieve.trainer.strategy import rendezvous

    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(local_rank)
    rendezvous("cpu:gloo,cuda:nccl" if has_gpu else "gloo")
    _orders.append(dist.new_group(backend="gloo", timeout=_LONGEST_WAIT))


def _exchange(order: FitOrder | None) -> FitOrder | None:
    """Rank 0's `order`, on every rank, which then need the group no more."""
    import torch.distributed as dist

    box = [order]
    dist.broadcast_object_list(box, 0, group=_orders.pop())
    return box[0]
