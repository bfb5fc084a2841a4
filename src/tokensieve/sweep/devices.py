"""The GPUs that this process may use, by UUID. Asks the driver's own tool: CUDA, once used, is broken in forks."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Sequence

VISIBLE = "CUDA_VISIBLE_DEVICES"
_LIST_COMMAND = ("nvidia-smi", "-L")
_LIST_SECONDS = 60.0
_GPU = re.compile(r"GPU (\d+): .*\(UUID: (GPU-[^)]+)\)")
_PART = re.compile(r"\s+MIG .*\(UUID: (MIG-[^)]+)\)")


def find_gpus() -> list[str]:
    """UUIDs of the GPUs (of their MIG parts, where they are split) that `CUDA_VISIBLE_DEVICES` leaves to this process.

    Empty where there are none, or where the driver's tool is missing.
    """
    wish = os.environ.get(VISIBLE)
    if wish is not None and not wish.strip():
        return []
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(_LIST_COMMAND, capture_output=True, text=True, timeout=_LIST_SECONDS, check=True)
        return select_visible(read_list(done.stdout), wish)
    return []


def read_list(text: str) -> list[list[str]]:
    """The UUIDs of each GPU in the driver's order: its own, or those of its MIG parts.

    >>> read_list('GPU 0: A (UUID: GPU-a)\\nGPU 1: A (UUID: GPU-b)\\n  MIG 1g Device 0: (UUID: MIG-c)\\n')
    [['GPU-a'], ['MIG-c']]
    """
    found: list[list[str]] = []
    for line in text.splitlines():
        if gpu := _GPU.match(line):
            found.append([gpu[2]])
        elif (part := _PART.match(line)) and found:
            found[-1] = [*(name for name in found[-1] if name.startswith("MIG-")), part[1]]
    return found


def select_visible(installed: Sequence[Sequence[str]], wish: str | None) -> list[str]:
    """Those of `installed` that a value of `CUDA_VISIBLE_DEVICES` names, in its order, read as CUDA reads it.

    A number (in the driver's order) or the beginning of a UUID each; what follows an unknown one is not visible; with
    one named twice, none is. None: all of them.

    >>> select_visible([["GPU-aa"], ["GPU-ab"]], "1,GPU-aa"), select_visible([["GPU-aa"], ["GPU-ab"]], "0,7,1")
    (['GPU-ab', 'GPU-aa'], ['GPU-aa'])
    """
    every = [name for names in installed for name in names]
    if wish is None:
        return every
    chosen: list[str] = []
    for entry in map(str.strip, wish.split(",")):
        if re.fullmatch(r"\d+", entry):
            named = list(installed[int(entry)][:1]) if int(entry) < len(installed) else []
        else:
            named = [name for name in every if entry.startswith(("GPU-", "MIG-")) and name.startswith(entry)]
        if len(named) != 1:
            break
        chosen += named
    return chosen if len(set(chosen)) == len(chosen) else []
