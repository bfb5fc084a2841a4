"""The report of a search: the Pareto set, one objective, pruned trials."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_sweep import job, write_sweep
from rich.console import Console

from tokensieve.errors import DataError
from tokensieve.report import write_report
from tokensieve.report.load import read_sweep
from tokensieve.report.search import read_search, search_markdown, trial_table

# lr -> (gain, forgetting): the second trial is beaten by the first, the fourth is pruned, the fifth failed.
VALUES = [(4.0, 1.0), (3.0, 2.0), (6.5, 5.0), None, None]
STATES = ["FINISHED", "FINISHED", "FINISHED", "PRUNED", "FAILED"]
BEST = [True, False, True, False, False]
NAMES = ["gain", "forgetting"]


def write_search(folder: Path, objectives: list[str], best: list[bool] | None = None) -> Path:
    overrides = [[f"optim.lr={0.001 * (number + 1)}", f"search.trial={number}"] for number in range(5)]
    jobs = [job(texts[:1], state=state) for texts, state in zip(overrides, STATES, strict=True)]
    jobs[3]["error"] = "trial 3: ended early by search.pruner=median after validation 2, at an NLL of 1.2."
    write_sweep(folder, jobs, {"optim.lr": [texts[0].partition("=")[2] for texts in overrides]}, num_items=20)
    kinds = {"gain": "max", "forgetting": "min", "nll": "min"}
    columns = [NAMES.index(name) if name in NAMES else 1 for name in objectives]
    trials = [
        {
            "number": number,
            "state": STATES[number],
            "params": {"optim.lr": 0.001 * (number + 1)},
            "values": [values[column] for column in columns] if values is not None else None,
            "best": (best or BEST)[number],
            "job": jobs[number]["dir"],
            "error": jobs[number]["error"],
        }
        for number, values in enumerate(VALUES)
    ]
    record = {
        "objectives": {name: kinds[name] for name in objectives},
        "sampler": "TPESampler",
        "seed": 1,
        "pruner": "median",
        "num_trials": 5,
        "space": ["optim.lr"],
        "trials": trials,
    }
    (folder / "search.json").write_text(json.dumps(record))
    return folder


def test_the_pareto_set_stands_in_table_and_page(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "s", NAMES)
    console = Console(record=True, width=200, force_terminal=False)
    paths = write_report(folder, console=console)
    search = read_search(read_sweep(folder))
    assert search is not None
    assert [trial.number for trial in search.best] == [2, 0]  # the higher gain first
    header, rows = trial_table(search, search.best)
    assert header[:5] == ["trial", "state", "optim.lr", "gain, points (validation)", "forgetting, points (validation)"]
    assert rows[0][:5] == ["2", "FINISHED", "0.003", "+6.5", "+5.0"]
    result = search.best[0].run.result if search.best[0].run else None
    assert result is not None
    target = next(entry for entry in result.evals if entry.task == "lab_code")
    assert rows[0][5] == f"{100 * target.value:.1f}"
    printed = console.export_text()
    assert "Pareto set" in printed
    assert "3 FINISHED, 1 PRUNED, 1 FAILED" in printed
    assert "s: 3 of 5 runs finished, 1 pruned" in printed
    markdown = paths.markdown.read_text()
    assert markdown.endswith(search_markdown(search))
    assert "| 2 | FINISHED | 0.003 | +6.5 | +5.0 |" in markdown
    page = paths.page.read_text()
    assert "<h2>Pareto set</h2>" in page
    assert 'id="pareto-' in page
    assert "ended early by search.pruner=median after validation 2" in page
    assert page.count("PRUNED") >= 2
    assert "Without a result: 1" in page  # the failed one; the pruned one is no fault
    assert paths.trials is not None
    assert len(paths.trials.read_text().splitlines()) == 6
    assert paths.trials in paths.existing()


def test_one_objective_has_its_best_trial_and_course(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "s", ["nll"], [True, False, False, False, False])
    page = write_report(folder, console=Console(quiet=True)).page.read_text()
    assert "<h2>Best trial</h2>" in page
    assert 'id="course-' in page
    assert "nll (less is better)" in page
    search = read_search(read_sweep(folder))
    assert search is not None
    assert trial_table(search, search.best)[1][0][3] == "1.0000"


def test_a_search_without_a_finished_trial(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "s", NAMES, [False] * 5)
    values = json.loads((folder / "search.json").read_text())
    for trial in values["trials"]:
        trial["values"] = None
    (folder / "search.json").write_text(json.dumps(values))
    assert "No trial finished." in write_report(folder, console=Console(quiet=True)).page.read_text()


def test_a_plain_sweep_has_no_search_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "s", NAMES)
    (folder / "search.json").write_text('{"objectives": {}')
    with pytest.raises(DataError, match=r"search\.json: must be the record of a search"):
        write_report(folder, console=Console(quiet=True))
    (folder / "search.json").unlink()
    assert read_search(read_sweep(folder)) is None
    assert "Pareto" not in write_report(folder, console=Console(quiet=True)).page.read_text()
