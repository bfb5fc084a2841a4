"""How many ranks a config means here, who starts them, and which combinations cannot work."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from tokensieve.config import RunConfig
from tokensieve.config.training import check_share
from tokensieve.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Joined:
    """This process as a rank of a group that torchrun or srun started."""

    rank: int
    num_ranks: int
    local_rank: int
    ranks_per_node: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The ranks of one fit. `strategy` single: this process alone. `joined`: its ranks run already."""

    strategy: Literal["single", "ddp", "fsdp"] = "single"
    devices: int = 1
    num_nodes: int = 1
    joined: Joined | None = None

    @property
    def num_ranks(self) -> int:
        return self.devices * self.num_nodes


def find_joined() -> Joined | None:
    """This process's place in a group of torchrun or srun; None when it was started alone."""
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment and int(environment.get("WORLD_SIZE", "1")) > 1:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        return Joined(*(int(environment[name]) for name in names))
    is_interactive = environment.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environment and not is_interactive:
        rank, ranks = int(environment["SLURM_PROCID"]), int(environment["SLURM_NTASKS"])
        per_node = int(environment.get("SLURM_NTASKS_PER_NODE", ranks // int(environment.get("SLURM_NNODES", "1"))))
        return Joined(rank, ranks, int(environment["SLURM_LOCALID"]), per_node)
    return None


def check_ranks(config: RunConfig) -> None:
    """Refuse what no number of devices can make work. Loads no library. Nodes that launcher=slurm will start are taken
    for started: `plan_ranks` looks again, in the job.

    Raises:
        ConfigError: a strategy with an option that it does not support, or nodes that nobody started.
    """
    trainer, joined = config.trainer, find_joined()
    if joined is None and trainer.num_nodes > 1 and config.launcher.name != "slurm":
        raise _nobody_started(trainer.num_nodes)
    wanted = joined.num_ranks if joined is not None else None
    if wanted is not None and trainer.devices != "auto" and wanted != int(trainer.devices) * trainer.num_nodes:
        raise ConfigError(
            "trainer.devices",
            f"must agree with the {wanted} processes that torchrun or srun started",
            received=f"trainer.devices={trainer.devices}, trainer.num_nodes={trainer.num_nodes}",
            remedy="set trainer=ddp or trainer=fsdp with trainer.devices=auto, or start one process only",
        )
    if trainer.strategy != "fsdp":
        return
    refusals = {
        "lora.quantise": (config.lora.quantise != "none", config.lora.quantise, "a 4-bit base cannot be split",
                          "use trainer=ddp, where every device holds the 4-bit base, or lora=r16"),
        "optim.name": (config.optim.name != "adamw", config.optim.name, "only adamw works on split parameters",
                       "use optim=adamw, or trainer=ddp"),
        "trainer.precision": (trainer.precision == "16-mixed", trainer.precision, "has no gradient scaling",
                              "use bf16-mixed or 32"),
        "trainer.compile": (trainer.compile, trainer.compile, "layers that are split over devices are not compiled",
                            "use trainer=ddp, or trainer.compile=false"),
    }  # fmt: skip
    for key, (refused, received, rule, remedy) in refusals.items():
        if refused:
            raise ConfigError(key, f"with trainer.strategy=fsdp: {rule}", received=received, remedy=remedy)


def _nobody_started(num_nodes: int) -> ConfigError:
    return ConfigError(
        "trainer.num_nodes",
        "above 1 needs the program started on every node",
        received=num_nodes,
        remedy="start it with torchrun --nnodes ... train.py, with srun and one task a device, or as -m launcher=slurm",
    )


def plan_ranks(config: RunConfig) -> Layout:
    """The ranks that fit `config` on this machine, or in the group that this process belongs to.

    Raises:
        ConfigError: more devices than there are, fewer parts of a step than devices, or what `check_ranks` refuses.
    """
    check_ranks(config)
    trainer, joined = config.trainer, find_joined()
    if joined is None and trainer.num_nodes > 1:
        raise _nobody_started(trainer.num_nodes)
    if joined is None and trainer.devices == 1:
        return Layout()
    if joined is not None:
        devices, num_nodes = joined.ranks_per_node, joined.num_ranks // joined.ranks_per_node
    else:
        from tokensieve.trainer import count_devices

        devices, num_nodes = count_devices(trainer.accelerator, trainer.devices), 1
    if devices * num_nodes == 1:
        if trainer.strategy == "fsdp":
            raise ConfigError(
                "trainer.strategy",
                "fsdp splits a model over at least 2 devices",
                received="one visible",
                remedy="use trainer=auto, or make more devices visible",
            )
        return Layout()
    check_share(trainer, devices * num_nodes)
    return Layout("fsdp" if trainer.strategy == "fsdp" else "ddp", devices, num_nodes, joined)
