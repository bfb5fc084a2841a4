"""How several ranks hold one model: each the whole of it, or each a part (FSDP2)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.optim import Optimizer

from tokensieve.collectives import broadcast_parameters
from tokensieve.trainer.checkpoint import number_parameters


class ReplicatedStrategy(DDPStrategy):
    """Data parallel without the wrapper: the module sums the gradients of a step itself, once.

    The wrapper averages, and needs the same number of passes on every rank; a step here may be dealt out unevenly.
    """

    def configure_ddp(self) -> None:
        assert self.lightning_module is not None
        broadcast_parameters([value for value in self.lightning_module.parameters() if value.requires_grad])


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all ranks. Checkpoints hold trainable weights only, sharded or, on rank 0, whole.

    A whole one has the format of a single process, optimiser state by parameter number included.
    """

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.model is not None
        return get_model_state_dict(self.model, options=self._options())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        assert self.model is not None
        plain = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state = get_optimizer_state_dict(self.model, plain, options=self._options())
        return number_parameters(state) if state and not self._save_distributed_checkpoint else state

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        assert self.model is not None
        path = Path(self.broadcast(checkpoint_path))
        if path.is_dir():
            return _load_sharded(path, self.model, self.optimizers)
        saved: dict[str, Any] = torch.load(path, mmap=True, map_location="cpu", weights_only=weights_only)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)
        set_model_state_dict(self.model, saved.pop("state_dict"), options=options)
        names = [name for name, value in self.model.named_parameters() if value.requires_grad]
        for optimiser, state in zip(self.optimizers, saved["optimizer_states"], strict=True):
            set_optimizer_state_dict(self.model, optimiser, _name_parameters(state, names), options=options)
        return saved

    def _options(self) -> StateDictOptions:
        whole = not self._save_distributed_checkpoint
        return StateDictOptions(full_state_dict=whole, cpu_offload=True, ignore_frozen_params=True)


def rendezvous(backend: str) -> None:
    """Open the process group of the ranks that torchrun or srun started. All of them must call it."""
    started_by_torchrun = TorchElasticEnvironment.detect()
    environment = TorchElasticEnvironment() if started_by_torchrun else SLURMEnvironment(auto_requeue=False)
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
    dist.init_process_group(backend, rank=environment.global_rank(), world_size=environment.world_size())


def build_strategy(strategy: str, num_ranks: int, *, sharded_checkpoints: bool) -> DDPStrategy | ModelParallelStrategy:
    """The Lightning strategy of `ddp` or `fsdp`."""
    if strategy == "fsdp":
        return ShardedStrategy(
            data_parallel_size=num_ranks, tensor_parallel_size=1, save_distributed_checkpoint=sharded_checkpoints
        )
    return ReplicatedStrategy()


def shard_model(root: nn.Module, model: nn.Module, mesh: Any) -> None:
    """Split the parameters of `model` over the ranks of `mesh`, layer by layer, and what is outside layers in `root`.

    Gradients are summed over the ranks, not averaged: each rank's loss is already divided by the whole step's weight.
    """
    layers = set(getattr(model, "_no_split_modules", None) or ())
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for module in list(model.modules()):
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(root, mesh=mesh, mp_policy=policy)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
            # A rank that only fills in for a missing pass has no gradient of the head, the others have.
            module.set_reduce_scatter_unused_params(True, recurse=False)


def _load_sharded(path: Path, model: nn.Module, optimisers: list[Optimizer]) -> dict[str, Any]:
    """Read each rank's part, whatever the number of ranks that wrote them; returns what is not sharded."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    options = StateDictOptions(ignore_frozen_params=True, strict=False)
    state: dict[str, Any] = {"state_dict": get_model_state_dict(model, options=options)}
    for number, optimiser in enumerate(optimisers):
        state[f"optimizer_{number}"] = get_optimizer_state_dict(model, optimiser, options=options)
    load(state, storage_reader=FileSystemReader(path))
    set_model_state_dict(model, state["state_dict"], options=options)
    for number, optimiser in enumerate(optimisers):
        set_optimizer_state_dict(model, optimiser, state[f"optimizer_{number}"], options=options)
    metadata: dict[str, Any] = torch.load(path / "meta.pt", map_location="cpu", weights_only=False)
    return metadata


def _name_parameters(state: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    groups = [group | {"params": [names[number] for number in group["params"]]} for group in state["param_groups"]]
    return {"state": {names[number]: value for number, value in state["state"].items()}, "param_groups": groups}
