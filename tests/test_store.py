from __future__ import annotations

import json
import multiprocessing
import os
import resource
import subprocess
import sys
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


def test_an_entry_that_is_held_notes_its_use(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder, lease = store.hold_or_build(STAMP, write_hello)
    os.utime(folder / MANIFEST, (1, 1))
    del lease
    store.hold_or_build(STAMP, write_hello)
    assert (folder / MANIFEST).stat().st_mtime > 1


def _fill_file(folder: Path) -> None:
    with (folder / "large.bin").open("wb") as stream:
        for _ in range(64):
            stream.write(b"x" * 4096)


def _build_under_a_limit(root: Path, results: multiprocessing.Queue[str]) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
    try:
        Store(root).get_or_build(STAMP, _fill_file)
    except CacheError as error:
        results.put(str(error))
    else:
        results.put("no error")


def test_a_file_that_may_not_grow_is_a_cache_error_and_leaves_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[str] = context.Queue()
    process = context.Process(target=_build_under_a_limit, args=(tmp_path, results))
    process.start()
    message = results.get(timeout=60)
    process.join()
    assert "File too large" in message
    assert "free space" in message
    assert not Store(tmp_path).is_complete(STAMP)
    assert not list(tmp_path.rglob("*.bin"))
    assert (Store(tmp_path).get_or_build(STAMP, _fill_file) / "large.bin").stat().st_size == 64 * 4096


@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file data/1"),
        ValueError("I/O error: No space left on device (os error 28)"),
        OSError(122, "Disk quota exceeded"),
    ],
    ids=["torch", "safetensors", "quota"],
)
def test_a_full_disk_in_a_library_s_words_is_a_cache_error(tmp_path: Path, fault: Exception) -> None:
    def build(folder: Path) -> None:
        try:
            raise fault
        except Exception as error:
            raise RuntimeError("a library failed") from error

    with pytest.raises(CacheError, match="the cache must be writable"):
        Store(tmp_path).get_or_build(STAMP, build)


def test_a_file_elsewhere_that_cannot_be_read_is_no_fault_of_the_cache(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", "/somewhere/data.jsonl")

    with pytest.raises(PermissionError):
        Store(tmp_path / "cache").get_or_build(STAMP, build)


def test_a_disk_that_fills_while_the_manifest_is_written_leaves_no_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", _no_space)
    with pytest.raises(CacheError, match="No space left"):
        Store(tmp_path).get_or_build(STAMP, write_hello)
    monkeypatch.undo()
    assert not Store(tmp_path).is_complete(STAMP)
    assert (Store(tmp_path).get_or_build(STAMP, write_hello) / "hello.txt").read_text() == "hello"


def _no_space(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A cache with one entry, of which the system says that this user may write nothing there."""
    store = Store(tmp_path / "cache")
    store.get_or_build(STAMP, write_hello)
    may_access, make, touch = os.access, os.mkdir, os.utime

    def below(path: object) -> bool:
        return isinstance(path, (str, os.PathLike)) and Path(path).is_relative_to(store.root)

    def refuse(path: object, *arguments: object, **options: object) -> None:
        if below(path) or isinstance(path, int):
            raise OSError(30, "Read-only file system")
        make(path, *arguments, **options)  # type: ignore[arg-type]

    def refuse_touch(path: object, *arguments: object, **options: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "access", lambda path, mode: not below(path) and may_access(path, mode))
    monkeypatch.setattr(os, "mkdir", refuse)
    monkeypatch.setattr(os, "utime", refuse_touch)
    assert touch is not os.utime
    return store


def test_a_read_only_cache_is_read_and_what_it_lacks_is_built_beside_it(
    read_only: Store, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(folder: Path) -> None:
        raise AssertionError("is in the cache already")

    assert read_only.get_or_build(STAMP, refuse) == read_only.folder(STAMP)
    assert not read_only.own.exists()
    other = Stamp("tokens", {"corpus": "other"})
    folder = read_only.get_or_build(other, write_hello)
    assert folder.is_relative_to(read_only.own)
    assert read_only.folder(other) == folder
    assert read_only.is_complete(other)
    assert f"{read_only.root} is read-only" in caplog.text
    assert read_only.get_or_build(other, refuse) == folder
    assert read_only.writable_root == read_only.own


def test_a_damaged_entry_of_a_read_only_cache_is_built_beside_it(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    read_only: Store = request.getfixturevalue("read_only")
    (read_only.root / STAMP.stage / STAMP.digest / "hello.txt").write_text("hellO")
    folder = read_only.get_or_build(STAMP, write_hello)
    assert folder.is_relative_to(read_only.own)
    assert (folder / "hello.txt").read_text() == "hello"


def test_artefacts_of_a_read_only_file_system(tmp_path: Path) -> None:
    """The kernel's own refusal, where this user may mount."""
    store = Store(tmp_path / "cache")
    store.get_or_build(STAMP, write_hello)
    program = (
        "import sys; from pathlib import Path\n"
        "from tokensieve.records import Stamp\n"
        "from tokensieve.store import Store\n"
        "store = Store(Path(sys.argv[1]))\n"
        "build = lambda folder: (folder / 'hello.txt').write_text('hello')\n"
        "print(store.get_or_build(Stamp('tokens', {'corpus': 'abc', 'version': 1}), None).parents[1].name)\n"
        "print(store.get_or_build(Stamp('tokens', {}), build).parents[1].name)\n"
    )
    mount = 'mount --bind -o ro "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$2" -c "$3" "$1"'
    command = [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        mount,
        "sh",
        str(store.root),
        sys.executable,
        program,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no unshare")
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip("this user may not mount")
    assert done.stdout.split() == ["cache", "cache.own"], done.stderr
