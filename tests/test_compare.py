from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_sweep import job, result_of, threshold_sweep, write_run, write_sweep
from rich.console import Console

from tokensieve.cli import main
from tokensieve.compare import Comparison, compare, find_arm, group_runs, print_comparisons
from tokensieve.errors import DataError
from tokensieve.records import EvalResult, RunResult
from tokensieve.statistics import (
    adjust_p_values,
    compare_arms,
    difference_p_value,
    mcnemar_test,
    minimum_detectable_difference,
    paired_bootstrap,
    seed_interval,
    wilson_interval,
)


def evaluation(task: str, scores: Sequence[float | None], **fields: Any) -> EvalResult:
    ids = fields.pop("item_ids", [f"{task}-{number}" for number in range(len(scores))])
    known = [score for score in scores if score is not None]
    value = wilson_interval(sum(known), len(known))
    return EvalResult(task, "accuracy", 1, ids, scores, *value, **fields)  # type: ignore[arg-type]


def a_run(folder: Path, *evals: EvalResult, base: Sequence[EvalResult] = (), overrides: Sequence[str] = ()) -> str:
    """The folder of a finished run with these scores."""
    entry = job(list(overrides))
    write_run(folder, entry)
    result = replace(result_of(entry), evals=evals, base_evals=base)
    (folder / "result.json").write_text(result.to_json())
    return str(folder)


def no_sweep() -> Path:
    raise AssertionError("no name needs a sweep here")


def compared(*names: str, **options: Any) -> tuple[list[Comparison], list[str]]:
    return compare([find_arm(name, no_sweep) for name in names], **options)


def error_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["compare", *arguments]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


BEFORE = [1.0] * 50 + [0.0] * 50
AFTER = [1.0] * 48 + [0.0] * 2 + [1.0] * 10 + [0.0] * 40  # 10 gained, 2 lost: +8 points


def test_two_runs_by_hand(tmp_path: Path) -> None:
    one = a_run(tmp_path / "one", evaluation("math", BEFORE))
    other = a_run(tmp_path / "other", evaluation("math", AFTER), overrides=["seed=2"])
    (row,), notes = compared(one, other)
    assert notes == []
    assert (row.reference, row.arm) == ("seed=1", "seed=2")
    assert (row.num_items, row.num_seeds, row.gained, row.lost, row.test) == (100, 1, 10, 2, "McNemar")
    assert row.reference_score == wilson_interval(50, 100)
    assert row.arm_score == wilson_interval(58, 100)
    assert row.difference.value == pytest.approx(8)
    bootstrap = paired_bootstrap(AFTER, BEFORE)
    assert row.difference == pytest.approx([100 * bound for bound in bootstrap])
    # P(at most 2 or at least 10 of 12 fair coins) = 2 * (1 + 12 + 66) / 4096
    assert row.p_value == pytest.approx(158 / 4096)
    assert row.adjusted_p_value == row.p_value
    assert row.detectable == pytest.approx(100 * minimum_detectable_difference(0.12, 100))


def test_items_in_another_order_are_paired_by_their_ids(tmp_path: Path) -> None:
    entry = evaluation("math", AFTER)
    turned = replace(entry, item_ids=list(reversed(entry.item_ids)), item_scores=list(reversed(entry.item_scores)))
    names = [
        a_run(tmp_path / "one", evaluation("math", BEFORE)),
        a_run(tmp_path / "two", entry),
        a_run(tmp_path / "three", turned),
    ]
    rows, _ = compared(*names)
    assert rows[0] == replace(rows[1], arm=rows[0].arm)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (evaluation("math", AFTER[:90]), ["task math", "same items", "100 items", "90 in", "90 shared"]),
        (evaluation("math", AFTER, item_ids=[f"x{number}" for number in range(100)]), ["same items", "0 shared"]),
        (evaluation("math", AFTER, item_ids=["a"] * 100), ["same items"]),
        (replace(evaluation("math", AFTER), version=2), ["task math", "one version", "1 in", "2 in"]),
        (replace(evaluation("math", AFTER), metric="f1"), ["one metric", "accuracy", "f1"]),
        (replace(evaluation("math", AFTER), split="validation"), ["one split", "validation"]),
        (evaluation("code", AFTER), ["a task in common", "math, code"]),
    ],
)
def test_what_cannot_be_paired_is_refused_in_one_line(
    other: EvalResult, said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [a_run(tmp_path / "one", evaluation("math", BEFORE)), a_run(tmp_path / "other", other)]
    line = error_line([*names, "--csv", str(tmp_path / "table.csv")], capsys)
    assert all(part in line for part in said), line
    assert not (tmp_path / "table.csv").exists()


def answers(start: int) -> list[str]:
    return [f"answer {number}" for number in range(start, start + 100)]


def test_equal_ids_of_other_data_are_found_by_what_the_base_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, near, far = [
        a_run(tmp_path / name, evaluation("math", AFTER), base=[evaluation("math", BEFORE, outputs=texts)])
        for name, texts in (
            ("one", answers(0)),
            ("near", [*answers(0)[:70], *answers(500)[:30]]),  # rounding may turn some
            ("far", answers(500)),
        )
    ]
    assert main(["compare", one, near]) == 0
    capsys.readouterr()
    assert "the same base answers 100 of 100 differently" in error_line([one, far], capsys)
    folder = Path(far)
    result = RunResult.from_json((folder / "result.json").read_text())
    other_base = replace(result, config={**result.config, "model": {"path": "another"}})
    (folder / "result.json").write_text(other_base.to_json())
    assert main(["compare", one, far]) == 0  # another base need not say the same


@pytest.mark.parametrize(("digest", "refused"), [("a", False), ("b", True)])
def test_recorded_stamps_of_the_items_decide(
    digest: str, refused: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [a_run(tmp_path / "one", evaluation("math", BEFORE)), a_run(tmp_path / "other", evaluation("math", AFTER))]
    for name, value in zip(names, ("a", digest), strict=True):
        file = Path(name) / "result.json"
        file.write_text(replace(RunResult.from_json(file.read_text()), stamps={"items math": value}).to_json())
    if refused:
        assert "data behind the ids differs" in error_line(names, capsys)
    else:
        assert main(["compare", *names]) == 0


def test_a_task_that_cannot_be_paired_may_be_left_out(tmp_path: Path) -> None:
    one = a_run(tmp_path / "one", evaluation("math", BEFORE), evaluation("code", BEFORE), evaluation("sql", BEFORE))
    other = a_run(tmp_path / "other", evaluation("math", AFTER), evaluation("code", AFTER[:9]))
    (row,), notes = compared(one, other, tasks=["math"])
    assert row.task == "math"
    assert notes == []
    with pytest.raises(DataError, match=r"received 'sql; common: math, code'"):
        compared(one, other, tasks=["math", "sql"])


def test_what_only_one_side_has_is_told(tmp_path: Path) -> None:
    one = a_run(tmp_path / "one", evaluation("math", BEFORE), evaluation("sql", BEFORE))
    other = a_run(tmp_path / "other", evaluation("code", AFTER), evaluation("math", AFTER, decoding={"stop": ["."]}))
    rows, notes = compared(one, other)
    assert [row.task for row in rows] == ["math"]
    assert "not compared: sql, code." in notes[0]
    assert "decoded differently (stop ['.'] against None)" in notes[1]


def test_items_without_a_score_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [
        a_run(tmp_path / "one", evaluation("math", [1.0, None, 0.0, 1.0])),
        a_run(tmp_path / "other", evaluation("math", [None, 1.0, 1.0, 1.0])),
    ]
    (row,), _ = compared(*names)
    assert (row.num_items, row.num_dropped, row.gained, row.lost) == (2, 2, 1, 0)
    assert main(["compare", *names]) == 0
    assert "left out: 2 of math" in capsys.readouterr().out


@pytest.mark.parametrize("scores", [[], [None, None]])
def test_a_task_without_items_is_no_number(
    scores: list[float | None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [a_run(tmp_path / name, evaluation("math", scores)) for name in ("one", "other")]
    (row,), _ = compared(*names)
    assert row.num_items == 0
    assert all(math.isnan(value) for value in (row.p_value, row.detectable, *row.difference, *row.arm_score))
    assert main(["compare", *names]) == 0
    assert "nan" not in capsys.readouterr().out


def test_scores_between_0_and_1_take_the_sign_test(tmp_path: Path) -> None:
    names = [
        a_run(tmp_path / "one", evaluation("drop", [0.2, 0.5, 0.5, 1.0])),
        a_run(tmp_path / "other", evaluation("drop", [0.4, 0.9, 0.6, 1.0])),
    ]
    (row,), _ = compared(*names)
    assert (row.test, row.gained, row.lost) == ("sign", 3, 0)
    assert row.p_value == pytest.approx(2 / 8)


def test_several_comparisons_are_adjusted_together(tmp_path: Path) -> None:
    levels = {"a": AFTER, "b": [1.0] * 70 + [0.0] * 30, "c": BEFORE}
    names = [a_run(tmp_path / "base-line", evaluation("math", BEFORE), evaluation("code", BEFORE))]
    names += [
        a_run(tmp_path / name, evaluation("math", scores), evaluation("code", AFTER)) for name, scores in levels.items()
    ]
    rows, _ = compared(*names)
    assert [(Path(row.arm).name, row.task) for row in rows] == [
        (arm, task) for arm in "abc" for task in ("math", "code")
    ]
    assert {Path(row.reference).name for row in rows} == {"base-line"}
    expected = adjust_p_values({str(place): row.p_value for place, row in enumerate(rows)})
    assert [row.adjusted_p_value for row in rows] == list(expected.values())
    assert max(row.adjusted_p_value / row.p_value for row in rows) > 1
    every, _ = compared(*names, all_pairs=True)
    assert len(every) == 2 * 6


def seeds_of(folder: Path) -> dict[int, RunResult]:
    results = [RunResult.from_json(path.read_text()) for path in folder.glob("jobs/*/result.json")]
    return {result.config["seed"]: result for result in results if result.config["stm"]["rule"] == "none"}


def test_arms_of_a_sweep_take_their_seeds_together(tmp_path: Path) -> None:
    sweep = threshold_sweep(tmp_path / "sweep", thresholds=("1.5", "2.5"), seeds=(1, 2, 3))
    rows, notes = compare([find_arm(name, lambda: sweep) for name in ("unmasked", "stm=2.5")])
    assert notes == []
    assert {row.num_seeds for row in rows} == {3}
    assert (rows[0].reference, rows[0].arm) == ("unmasked", "stm=2.5")
    row = rows[0]
    before = [seeds_of(sweep)[seed].evals[0].item_scores for seed in (1, 2, 3)]
    folders = {entry["overrides"][1]: entry["dir"] for entry in json.loads((sweep / "sweep.json").read_text())["jobs"]
               if entry["overrides"][0] == "stm.threshold=2.5"}  # fmt: skip
    after = [
        RunResult.from_json((sweep / folders[f"seed={seed}"] / "result.json").read_text()).evals[0].item_scores
        for seed in (1, 2, 3)
    ]
    assert row.difference == pytest.approx([100 * bound for bound in compare_arms(after, before)])
    means = [100 * (sum(one) - sum(other)) / 200 for one, other in zip(after, before, strict=True)]
    assert row.over_seeds == pytest.approx(seed_interval(means))
    assert row.p_value == difference_p_value(after, before)
    counts = [mcnemar_test(one, other) for one, other in zip(after, before, strict=True)]
    assert (row.gained, row.lost) == (sum(count.gained for count in counts), sum(count.lost for count in counts))


def test_groups_of_runs_are_paired_by_seed_and_only_by_shared_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {
        (arm, seed): a_run(tmp_path / f"{arm}{seed}", evaluation("math", scores), overrides=[*rule, f"seed={seed}"])
        for arm, rule, scores in (("u", ["stm.rule=none"], BEFORE), ("m", [], AFTER))
        for seed in (1, 2, 3)
    }
    baseline = group_runs([runs["u", seed] for seed in (3, 1, 2)], no_sweep)
    against = group_runs([runs["m", seed] for seed in (1, 2)], no_sweep)
    (row,), notes = compare([baseline, against])
    assert (row.reference, row.arm, row.num_seeds) == ("unmasked", "stm=2.5", 2)
    assert row.difference.value == pytest.approx(8)
    assert notes == ["stm=2.5 against unmasked: 2 shared seeds of 3."]
    groups = ["--baseline", runs["u", 1], runs["u", 2], "--against"]
    assert main(["compare", *groups, runs["m", 1], runs["m", 2]]) == 0
    assert "100 x 2" in capsys.readouterr().out
    assert "share seeds" in error_line([*groups, runs["m", 3]], capsys)
    assert "differ in their seed alone" in error_line([*groups, runs["m", 1], runs["u", 1]], capsys)
    assert "two runs" in error_line([*groups, runs["u", 2], runs["u", 1]], capsys)
    assert "--baseline and --against" in error_line(["--baseline", runs["u", 1]], capsys)
    assert "--baseline and --against" in error_line([runs["u", 1], *groups, runs["m", 1]], capsys)


def test_items_that_differ_in_one_seed_alone_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        a_run(tmp_path / f"{arm}{seed}", evaluation("math", AFTER[: 99 if arm + str(seed) == "m2" else 100]),
              overrides=[f"stm.threshold={threshold}", f"seed={seed}"])
        for arm, threshold in (("u", 4), ("m", 2)) for seed in (1, 2)
    ]  # fmt: skip
    line = error_line(["--baseline", *runs[:2], "--against", *runs[2:]], capsys)
    assert "100 items in stm=4 (seed 1), 99 in stm=2 (seed 2)" in line


def test_the_base_is_an_arm(tmp_path: Path) -> None:
    name = a_run(tmp_path / "run", evaluation("math", AFTER), base=[evaluation("math", BEFORE)])
    (row,), _ = compared("base", name)
    assert (row.reference, row.arm) == ("base", "stm=2.5")
    assert (row.gained, row.lost) == (10, 2)
    (turned,), _ = compared(name, "base")
    assert (turned.gained, turned.lost) == (2, 10)
    with pytest.raises(DataError, match="base on both sides"):
        compared("base", "base")


def test_names_that_a_sweep_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = threshold_sweep(tmp_path / "outputs" / "sweeps" / "first", thresholds=("1.5", "2.5"))
    latest = ["--output-dir", str(tmp_path / "outputs")]
    assert main(["compare", "unmasked", "stm=2.5", *latest]) == 0
    assert "lab_sql" in capsys.readouterr().out
    entry = json.loads((sweep / "sweep.json").read_text())["jobs"][0]
    assert main(["compare", entry["id"][:8], "stm=2.5/seed=1", "--sweep", str(sweep)]) == 0
    capsys.readouterr()
    assert "stm=1.5, stm=2.5, unmasked" in error_line(["unmasked", "stm=9", *latest], capsys)
    assert "--sweep" in error_line([str(sweep), "unmasked"], capsys)
    assert "two arms" in error_line(["unmasked", *latest], capsys)
    assert "two arms" in error_line([], capsys)
    assert "two runs" in error_line(["unmasked", "unmasked", *latest], capsys)
    assert "no such folder" in error_line([str(tmp_path / "nothing"), "unmasked"], capsys)
    assert "a folder without" in error_line([str(tmp_path), "unmasked"], capsys)
    assert "nowhere" in error_line(["a", "b", "--output-dir", str(tmp_path / "nowhere")], capsys)


def test_an_arm_that_means_more_than_its_seeds_is_refused(tmp_path: Path) -> None:
    jobs = [job(["stm.threshold=2.5", f"optim.lr={lr}"]) for lr in ("1e-3", "2e-3")]
    jobs.append(job(["stm.rule=none", "optim.lr=1e-3"], control="unmasked"))
    sweep = write_sweep(tmp_path / "sweep", jobs, {"stm.threshold": ["2.5"], "optim.lr": ["1e-3", "2e-3"]})
    with pytest.raises(DataError, match="differ in their seed alone"):
        find_arm("stm=2.5", lambda: sweep)
    assert len(find_arm("stm=2.5 · lr=2e-3", lambda: sweep).runs) == 1


def test_a_label_means_its_own_arm_even_where_others_share_its_rule(tmp_path: Path) -> None:
    """Arms of a file: the plain one is called `unmasked`, and so are the rules of the others."""
    jobs = [job(["stm.rule=none"]), job(["stm.rule=none", "weight.rule=dft"])]
    sweep = write_sweep(tmp_path / "sweep", jobs, {"stm.rule": ["none"], "weight.rule": ["dft"]})
    (plain,) = find_arm("unmasked", lambda: sweep).runs
    assert plain.folder == sweep / jobs[0]["dir"]
    (weighted,) = find_arm("unmasked · rule=dft", lambda: sweep).runs
    assert weighted.folder == sweep / jobs[1]["dir"]


def test_a_failed_run_is_told_with_its_error(tmp_path: Path) -> None:
    write_run(tmp_path / "run", job([], state="FAILED"))
    with pytest.raises(DataError, match="FAILED: loss is not finite at step 17"):
        find_arm(str(tmp_path / "run"), no_sweep)
    (tmp_path / "run" / "result.json").write_text("{")
    with pytest.raises(DataError, match="finished run"):
        find_arm(str(tmp_path / "run"), no_sweep)


def test_csv_holds_the_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [a_run(tmp_path / "one", evaluation("math", BEFORE)), a_run(tmp_path / "other", evaluation("math", AFTER))]
    path = tmp_path / "table.csv"
    assert main(["compare", *names, "--csv", str(path)]) == 0
    capsys.readouterr()
    with path.open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["task"], row["gained"], row["lost"], row["num_items"]) == ("math", "10", "2", "100")
    assert float(row["difference_points"]) == pytest.approx(8)
    assert float(row["reference_score_low"]) == wilson_interval(50, 100).low
    assert float(row["p_value"]) == pytest.approx(158 / 4096)
    assert not list(tmp_path.glob("*.partial"))
    assert "--csv" in error_line([*names, "--csv", str(tmp_path / "no" / "table.csv")], capsys)
    assert "--csv" in error_line([*names, "--csv", str(tmp_path)], capsys)


def shown(rows: Sequence[Comparison], *, width: int, terminal: bool) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    print_comparisons(rows, ["a note [bold]"], console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_plain_lines_align_and_a_terminal_gets_a_table_for_each_pair(tmp_path: Path) -> None:
    names = [a_run(tmp_path / f"run[{n}]", evaluation("math", scores), evaluation("a_long_task", scores))
             for n, scores in enumerate((BEFORE, AFTER, BEFORE))]  # fmt: skip
    rows, _ = compared(*names)
    plain = shown(rows, width=80, terminal=False).splitlines()
    table = plain[: len(rows) + 2]
    assert len({len(line) for line in table}) == 1
    assert {tuple(at for at, sign in enumerate(line) if sign in "|") for line in (table[0], *table[2:])} == {
        tuple(at for at, sign in enumerate(table[0]) if sign == "|")
    }
    assert "58.0 [48.2, 67.2]" in plain[2]
    assert "Holm p" in plain[0]
    assert plain[-1] == "a note [bold]"
    for width in (60, 80, 160):
        drawn = shown(rows, width=width, terminal=True)
        assert max(len(line) for line in drawn.splitlines()) <= width
        assert drawn.count("against") >= 2
        assert "+8.0" in drawn
        assert "10/2" in drawn
        assert ("On a wider terminal" in drawn) == (width == 60)


def test_help_and_errors_do_not_load_a_model_library(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom tokensieve.cli import main\n"
        "for arguments in (['--help'], ['chat', '--help'], ['export', '--help'], ['compare', '--help'],\n"
        "                  ['compare', '/no/run', 'x'], ['export', '/no/run', '--output', 'x'], ['chat', '/no/run']):\n"
        "    try: main(arguments)\n"
        "    except SystemExit: pass\n"
        "found = [name for name in ('torch', 'transformers', 'peft', 'mlflow', 'pandas') if name in sys.modules]\n"
        "sys.exit(' '.join(found) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("error: ") == 3
