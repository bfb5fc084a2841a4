"""The endpoint back end against a real server: `transformers serve` of the packaged lab model."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from transformers.utils.import_utils import is_serve_available

from tokensieve import lab
from tokensieve.completions import Decoding
from tokensieve.completions.chat_protocol import EndpointError
from tokensieve.completions.complete import complete
from tokensieve.completions.endpoint import EndpointBackend
from tokensieve.completions.local import LocalBackend
from tokensieve.completions.store import CompletionStore

pytestmark = pytest.mark.skipif(not is_serve_available(), reason="transformers serve needs fastapi, uvicorn and openai")

START_SECONDS = 240
FAMILIES = ("lab_math", "lab_choice", "lab_sql")


class Server(NamedTuple):
    base_url: str
    folder: Path
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served") / "lab"
    shutil.copytree(lab.base_path(), folder)
    # This server samples only where the model's own generation config says so.
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_sample": True}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder.parent / "log.txt"
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_up(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield Server(f"http://127.0.0.1:{port}/v1", folder, process)
    finally:
        process.kill()
        process.wait()


def is_up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def talk() -> list[list[dict[str, str]]]:
    return [
        [{"role": "user", "content": str(row["question"])}]
        for family in FAMILIES
        for row in lab.rows(family, split="test", num=3, seed=0, style="plain")
    ]


def open_endpoint(server: Server, **options: Any) -> EndpointBackend:
    return EndpointBackend(server.base_url, str(server.folder), api_key_variable=None, max_concurrency=2, **options)


def open_local(server: Server) -> LocalBackend:
    def load() -> Any:
        import torch

        from tokensieve.model import load_base, load_tokenizer

        folder = str(server.folder)
        model = load_base(folder, None, dtype="float32", attention="sdpa", device=torch.device("cpu"))
        return model, load_tokenizer(folder, None)

    return LocalBackend(load, {"folder": "lab"}, 8)


@pytest.mark.timeout(400)
def test_greedy_texts_are_those_of_the_local_back_end(server: Server, tmp_path: Path) -> None:
    for decoding in (Decoding(max_new_tokens=32), Decoding(max_new_tokens=32, stop=("\n", "3")), Decoding(max_new_tokens=3)):  # fmt: skip
        with CompletionStore(tmp_path / "c.sqlite") as store:
            local = [own[0] for own in complete(open_local(server), store, talk(), decoding)]
            served = [own[0] for own in complete(open_endpoint(server), store, talk(), decoding)]
        assert [completion.text for completion in served] == [completion.text for completion in local]
        assert [completion.is_complete for completion in served] == [completion.is_complete for completion in local]
        assert len({completion.text for completion in local}) > 4
        assert any(completion.is_complete for completion in local) == (decoding.max_new_tokens > 3)


@pytest.mark.timeout(400)
def test_samples_are_drawn_and_kept(server: Server, tmp_path: Path) -> None:
    decoding = Decoding(max_new_tokens=24, temperature=4.0)  # the model is sure of itself, and the server draws anew
    with CompletionStore(tmp_path / "c.sqlite") as store:
        first = list(complete(open_endpoint(server), store, talk()[:2], decoding, num_samples=4))
        assert len({completion.text for own in first for completion in own}) >= 4
        nothing = open_endpoint(server, max_requests=1)
        assert list(complete(nothing, store, talk()[:2], decoding, num_samples=4)) == first
    assert nothing.budget.num_sent == 0


@pytest.mark.timeout(400)
def test_its_refusals_are_clear(server: Server) -> None:
    request = [(talk()[0], 0)]
    decoding = Decoding(max_new_tokens=4)
    with pytest.raises(EndpointError, match="pinned to"):
        list(EndpointBackend(server.base_url, "other", api_key_variable=None).complete(request, decoding))
    [(_, completion)] = open_endpoint(server, with_logprobs=True).complete(request, decoding)
    assert completion.mean_nll is None  # it gives none
    with pytest.raises(EndpointError, match="base_url ends"):
        list(EndpointBackend(server.base_url[:-3], "m", api_key_variable=None).complete(request, decoding))


@pytest.mark.timeout(400)
def test_a_server_that_dies_leaves_what_it_had_answered(server: Server, tmp_path: Path) -> None:
    """Last: it ends the server."""
    decoding = Decoding(max_new_tokens=24)
    seen: list[int] = []

    def kill_after_three(number: int, completion: object) -> bool:
        seen.append(number)
        if len(seen) == 3:
            server.process.kill()
        return True

    with CompletionStore(tmp_path / "c.sqlite") as store:
        backend = open_endpoint(server, max_attempts=2, first_backoff_seconds=0.01)
        with pytest.raises(EndpointError, match="within 2 attempts"):
            list(complete(backend, store, talk(), decoding, check=kill_after_three))
        assert 3 <= len(store) < len(talk())
        rest = list(complete(open_local(server), store, talk(), decoding))
        assert len(rest) == len(talk())
