from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # as `make test` has it: sums of one thread do not depend on the machine
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight Llama with tokenizer and chat template, as save_pretrained writes it."""
    from tiny_checkpoint import save_tiny

    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def background(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts sweeps in processes of their own, in `tmp_path`; ends those that still run."""
    from sweeping import start_background

    started: list[subprocess.Popen[str]] = []

    def start(job: str, *overrides: str) -> subprocess.Popen[str]:
        started.append(start_background(tmp_path, job, *overrides))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


# A shell that starts the tests in the background has Ctrl-C ignored; the tests of it need Python's own handler.
signal.signal(signal.SIGINT, signal.default_int_handler)
