"""Which GPUs a job gets. Locks in a folder of this machine keep two sweeps, of whatever user, from taking one twice."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing import reduction
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tokensieve.config import RunConfig
from tokensieve.errors import CacheError, ConfigError
from tokensieve.sweep.devices import VISIBLE

FOLDER = "TOKENSIEVE_SLOTS"
# A job that has a GPU to itself holds all of its shares, one of three jobs a GPU a third of them.
_SHARES = 12
_GUARD_SECONDS = 10.0
_CORES_PER_WORKER = 4


def count_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slot_folder() -> Path:
    """Where the locks of this machine lie: `TOKENSIEVE_SLOTS`, or a folder beside other temporary files."""
    return Path(os.environ.get(FOLDER) or Path(tempfile.gettempdir()) / "tokensieve-slots")


class _Descriptor:
    """A file descriptor on its way into a job's process, which keeps it to its end: the lock then outlives a sweep that
    is killed, until the job that it was taken for is gone too."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _detach, (reduction.DupFd(self._number),)


def _detach(duplicate: Any) -> int:
    return int(duplicate.detach())


@dataclass(slots=True)
class Lease:
    """What one job was given: `gpus` by UUID. `visible`: its CUDA_VISIBLE_DEVICES; None leaves the variable alone."""

    gpus: tuple[str, ...] = ()
    visible: str | None = None
    locks: list[FileLock] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    def descriptors(self) -> list[_Descriptor]:
        """The held locks, for the arguments of the job's process."""
        return [_Descriptor(number) for number in self.numbers]

    def release(self) -> None:
        """Give the GPUs back. The job is over."""
        while self.locks:
            self.locks.pop().release()
        self.numbers.clear()


class Slots:
    """The places of this machine for jobs of one sweep.

    Args:
        gpus: UUIDs of the GPUs to share out; none: jobs run on CPU, and only `workers` bounds them.
        workers: jobs at a time; auto: as many as the GPUs hold, or one for every 4 cores.
        jobs_per_device: jobs that share a GPU.
        folder: of the locks.
    """

    def __init__(
        self, gpus: Sequence[str], *, workers: int | str = 1, jobs_per_device: int = 1, folder: Path | None = None
    ) -> None:
        self._gpus = tuple(gpus)
        self._per_gpu = jobs_per_device
        self._folder = folder or slot_folder()
        self._used: Counter[str] = Counter()
        self._leases: list[Lease] = []  # a lock that nobody refers to lets go
        by_itself = len(gpus) * jobs_per_device if gpus else max(1, count_cores() // _CORES_PER_WORKER)
        self.limit = workers if isinstance(workers, int) else by_itself
        self.is_taken_elsewhere = False

    def num_needed(self, config: RunConfig) -> int:
        """GPUs that a job wants; 0: it runs on CPU."""
        trainer = config.trainer
        if not self._gpus or trainer.accelerator == "cpu":
            return 0
        return len(self._gpus) if trainer.devices == "auto" else int(trainer.devices)

    def check(self, configs: Iterable[RunConfig]) -> None:
        """Raise a ConfigError for a job that would wait for ever."""
        for config in configs:
            if self.num_needed(config) > len(self._gpus):
                raise ConfigError(
                    "trainer.devices",
                    f"must be at most the {len(self._gpus)} visible GPUs",
                    received=config.trainer.devices,
                    remedy=f"set trainer.devices=auto, or check {VISIBLE}",
                )

    def count_at_once(self, configs: Sequence[RunConfig]) -> int:
        """Jobs that can run at a time, as long as no other sweep uses the GPUs."""
        needs = [self.num_needed(config) for config in configs]
        fitting = len(self._gpus) * self._per_gpu // max(1, min(needs, default=0)) if all(needs) else self.limit
        return max(1, min(self.limit, fitting, len(needs) or 1))

    def take(self, config: RunConfig) -> Lease | None:
        """The GPUs that a job wants, all or none; None while too few are free. The least used ones come first.

        `is_taken_elsewhere` then tells whether others than this sweep use them.

        Raises:
            CacheError: the folder of the locks cannot be written.
        """
        needed = self.num_needed(config)
        if needed == 0:
            return Lease(visible="" if self._gpus else None)
        free = [gpu for gpu in sorted(self._gpus, key=lambda gpu: self._used[gpu]) if self._used[gpu] < self._per_gpu]
        self.is_taken_elsewhere = False
        if len(free) < needed:
            return None
        try:
            lease = self._lock(free, needed)
        except OSError as error:
            raise CacheError(
                str(self._folder),
                "must be a folder that every sweep of this machine can write",
                received=error.strerror,
                remedy=f"correct its permissions, or set {FOLDER} to another one",
            ) from error
        if lease is None:
            self.is_taken_elsewhere = True
            return None
        self._used.update(lease.gpus)
        self._leases.append(lease)
        return lease

    def give_back(self, lease: Lease) -> None:
        """End a lease that `take` gave."""
        self._used.subtract(lease.gpus)
        self._leases = [held for held in self._leases if held is not lease]
        lease.release()

    def _lock(self, gpus: Sequence[str], needed: int) -> Lease | None:
        if not self._folder.is_dir():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._folder.chmod(0o777)  # other users' sweeps must see these locks too
        lease, taken = Lease(), list[str]()
        try:
            with FileLock(self._folder / "guard.lock", mode=0o666, timeout=_GUARD_SECONDS):
                for gpu in gpus:
                    if len(taken) < needed and self._lock_shares(gpu, lease):
                        taken.append(gpu)
        except Timeout:
            taken = []
        if len(taken) < needed:
            lease.release()
            return None
        order = [gpu for gpu in self._gpus if gpu in taken]
        lease.gpus, lease.visible = tuple(order), ",".join(order)
        return lease

    def _lock_shares(self, gpu: str, lease: Lease) -> bool:
        """Add the locks of a job's part of `gpu` to `lease`, if so much of it is free."""
        found, numbers = list[FileLock](), list[int]()
        for share in range(_SHARES):
            if len(found) == _SHARES // self._per_gpu:
                break
            path = self._folder / f"{gpu.replace('/', '-')}.{share}.lock"
            lock = FileLock(path, mode=0o666, thread_local=False, on_acquired=numbers.append)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            found.append(lock)
        if len(found) < _SHARES // self._per_gpu:
            for lock in found:
                lock.release()
            return False
        lease.locks += found
        lease.numbers += numbers
        return True


def share_threads(at_once: int) -> int | None:
    """CPU threads of each of `at_once` jobs; None, for one job or where OMP_NUM_THREADS is set: libraries decide."""
    if at_once == 1 or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, count_cores() // at_once)
