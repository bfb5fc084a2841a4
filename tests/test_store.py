from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from tokensieve.errors import CacheError
from tokensieve.records import Stamp
from tokensieve.store import MANIFEST, Artefact, Store

STAMP = Stamp("tokens", {"corpus": "abc", "version": 1})


def write_hello(folder: Path) -> None:
    (folder / "hello.txt").write_text("hello")


def test_entry_is_built_once_and_has_a_manifest(tmp_path: Path) -> None:
    store, calls = Store(tmp_path), []

    def build(folder: Path) -> None:
        calls.append(1)
        write_hello(folder)

    first = store.get_or_build(STAMP, build)
    assert store.get_or_build(STAMP, build) == first
    assert calls == [1]
    manifest = json.loads((first / MANIFEST).read_text())
    assert manifest["inputs"] == dict(STAMP.inputs)
    assert manifest["files"]["hello.txt"]["bytes"] == 5


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "manifest"])
def test_damaged_entry_is_detected_and_built_again(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    folder = store.get_or_build(STAMP, write_hello)
    file = folder / "hello.txt"
    if damage == "truncate":
        file.write_text("hell")
    elif damage == "flip":
        file.write_text("hellO")
    elif damage == "delete":
        file.unlink()
    else:
        (folder / MANIFEST).write_text("{")
    assert (store.get_or_build(STAMP, write_hello) / "hello.txt").read_text() == "hello"


def test_failed_build_leaves_no_entry(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail(folder: Path) -> None:
        write_hello(folder)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        store.get_or_build(STAMP, fail)
    assert not store.is_complete(STAMP)
    assert [path.suffix for path in (tmp_path / "tokens").iterdir()] in ([], [".lock"])


def test_killed_build_is_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path)
    leftover = store.folder(STAMP).with_name(f"{STAMP.digest}.partial")
    leftover.mkdir(parents=True)
    (leftover / "half.bin").write_bytes(b"x")
    folder = store.get_or_build(STAMP, write_hello)
    assert sorted(path.name for path in folder.iterdir()) == ["hello.txt", MANIFEST]


def _count_build(folder: Path) -> None:
    time.sleep(0.2)
    (folder / "pid.txt").write_text(str(os.getpid()))


def _open(root: Path, results: multiprocessing.Queue[str]) -> None:
    results.put((Store(root).get_or_build(STAMP, _count_build) / "pid.txt").read_text())


def test_two_processes_build_one_entry(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[str] = context.Queue()
    processes = [context.Process(target=_open, args=(tmp_path, results)) for _ in range(2)]
    for process in processes:
        process.start()
    builders = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(builders) == 1


def test_cache_that_cannot_be_written_names_the_folder_and_a_remedy(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(CacheError, match="output_dir"):
        Store(blocked).get_or_build(STAMP, write_hello)


def test_disk_full_is_a_cache_error(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(CacheError, match="free space"):
        Store(tmp_path).get_or_build(STAMP, fill)


def test_artefact_is_lazy(tmp_path: Path) -> None:
    artefact = Artefact(STAMP, Store(tmp_path), write_hello, lambda folder: (folder / "hello.txt").read_text())
    assert not artefact.is_cached
    assert artefact.get() == "hello"
    assert artefact.built_here
    again = Artefact(STAMP, Store(tmp_path), write_hello, lambda folder: (folder / "hello.txt").read_text())
    assert again.is_cached
    assert again.get() == "hello"
    assert not again.built_here
