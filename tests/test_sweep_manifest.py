"""sweep.json: whole or not at all, and refused when damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tokensieve.config import RunConfig, to_plain
from tokensieve.errors import SweepError
from tokensieve.sweep.folder import claim_existing, claim_new
from tokensieve.sweep.ledger import Ledger
from tokensieve.sweep.manifest import JobEntry, Manifest, latest_sweep, read_manifest
from tokensieve.sweep.resume import require_same_base, revise


def make(created: str = "2026-01-01T00:00:00+00:00") -> Manifest:
    jobs = [
        JobEntry("a" * 64, "one", ["stm.threshold=1"], "jobs/aaaaaaaa", objective=0.5, state="FINISHED"),
        JobEntry("b" * 64, "two", ["stm.threshold=1.0"], "jobs/aaaaaaaa", same_as="a" * 64, state="SKIPPED"),
    ]
    overrides = [["stm.threshold=1", "seed=3"], ["stm.threshold=1.0", "seed=3"]]
    return Manifest(created, "name", overrides, {"stm.threshold": ["1", "1.0"]}, {"seed": 3}, "python", jobs)


def test_round_trip(tmp_path: Path) -> None:
    make().save(tmp_path)
    assert read_manifest(tmp_path) == make()


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make().save(tmp_path)

    def crash(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    changed = make()
    changed.jobs[0].state = "FAILED"
    with pytest.raises(KeyboardInterrupt):
        changed.save(tmp_path)
    assert read_manifest(tmp_path) == make()


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SweepError, match="No space left"):
        make().save(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", json.dumps({"jobs": [{}]}), '{"jobs": 3}', "null"],
    ids=["empty", "cut", "list", "no keys", "bad job", "bad jobs", "null"],
)
def test_damage_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(SweepError, match="is damaged"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("change", [{"state": "DONE"}, {"same_as": "c"}, {"dir": "/etc"}, {"dir": "../x"}])
def test_entries_that_make_no_sense_are_damage(tmp_path: Path, change: dict[str, str]) -> None:
    make().save(tmp_path)
    values = json.loads((tmp_path / "sweep.json").read_text())
    values["jobs"][1].update(change)
    (tmp_path / "sweep.json").write_text(json.dumps(values))
    with pytest.raises(SweepError, match="is damaged"):
        read_manifest(tmp_path)


def test_no_sweep_at_all(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"holds no sweep\.json"):
        read_manifest(tmp_path)
    with pytest.raises(SweepError, match="latest"):
        read_manifest(tmp_path / "none")
    with pytest.raises(SweepError, match=rf"^{tmp_path}: no sweep lies in this folder.*python train.py -m"):
        latest_sweep(tmp_path)


def test_latest_is_the_newest_also_when_it_is_damaged(tmp_path: Path) -> None:
    for name, created in (("x", "2025-01-01T00:00:00+00:00"), ("a", "2026-01-01T00:00:00+00:00")):
        (tmp_path / name).mkdir()
        make(created).save(tmp_path / name)
    assert latest_sweep(tmp_path).name == "a"
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "sweep.json").write_text("{")
    os.utime(tmp_path / "m" / "sweep.json", (4e9, 4e9))
    assert latest_sweep(tmp_path).name == "m"


def test_two_sweeps_of_one_second_get_two_folders(tmp_path: Path) -> None:
    first, lock = claim_new(tmp_path / "s", may_rename=True)
    second, other = claim_new(tmp_path / "s", may_rename=True)
    assert (first.name, second.name) == ("s", "s-2")
    lock.release()
    other.release()


def test_a_folder_that_the_user_named_is_not_overwritten(tmp_path: Path) -> None:
    make().save(tmp_path)
    with pytest.raises(SweepError, match="holds a sweep already"):
        claim_new(tmp_path, may_rename=False)
    claim_existing(tmp_path).release()  # the refusal left no lock


def test_a_running_sweep_is_not_resumed(tmp_path: Path) -> None:
    make().save(tmp_path)
    lock = claim_existing(tmp_path)
    with pytest.raises(SweepError, match="another process"):
        claim_existing(tmp_path)
    lock.release()


def test_a_refused_resume_releases_the_folder(tmp_path: Path) -> None:
    make().save(tmp_path)
    seen = make()
    seen.overrides.pop()
    with pytest.raises(SweepError, match="changed by another process"):
        Ledger.reopen(tmp_path, seen)
    Ledger.reopen(tmp_path, make()).close()


def test_resume_takes_the_stored_jobs_under_new_execution_keys() -> None:
    revision = revise(make(), [["sweep.resume=latest", "sweep.workers=2"]], follows_file=False, command="")
    assert revision.batch == make().overrides
    assert revision.describe() == []
    assert [revision.under_new_execution(entry.overrides) for entry in revision.kept] == [
        ["stm.threshold=1", "sweep.workers=2"],
        ["stm.threshold=1.0", "sweep.workers=2"],
    ]


def test_resume_takes_the_same_overrides_in_any_order() -> None:
    given = [["sweep.resume=x", "seed=3", "stm.threshold=1.0"], ["sweep.resume=x", "seed=3", "stm.threshold=1"]]
    revision = revise(make(), given, follows_file=False, command="")
    assert (revision.batch, revision.describe()) == (make().overrides, [])


@pytest.mark.parametrize("given", [["seed=3"], ["stm.threshold=1", "seed=4"], ["sweep.controls=[low]"]])
@pytest.mark.parametrize("follows_file", [False, True])
def test_resume_refuses_another_sweep(given: list[str], follows_file: bool) -> None:
    with pytest.raises(SweepError, match=r"other overrides.*now missing.*Remedy: run python x"):
        revise(make(), [["sweep.resume=x", *given]], follows_file=follows_file, command="python x")


def test_a_changed_base_is_shown() -> None:
    with pytest.raises(SweepError, match=r"lora\.rank: \(absent\) -> 8; seed: 3 -> 4"):
        require_same_base(make(), {"seed": 4, "lora": {"rank": 8}})


def test_keys_that_the_program_gained_are_no_change_at_their_defaults() -> None:
    require_same_base(make(), {"seed": 3, "weight": to_plain(RunConfig())["weight"]})
    with pytest.raises(SweepError, match=r"weight\.rule: \(absent\) -> dft"):
        require_same_base(make(), {"seed": 3, "weight": {"rule": "dft"}})
