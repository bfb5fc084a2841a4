"""Which GPUs jobs get: faked lists of devices, real locks between real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from tokensieve.config import RunConfig, SweepConfig, TrainerConfig
from tokensieve.errors import CacheError, ConfigError
from tokensieve.sweep import slots as slots_module
from tokensieve.sweep.devices import find_gpus, read_list, select_visible
from tokensieve.sweep.slots import Lease, Slots, share_threads

TWO = [["GPU-aa"], ["GPU-ab"]]
SPLIT = [["MIG-1", "MIG-2"], ["GPU-b"]]


def config(devices: int | str = 1, accelerator: str = "auto") -> RunConfig:
    return RunConfig(trainer=TrainerConfig(devices=devices, accelerator=accelerator, micro_batch_size=1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("installed", "wish", "visible"),
    [
        (TWO, None, ["GPU-aa", "GPU-ab"]),
        (TWO, "1,0", ["GPU-ab", "GPU-aa"]),
        (TWO, " 1 ", ["GPU-ab"]),
        (TWO, "GPU-ab", ["GPU-ab"]),
        (TWO, "GPU-a", []),  # the beginning of two
        (TWO, "0,GPU-x,1", ["GPU-aa"]),
        (TWO, "-1", []),
        (TWO, "0,0", []),
        (TWO, "1,GPU-ab", []),
        (TWO, "NoDevFiles", []),
        (SPLIT, None, ["MIG-1", "MIG-2", "GPU-b"]),
        (SPLIT, "MIG-2,1", ["MIG-2", "GPU-b"]),
        (SPLIT, "0", ["MIG-1"]),
        ([], None, []),
    ],
)
def test_visible_devices_are_read_as_cuda_reads_them(
    installed: Sequence[Sequence[str]], wish: str | None, visible: list[str]
) -> None:
    assert select_visible(installed, wish) == visible


def test_list_of_the_driver() -> None:
    text = "GPU 0: NVIDIA H200 (UUID: GPU-1)\n  MIG 1g.18gb  Device 0: (UUID: MIG-a)\n  MIG 2g (UUID: MIG-b)\nGPU 1: X (Y) (UUID: GPU-2)\n"
    assert read_list(text) == [["MIG-a", "MIG-b"], ["GPU-2"]]
    assert read_list("No devices were found\n") == []


def fake_driver(folder: Path, *uuids: str) -> None:
    """An nvidia-smi that lists `uuids`."""
    folder.mkdir(exist_ok=True)
    lines = "".join(f"GPU {at}: Fake (UUID: {uuid})\n" for at, uuid in enumerate(uuids))
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<EOF\n{lines}EOF\n")
    (folder / "nvidia-smi").chmod(0o755)


def test_gpus_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_driver(tmp_path, "GPU-a", "GPU-b")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert find_gpus() == ["GPU-a", "GPU-b"]
    for wish, expected in (("1", ["GPU-b"]), ("", []), (" ", []), ("GPU-b", ["GPU-b"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", wish)
        assert find_gpus() == expected
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho driver mismatch; exit 18\n")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert find_gpus() == []
    (tmp_path / "nvidia-smi").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_gpus() == []


@pytest.fixture
def sweep(tmp_path: Path) -> Callable[..., Slots]:
    """Slots of one more sweep on a machine with two GPUs."""

    def begin(*gpus: str, workers: int | str = "auto", shares: int = 1) -> Slots:
        return Slots(gpus or ("A", "B"), workers=workers, jobs_per_device=shares, folder=tmp_path / "locks")

    return begin


def given(lease: Lease | None) -> str | None:
    return lease.visible if lease is not None else None


def test_each_job_gets_devices_of_its_own(sweep: Callable[..., Slots]) -> None:
    slots = sweep()
    assert slots.limit == 2
    first, second = slots.take(config()), slots.take(config())
    assert {given(first), given(second)} == {"A", "B"}
    assert slots.take(config()) is None
    assert not slots.is_taken_elsewhere  # by this sweep's own jobs
    assert first is not None
    slots.give_back(first)
    assert given(slots.take(config())) == "A"


def test_a_job_of_two_devices_gets_both_or_none(sweep: Callable[..., Slots]) -> None:
    slots = sweep()
    lease = slots.take(config(1))
    assert slots.take(config(2)) is None
    assert lease is not None
    slots.give_back(lease)
    both = slots.take(config(2))
    assert given(both) == "A,B"
    assert both is not None
    slots.give_back(both)
    assert given(slots.take(config("auto"))) == "A,B"


def test_jobs_without_a_gpu(sweep: Callable[..., Slots], tmp_path: Path) -> None:
    assert given(sweep().take(config(accelerator="cpu"))) == ""  # it must not touch one
    alone = Slots((), workers="auto", folder=tmp_path / "none")
    assert alone.take(config(4)) == Lease()
    assert alone.limit == max(1, slots_module.count_cores() // 4)
    assert not (tmp_path / "none").exists()


def test_several_jobs_share_a_gpu_on_request(sweep: Callable[..., Slots]) -> None:
    slots = sweep(shares=2)
    assert [given(slots.take(config())) for _ in range(5)] == ["A", "B", "A", "B", None]


def test_two_sweeps_never_take_one_gpu_twice(sweep: Callable[..., Slots]) -> None:
    one, other = sweep(), sweep()
    assert given(one.take(config())) == "A"
    lease = other.take(config())
    assert given(lease) == "B"
    assert one.take(config()) is None
    assert one.is_taken_elsewhere
    assert other.take(config(2)) is None
    assert lease is not None
    other.give_back(lease)
    assert given(one.take(config())) == "B"


def test_sweeps_that_share_differently_fit_into_one_gpu(sweep: Callable[..., Slots]) -> None:
    halves, thirds, wholes = sweep("A", shares=2), sweep("A", shares=3), sweep("A")
    assert given(halves.take(config())) == "A"
    assert given(thirds.take(config())) == "A"  # 6 and 4 of 12
    assert thirds.take(config()) is None
    assert thirds.is_taken_elsewhere
    assert wholes.take(config()) is None
    assert halves.take(config()) is None


@pytest.mark.parametrize(
    ("gpus", "workers", "shares", "devices", "jobs", "expected"),
    [(8, "auto", 1, 1, 99, 8), (8, "auto", 1, 4, 99, 2), (8, 3, 1, 1, 99, 3), (8, "auto", 2, 1, 99, 16),
     (8, "auto", 1, 1, 3, 3), (8, "auto", 1, "auto", 9, 1), (1, 2, 1, 1, 9, 1), (0, 5, 1, 1, 9, 5)],
)  # fmt: skip
def test_jobs_at_a_time(
    gpus: int, workers: int | str, shares: int, devices: int | str, jobs: int, expected: int, tmp_path: Path
) -> None:
    slots = Slots([f"G{at}" for at in range(gpus)], workers=workers, jobs_per_device=shares, folder=tmp_path)
    assert slots.count_at_once([config(devices)] * jobs) == expected


def test_more_devices_than_there_are_are_refused_before_the_start(sweep: Callable[..., Slots]) -> None:
    sweep().check([config(2), config("auto"), config(accelerator="cpu", devices=4)])
    with pytest.raises(ConfigError, match=r"trainer\.devices: must be at most the 2 visible GPUs; received 3"):
        sweep().check([config(1), config(3)])


def test_unwritable_locks_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match=r"TOKENSIEVE_SLOTS"):
        Slots(["A"], folder=tmp_path / "file" / "locks").take(config())


def test_threads_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(slots_module, "count_cores", lambda: 10)
    assert [share_threads(jobs) for jobs in (1, 3, 10, 40)] == [None, 3, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert share_threads(3) is None


@pytest.mark.parametrize("value", [0, "some", 1.5])
def test_workers_are_a_number_or_auto(value: object) -> None:
    with pytest.raises(ConfigError, match=r"sweep\.workers"):
        SweepConfig(workers=value)  # type: ignore[arg-type]


# A sweep in a process of its own: it takes the GPU `A`, says so, and sleeps, with a job of its own if it is asked to.
HOLDER = """
import sys, time
from pathlib import Path
from tokensieve.config import RunConfig
from tokensieve.sweep.fork_server import Spawner
from tokensieve.sweep.slots import Slots

def sleep(descriptors):
    time.sleep(600)

if __name__ == "__main__":
    slots = Slots(["A"], folder=Path(sys.argv[1]))
    while (lease := slots.take(RunConfig())) is None:
        time.sleep(0.01)
    job = Spawner.start(sleep, [lease.descriptors()], "job") if sys.argv[2:] else None
    print(job.pid if job else 0, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Callable[..., tuple[subprocess.Popen[str], int]]:
    (tmp_path / "holder.py").write_text(HOLDER)

    def start(*arguments: str) -> tuple[subprocess.Popen[str], int]:
        command = [sys.executable, str(tmp_path / "holder.py"), str(tmp_path / "locks"), *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    return start


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_killed_sweep_lets_its_gpu_go(
    holder: Callable[..., tuple[subprocess.Popen[str], int]], sweep: Callable[..., Slots]
) -> None:
    process, _ = holder()
    slots = sweep("A")
    assert slots.take(config()) is None
    assert slots.is_taken_elsewhere
    kill(process)
    assert given(slots.take(config())) == "A"


def test_a_killed_sweep_holds_its_gpu_until_its_job_is_gone(
    holder: Callable[..., tuple[subprocess.Popen[str], int]], sweep: Callable[..., Slots]
) -> None:
    process, job = holder("with a job")
    kill(process)
    slots = sweep("A")
    assert psutil.pid_exists(job)
    assert slots.take(config()) is None
    os.kill(job, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while (lease := slots.take(config())) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert given(lease) == "A"


RACER = """
import sys, time
from pathlib import Path
from tokensieve.config import RunConfig, TrainerConfig
from tokensieve.sweep.slots import Slots

slots = Slots(["A", "B", "C"], folder=Path(sys.argv[1]))
for round in range(30):
    devices = 1 + (round + int(sys.argv[2])) % 3
    config = RunConfig(trainer=TrainerConfig(devices=devices, micro_batch_size=1))
    while (lease := slots.take(config)) is None:
        time.sleep(0.001)
    for gpu in lease.gpus:
        (Path(sys.argv[1]) / f"used-{gpu}").mkdir()  # fails where another has it
        (Path(sys.argv[1]) / f"used-{gpu}").rmdir()
    slots.give_back(lease)
print("done")
"""


def test_two_processes_that_compete_never_hold_the_same(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, str(tmp_path / "locks"), str(at)], stdout=subprocess.PIPE)
        for at in range(2)
    ]
    assert [racer.communicate(timeout=120)[0] for racer in racers] == [b"done\n", b"done\n"]
