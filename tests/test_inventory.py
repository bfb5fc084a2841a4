"""The cache as a user sees it: what is in it, what belongs to which run, and what may go."""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.synchronize
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tokensieve.cli import main
from tokensieve.errors import DataError
from tokensieve.inventory import list_entries, prune, read_references
from tokensieve.records import Stamp
from tokensieve.store import MANIFEST, Artefact, Store

DAY = 86400.0


def stamp(stage: str, **inputs: object) -> Stamp:
    return Stamp(stage, inputs)


DATA = stamp("dataset", path="a.jsonl")
SCORES = stamp("score", tokens=DATA.digest)
FIT = stamp("fit", scores=[None, {"of": SCORES.digest}])
LONELY = stamp("fit", seed=9)


def write(folder: Path) -> None:
    (folder / "data.bin").write_bytes(b"x" * 1000)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Four entries, of which a run of a sweep leads to three."""
    store = Store(tmp_path / "cache")
    for entry in (DATA, SCORES, FIT, LONELY):
        store.get_or_build(entry, write)
    run = tmp_path / "sweeps" / "s" / "jobs" / "a"
    run.mkdir(parents=True)
    (run / "status.json").write_text(json.dumps({"status": "KILLED", "artefacts": {"fit": f"fit/{FIT.digest}"}}))
    return tmp_path


def left(outputs: Path) -> set[str]:
    return {entry.digest for entry in list_entries(outputs)}


def test_entries_have_kind_size_and_inputs(outputs: Path) -> None:
    (outputs / "cache" / "completions.db").write_bytes(b"x" * 10)
    entries = {entry.digest: entry for entry in list_entries(outputs)}
    assert [entry.kind for entry in list_entries(outputs)] == ["completions", "dataset", "fit", "fit", "score"]
    assert entries[FIT.digest].inputs == {SCORES.digest}
    assert entries[FIT.digest].num_bytes == 1000 + (outputs / "cache/fit" / FIT.digest / MANIFEST).stat().st_size
    assert entries[FIT.digest].state == "complete"
    assert entries[""].state == "kept"


def test_a_run_refers_to_what_its_artefacts_were_made_from(outputs: Path) -> None:
    references = read_references(outputs)
    assert set(references) == {FIT.digest, SCORES.digest, DATA.digest}
    finished = outputs / "runs" / "r"
    finished.mkdir(parents=True)
    (finished / "status.json").write_text("{")  # half of one
    (finished / "result.json").write_text(json.dumps({"stamps": {"score": SCORES.digest}}))
    assert {path.name for path in read_references(outputs)[DATA.digest]} == {"a", "r"}


def test_unreferenced_entries_go_and_others_stay(outputs: Path) -> None:
    done = prune(outputs, unreferenced=True)
    assert [entry.digest for entry in done.removed] == [LONELY.digest]
    assert left(outputs) == {DATA.digest, SCORES.digest, FIT.digest}
    assert prune(outputs, unreferenced=True).removed == []


def test_criteria_must_all_hold(outputs: Path) -> None:
    for entry in (FIT, DATA):
        manifest = outputs / "cache" / entry.stage / entry.digest / MANIFEST
        os.utime(manifest, (time.time() - 10 * DAY,) * 2)
    assert prune(outputs, idle_seconds=5 * DAY, unreferenced=True).removed == []
    assert [e.digest for e in prune(outputs, idle_seconds=5 * DAY, kinds=["fit"], dry_run=True).removed] == [FIT.digest]
    assert len(left(outputs)) == 4
    assert {e.digest for e in prune(outputs, idle_seconds=5 * DAY).removed} == {FIT.digest, DATA.digest}
    assert Store(outputs / "cache").get_or_build(FIT, write).is_dir()


def test_a_clock_that_went_back_makes_nothing_old(outputs: Path) -> None:
    for manifest in (outputs / "cache").glob(f"*/*/{MANIFEST}"):
        os.utime(manifest, (time.time() + 400 * DAY,) * 2)
    assert prune(outputs, idle_seconds=DAY).removed == []
    assert {entry.idle_seconds for entry in list_entries(outputs)} == {0.0}


def test_what_a_job_reads_is_left_alone_until_it_lets_go(outputs: Path) -> None:
    artefact = Artefact(FIT, Store(outputs / "cache"), write, lambda folder: folder)
    artefact.get()
    done = prune(outputs, kinds=["fit"])
    assert [entry.digest for entry in done.in_use] == [FIT.digest]
    assert [entry.digest for entry in done.removed] == [LONELY.digest]
    assert [e.digest for e in prune(outputs, kinds=["fit"], dry_run=True).in_use] == [FIT.digest]
    del artefact
    assert [entry.digest for entry in prune(outputs, kinds=["fit"]).removed] == [FIT.digest]


def _hold(root: Path, ready: multiprocessing.synchronize.Event) -> None:
    lease = Store(root).hold_or_build(FIT, write)[1]
    ready.set()
    time.sleep(120)
    del lease


@pytest.fixture
def holder(outputs: Path) -> Iterator[multiprocessing.Process]:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(outputs / "cache", ready))
    process.start()
    assert ready.wait(60)
    yield process  # type: ignore[misc]
    process.kill()
    process.join()


def test_what_another_process_reads_is_left_alone_until_it_dies(outputs: Path, holder: multiprocessing.Process) -> None:
    assert [entry.digest for entry in prune(outputs, kinds=["fit"]).in_use] == [FIT.digest]
    holder.kill()
    holder.join()
    assert [entry.digest for entry in prune(outputs, kinds=["fit"]).removed] == [FIT.digest]


def test_what_is_built_at_this_moment_is_left_alone(outputs: Path) -> None:
    new = stamp("fit", seed=10)
    aside = outputs / "cache" / "fit" / f"{new.digest}.partial"
    aside.mkdir()
    with FileLock(aside.with_name(f"{new.digest}.lock")):
        assert new.digest in {entry.digest for entry in prune(outputs, unreferenced=True).in_use}
        assert aside.is_dir()
    done = prune(outputs, unreferenced=True)  # its builder is gone: a leftover
    assert [entry.state for entry in done.removed] == ["leftover"]
    assert not aside.exists()


def test_a_damaged_entry_goes_with_the_unreferenced(outputs: Path) -> None:
    (outputs / "cache" / "fit" / FIT.digest / MANIFEST).write_text("{")
    assert FIT.digest in {entry.digest for entry in prune(outputs, unreferenced=True).removed}


def test_a_removal_that_was_killed_leaves_no_entry(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(path: Path, **options: object) -> None:
        if not options:
            raise KeyboardInterrupt

    monkeypatch.setattr("tokensieve.inventory.shutil.rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        prune(outputs, kinds=["score"])
    monkeypatch.undo()
    assert not Store(outputs / "cache").is_complete(SCORES)
    assert [entry.state for entry in list_entries(outputs) if entry.kind == "score"] == ["leftover"]
    prune(outputs, kinds=["score"])
    assert not [entry for entry in list_entries(outputs) if entry.kind == "score"]


def test_no_cache_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--output-dir"):
        list_entries(tmp_path)


def test_the_verbs(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--output-dir", str(outputs)]
    assert main(["cache", "list", *where]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 4
    [line] = [line for line in lines if FIT.digest[:12] in line]
    assert [cell.strip() for cell in line.split("|")][4:] == ["1", "complete"]
    assert main(["cache", "size", *where]) == 0
    assert "total" in capsys.readouterr().out
    assert main(["cache", "prune", *where]) == 1
    assert "--unreferenced" in capsys.readouterr().err
    assert main(["cache", "prune", "--unreferenced", "--dry-run", *where]) == 0
    assert f"would remove fit/{LONELY.digest[:12]}" in capsys.readouterr().out
    assert main(["cache", "prune", "--unreferenced", "--older-than", "0d", *where]) == 0
    assert "removed 1 entries" in capsys.readouterr().out
    for age in ("3", "3y", "d", "nand"):
        with pytest.raises(SystemExit):
            main(["cache", "prune", f"--older-than={age}", *where])
        assert "age" in capsys.readouterr().err
