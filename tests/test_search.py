"""Searches over jobs that take milliseconds: samplers, seeds, kills, failures, pruning, several objectives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fake_trials
import pytest
import sweep_program
from sweeping import PATH, arguments, sweep_here

from tokensieve.config import RunConfig
from tokensieve.sweep import session
from tokensieve.sweep.events import Ended
from tokensieve.sweep.execution import JobRecorder
from tokensieve.sweep.job import JobSpec, Outcome

Search = Callable[..., int]
PROGRAM = Path(sweep_program.__file__)
LR = "optim.lr=tag(log, interval(1e-3, 1e-1))"


class InThisProcess:
    """Jobs one after another in the test's own process, where starting a fork server for each search took longest."""

    def __init__(self, body: Callable[[JobSpec], Outcome]) -> None:
        self._body = body

    def check(self, configs: Sequence[RunConfig]) -> None:
        """Every job can start."""

    def describe(self, configs: Sequence[RunConfig]) -> str:
        return "one at a time"

    def start(self, folder: Path) -> None:
        """Nothing takes time."""

    def run(self, specs: Sequence[JobSpec], recorder: JobRecorder, may_go_on: Callable[[], bool]) -> None:
        for spec in specs:
            spec.folder.mkdir(parents=True, exist_ok=True)
            recorder.started(spec)
            try:
                outcome = self._body(spec)
            except Exception as error:
                outcome = Outcome(error=f"{type(error).__name__}: {error}", error_type=type(error).__name__)
            recorder.ended(Ended(spec, outcome, 0.0))

    def close(self) -> None:
        """Nothing was opened."""


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Search:
    """Run a search in this process, in an empty working directory; its exit code."""
    sweep = sweep_here(monkeypatch, tmp_path, module="fake_trials")

    def run(job: str, *overrides: str) -> int:
        body = getattr(fake_trials, job)
        monkeypatch.setattr(session, "plan_execution", lambda *given, **options: InThisProcess(body))
        return sweep(job, *overrides)

    return run


def record(number: int = -1, name: str = "search.json") -> dict[str, Any]:
    """search.json (or sweep.json) of a sweep in the order of their start."""
    paths = sorted(Path().glob(f"outputs/sweeps/*/{name}"), key=lambda path: path.stat().st_ctime_ns)
    values: dict[str, Any] = json.loads(paths[number].read_text())
    return values


def sampled(number: int = -1) -> list[dict[str, Any]]:
    return [trial["params"] for trial in record(number)["trials"]]


def starts() -> int:
    return sum(len(path.read_text().splitlines()) for path in Path().glob("outputs/sweeps/*/jobs/*/starts"))


def folder() -> Path:
    return max(Path("outputs/sweeps").iterdir())


@pytest.mark.parametrize(
    ("option", "space"),
    [
        ("random", [LR]),
        ("tpe", [LR, "lora=r16,r32", "lora.dropout=range(0, 0.3, 0.1)"]),
        ("cmaes", [LR, "stm.threshold=interval(1.2, 25)"]),
        ("grid", ["optim.lr=0.001,0.01,0.1", "seed=1,2"]),
    ],
)
def test_every_sampler_searches_and_finds_its_best(search: Search, option: str, space: list[str]) -> None:
    assert search("measure", f"search={option}", *space, "search.n_trials=6") == 0
    found = record()
    trials = found["trials"]
    assert [trial["number"] for trial in trials] == list(range(6))
    assert {trial["state"] for trial in trials} == {"FINISHED"}
    top = max(trial["values"][0] for trial in trials)
    assert [trial["number"] for trial in trials if trial["best"]] == [
        t["number"] for t in trials if t["values"][0] == top
    ]
    assert found["objectives"] == {"gain": "max"}
    assert {text.partition("=")[0] for text in space} == set(found["space"])
    jobs = record(name="sweep.json")["jobs"]
    assert [trial["job"] for trial in trials] == [job["dir"] for job in jobs]
    assert all(job["name"].endswith(f"(trial {number})") for number, job in enumerate(jobs))
    if option == "grid":
        assert len({tuple(trial["params"].items()) for trial in trials}) == 6


def test_the_seed_decides_the_samples(search: Search) -> None:
    space = ["search=tpe", LR, "search.n_trials=3"]
    assert search("measure", *space, "hydra.sweep.dir=one") == 0
    assert search("measure", *space, "hydra.sweep.dir=two") == 0
    assert search("measure", *space, "hydra.sweep.dir=three", "search.seed=2") == 0
    one, two, three = (
        [trial["params"] for trial in json.loads(Path(name, "search.json").read_text())["trials"]]
        for name in ("one", "two", "three")
    )
    assert one == two
    assert one != three
    assert len({trial["optim.lr"] for trial in one}) == 3


def test_a_killed_search_goes_on_as_if_nothing_had_happened(search: Search, tmp_path: Path) -> None:
    space = ["search=tpe", LR, "search.n_trials=5", "sweep.workers=2"]
    assert search("measure", *space, "hydra.sweep.dir=whole") == 0
    process = subprocess.Popen(
        [
            sys.executable,
            str(PROGRAM),
            *arguments("wait_at_second", *space, "hydra.sweep.dir=killed", module="fake_trials"),
        ],
        env={**os.environ, "PYTHONPATH": PATH},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        manifest = Path("killed/sweep.json")
        while not (list(Path("killed/jobs").glob("*/waiting")) and '"state": "FINISHED"' in manifest.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert search("measure", "search=tpe", "sweep.resume=killed") == 0
    whole, killed = (json.loads(Path(name, "search.json").read_text())["trials"] for name in ("whole", "killed"))
    assert whole == killed
    assert sorted(len(path.read_text().splitlines()) for path in Path("killed/jobs").glob("*/starts")) == [1] * 5


@pytest.mark.parametrize(
    ("place", "call"),
    [("_suggest", 2), ("_suggest", 3), ("tell", 0), ("tell", 1), ("tell", 4), ("next_batch", 2)],
)
def test_stopped_anywhere_it_samples_the_same(
    search: Search, monkeypatch: pytest.MonkeyPatch, place: str, call: int
) -> None:
    """`call` counts from 0; the first batch of two is over at call 2."""
    from tokensieve.search.study import Trials

    space = ["search=tpe", LR, "lora=r16,r32", "search.n_trials=5", "sweep.workers=2"]
    assert search("measure", *space, "hydra.sweep.dir=whole") == 0
    original, calls = getattr(Trials, place), []

    def stop(self: Trials, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == call + 1:
            raise KeyboardInterrupt
        return original(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Trials, place, stop)
        assert search("measure", *space, "hydra.sweep.dir=stopped") == 130
    assert search("measure", "search=tpe", "sweep.resume=stopped") == 0
    whole, stopped = (json.loads(Path(name, "search.json").read_text())["trials"] for name in ("whole", "stopped"))
    assert stopped == whole
    assert [len(path.read_text().splitlines()) for path in Path("stopped/jobs").glob("*/starts")] == [1] * 5


def test_a_search_stopped_before_its_first_job_leaves_nothing(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokensieve.search.study import Trials

    def stop(self: Trials, *given: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trials, "_suggest", stop)
        assert search("measure", "search=tpe", LR) == 130
    assert not list(Path("outputs/sweeps").iterdir())


def test_a_damaged_study_and_a_sweep_without_one_are_named(search: Search, capsys: pytest.CaptureFixture[str]) -> None:
    assert search("measure", "search=tpe", LR, "search.n_trials=1", "hydra.sweep.dir=one") == 0
    Path("one/study.db").write_bytes(b"not a database" * 100)
    assert search("measure", "search=tpe", "sweep.resume=one") == 1
    assert "study.db: is damaged" in capsys.readouterr().err
    Path("one/study.db").unlink()
    assert search("measure", "search=tpe", "sweep.resume=one") == 1
    assert "must be a search to be continued as one" in capsys.readouterr().err


def test_a_finished_search_can_be_made_longer_but_not_another_one(
    search: Search, capsys: pytest.CaptureFixture[str]
) -> None:
    space = ["search=random", LR]
    assert search("measure", *space, "search.n_trials=2") == 0
    before = sampled()
    assert search("measure", "search=random", "sweep.resume=latest") == 0
    assert starts() == 2
    assert search("measure", *space, "search.n_trials=4", "sweep.resume=latest") == 0
    assert sampled()[:2] == before
    assert starts() == 4
    assert len({params["optim.lr"] for params in sampled()}) == 4
    assert search("measure", "search=random", LR, "search.n_trials=4", "sweep.resume=latest") == 0  # a part of it
    for wrong, said in (
        ((*space, "search.seed=7"), "seed: 1 -> 7"),
        ((*space, "search.objective=[nll]"), "objective"),
        (("search=tpe", LR), "sampler"),
        (("search=random", "optim.lr=interval(1e-3,1)"), "not in the search: optim.lr=interval(1e-3,1)"),
    ):
        assert search("measure", *wrong, "sweep.resume=latest") == 1
        assert said in capsys.readouterr().err
    assert search("measure", "sweep.resume=latest") == 1
    assert "the sweep was started with search=random" in capsys.readouterr().err
    assert starts() == 4


def test_failures_stop_the_search_at_their_rate_and_are_tried_again(
    search: Search, capsys: pytest.CaptureFixture[str]
) -> None:
    space = ["search=random", LR, "search.n_trials=6", "search.seed=3"]
    assert search("fail_above", *space, "search.max_failure_rate=0") == 1
    assert (
        "search.max_failure_rate: the search stopped after 1 failed trials; 0 of 6 may fail" in capsys.readouterr().err
    )
    assert search("fail_above", "search=random", "sweep.resume=latest", "search.max_failure_rate=1") == 1
    states = [trial["state"] for trial in record()["trials"]]
    assert {"FINISHED", "FAILED"} == set(states)
    assert record()["trials"][states.index("FAILED")]["error"].startswith("lab/")
    assert "RuntimeError: too fast" in record()["trials"][states.index("FAILED")]["error"]
    Path("outputs/mended").touch()
    assert search("fail_above", "search=random", "sweep.resume=latest") == 0
    finished = [trial for trial in record()["trials"] if trial["state"] == "FINISHED"]
    assert len(finished) == 6
    assert {job["state"] for job in record(name="sweep.json")["jobs"]} == {"FINISHED"}


def test_a_failed_cell_of_a_grid_is_tried_again(search: Search) -> None:
    space = ["search=grid", "optim.lr=0.5,0.001"]
    assert search("fail_above", *space) == 1  # the first cell fails, and the search stops
    Path("outputs/mended").touch()
    assert search("fail_above", "search=grid", "sweep.resume=latest") == 0
    trials = record()["trials"]
    assert sorted(trial["params"]["optim.lr"] for trial in trials if trial["state"] == "FINISHED") == [0.001, 0.5]


def test_an_objective_that_is_no_number_is_a_failure(search: Search) -> None:
    assert search("return_nothing", "search=random", LR, "search.n_trials=2", "search.max_failure_rate=1") == 0
    assert [trial["state"] for trial in record()["trials"]] == ["FAILED", "FAILED"]
    assert "None is no finite gain" in record()["trials"][0]["error"]


def test_two_objectives_end_in_a_pareto_set(search: Search, capsys: pytest.CaptureFixture[str]) -> None:
    space = ["search=tpe", "optim.lr=0.001,0.01,0.1", "search.n_trials=8", "search.objective=[gain,forgetting]"]
    assert search("measure", *space) == 0
    best = {trial["params"]["optim.lr"] for trial in record()["trials"] if trial["best"]}
    seen = {trial["params"]["optim.lr"] for trial in record()["trials"]}
    assert best == seen & {0.001, 0.01}  # 0.1 gains less than 0.01 and forgets more
    assert "the Pareto set has" in capsys.readouterr().out
    assert all(len(job["objective"]) == 2 for job in record(name="sweep.json")["jobs"] if job["state"] == "FINISHED")


@pytest.mark.parametrize(("pruner", "first"), [("median", "search.startup_trials=1"), ("halving", "search.seed=1")])
def test_hopeless_trials_are_pruned_and_reported_as_such(
    search: Search, capsys: pytest.CaptureFixture[str], pruner: str, first: str
) -> None:
    space = ["search=grid", "optim.lr=0.001,0.002,0.004,0.01,0.02,0.03,0.04,0.05"]
    assert search("validate", *space, f"search.pruner={pruner}", first) == 0
    trials = record()["trials"]
    pruned = [trial for trial in trials if trial["state"] == "PRUNED"]
    assert 1 <= len(pruned) < 8
    assert all(trial["values"] is None for trial in pruned)
    assert f"ended early by search.pruner={pruner} after validation 1" in pruned[0]["error"]
    finished = [trial["params"]["optim.lr"] for trial in trials if trial["state"] == "FINISHED"]
    assert max(trial["params"]["optim.lr"] for trial in pruned) > min(finished)
    states = {job["state"] for job in record(name="sweep.json")["jobs"]}
    assert states == {"FINISHED", "PRUNED"}
    assert "PRUNED after" in capsys.readouterr().out
    count = starts()
    assert search("validate", "search=grid", "sweep.resume=latest", f"search.pruner={pruner}", first) == 0
    assert starts() == count  # what is pruned is over


def test_a_sample_that_makes_no_valid_run_fails_alone(search: Search) -> None:
    space = ["search=grid", "seed=1,2,-1,3", "search.n_trials=4", "search.parallel=2", "search.max_failure_rate=1"]
    code = search("measure", *space, "search.seed=4")
    trials = record()["trials"]
    wrong = [trial for trial in trials if trial["params"]["seed"] == -1]
    assert code in (0, 1)
    assert [trial["state"] for trial in wrong] == ["FAILED"]
    assert "seed: must be at least 0" in wrong[0]["error"]
    assert sorted(trial["state"] for trial in trials) == ["FAILED", *["FINISHED"] * 3]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["search=tpe", "optim.lr=0.1"], "search: needs at least one key with several values"),
        (["search=grid", LR], "optim.lr: a grid needs single values"),
        (["search=cmaes", LR], "cmaes needs at least two numbers"),
        (["search=cmaes", LR, "lora=r16,r32"], "lora: cmaes moves in intervals"),
        (["search=tpe", "sweep.workers=1,2", LR], "sweep.workers: says how jobs run"),
        (["search=tpe", LR, "search.objective=[gane]"], "search.objective: may hold gain"),
        (["search=tpe", LR, "search.objective=[gain,nll]", "search.pruner=median"], "needs a single objective"),
        (["search=tpe", LR, "search.objective=[nll]", "search.pruner=wilcoxon"], "wilcoxon compares the items"),
        (["search=tpe", "stm.threshold=interval(1.2,9.0)", "search.pruner=median"], "stm.threshold is searched"),
        (["search=tpe", "stm=naive,random", "search.objective=[nll_kept]"], "stm is searched"),
        (["search=tpe", "dataset=lab_code,lab_math", "search.pruner=wilcoxon"], "dataset is searched"),
        (["search=tpe", "model=lab,pythia_70m", "search.objective=[nll]"], "model is searched"),
        (["stm.threshold=1.5,4", "search.pruner=median"], "search.pruner: ends trials of a search"),
        (["stm.threshold=interval(1.5,4.0)"], "stm.threshold: a grid needs single values"),
        (["search=tpe", LR, "sweep.resume=nowhere"], "nowhere"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(
    search: Search, capsys: pytest.CaptureFixture[str], overrides: list[str], said: str
) -> None:
    assert search("measure", *overrides) == 1
    assert said in capsys.readouterr().err
    assert not Path("outputs/sweeps").exists() or not list(Path("outputs/sweeps").iterdir())


def test_a_dry_run_prints_the_first_trials_and_writes_nothing(
    search: Search, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokensieve import pipeline

    monkeypatch.setattr(pipeline, "plan", lambda config: [pipeline.StagePlan("score", "d" * 64, True)])
    assert search("measure", "search=tpe", LR, "sweep.workers=2", "dry_run=true") == 0
    output = capsys.readouterr().out
    assert "search for 20 trials over optim.lr by gain" in output
    assert "2 jobs would run" in output
    assert not Path("outputs").exists()


def test_a_dry_run_of_a_search_that_goes_on_writes_nothing(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokensieve import pipeline

    assert search("measure", "search=random", LR, "search.n_trials=2") == 0
    monkeypatch.setattr(pipeline, "plan", lambda config: [pipeline.StagePlan("score", "d" * 64, True)])
    [folder] = Path("outputs/sweeps").iterdir()
    before = (sampled(), (folder / "search.json").read_bytes())
    assert search("measure", "search=random", "sweep.resume=latest", "search.n_trials=4", "dry_run=true") == 0
    assert (sampled(), (folder / "search.json").read_bytes()) == before
    assert search("measure", "search=random", "sweep.resume=latest") == 0
    assert starts() == 2


def test_odd_folders_and_values(search: Search) -> None:
    odd = 'odd, "folder"'
    space = ["search=random", "dataset.prompt='a, b','c=\"d\"',null", "search.n_trials=4"]
    assert search("measure", *space, "output_dir='my, runs'", f"hydra.sweep.dir='{odd}'") == 0
    trials = json.loads(Path(odd, "search.json").read_text())["trials"]
    assert {trial["state"] for trial in trials} == {"FINISHED"}
