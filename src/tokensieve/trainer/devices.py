"""The device and the precision that a config means on this machine."""

from __future__ import annotations

from typing import Any

import torch

from tokensieve.errors import ConfigError


def pick_device(accelerator: str) -> torch.device:
    """The device that `accelerator` (auto, cpu, gpu) names on this machine.

    Raises:
        ConfigError: gpu asked for and none is usable.
    """
    available = torch.cuda.is_available()
    if accelerator == "gpu" and not available:
        raise ConfigError(
            "trainer.accelerator",
            "gpu needs a CUDA device that torch can use",
            received="none visible",
            remedy="use trainer=cpu, or check CUDA_VISIBLE_DEVICES and the driver",
        )
    return torch.device("cuda" if available and accelerator != "cpu" else "cpu")


def pick_precision(precision: str, device: torch.device) -> Any:
    """`auto` resolved: bf16-mixed on an accelerator that computes in bfloat16, else 32."""
    if precision != "auto":
        return precision
    has_it = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if has_it else "32"


def count_devices(accelerator: str, devices: int | str) -> int:
    """Devices of this machine that `devices` (auto, or a number) means.

    Raises:
        ConfigError: more than there are, or auto on CPU, where a number of processes cannot be guessed.
    """
    device = pick_device(accelerator)
    if device.type == "cpu":
        if devices == "auto":
            raise ConfigError(
                "trainer.devices",
                "auto counts GPUs, and on CPU the number of processes must be given",
                received="auto",
                remedy="set trainer.devices=2, or 1 to fit in one process",
            )
        return int(devices)
    visible = torch.cuda.device_count()
    if devices == "auto":
        return visible
    if int(devices) > visible:
        raise ConfigError(
            "trainer.devices",
            f"must be at most the {visible} visible GPUs",
            received=devices,
            remedy="set trainer.devices=auto, or check CUDA_VISIBLE_DEVICES",
        )
    return int(devices)


def select_device(local_rank: int) -> None:
    """Make the accelerator of this rank the current one, so that nothing is loaded onto another's."""
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
