from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight Llama with tokenizer and chat template, as save_pretrained writes it."""
    from tiny_checkpoint import save_tiny

    return save_tiny(tmp_path_factory.mktemp("tiny"))


# A shell that starts the tests in the background has Ctrl-C ignored; the tests of it need Python's own handler.
signal.signal(signal.SIGINT, signal.default_int_handler)
