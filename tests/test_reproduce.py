"""The tables of experiments/: their files, their arms, and the verdict on hand-made numbers."""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tokensieve.cli import compose, main
from tokensieve.errors import ConfigError, DataError, SweepError
from tokensieve.records import EvalResult, MaskStats, RunResult
from tokensieve.reproduce import find_experiment, list_experiments, reproduce
from tokensieve.reproduce.arms import compose_arms
from tokensieve.reproduce.expected import ExpectedRow, complete, format_expected, read_expected
from tokensieve.reproduce.experiment import read_experiment
from tokensieve.reproduce.measured import measure_other_tasks, measure_runs
from tokensieve.reproduce.run import _let_stop, full_command
from tokensieve.reproduce.sampling import Score, accuracy_error, change_error, transfer_error
from tokensieve.reproduce.verdict import Measured, describe_lab, judge

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("TOKENSIEVE_DATA", ROOT / "data"))
NAMES = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/experiment.yaml"))
SCALES = ("paper", "lab")


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


# The folders


def test_every_table_has_a_folder() -> None:
    tables = [entry.id for entry in list_experiments()]
    assert tables == NAMES
    assert len(tables) == 19


@pytest.mark.parametrize("name", NAMES)
def test_printed_numbers_carry_the_errors_that_a_script_computes(name: str) -> None:
    experiment = find_experiment(name)
    text = (experiment.folder / "expected.csv").read_text(encoding="utf-8")
    assert format_expected(complete(experiment.expected)) == text
    keys = [(*row.tasks, row.arm, row.model, row.trained_on, row.metric, row.source) for row in experiment.expected]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", NAMES)
def test_every_printed_arm_is_run_or_has_a_reason(name: str) -> None:
    experiment = find_experiment(name)
    for arm, model, trained_on in experiment.places():
        found = experiment.paper_setup.overrides(arm, model, trained_on)
        assert (found is None) == (arm in experiment.cannot), (arm, model, trained_on)
        assert (arm in experiment.lab_setup.arms) != (arm in {**experiment.cannot, **experiment.lab_setup.cannot}), arm


@pytest.mark.parametrize("name", NAMES)
def test_obstacles_match_a_row(name: str) -> None:
    experiment = find_experiment(name)
    for entry in experiment.obstacles:
        alone = replace(experiment, obstacles=(entry,), comparable=True)
        assert any(alone.obstacle(row) == entry["why"] for row in experiment.expected), entry


@pytest.mark.parametrize(("name", "scale"), list(itertools.product(NAMES, SCALES)))
def test_commands_run_every_arm_and_nothing_else(name: str, scale: Any) -> None:
    experiment = find_experiment(name)
    setup = experiment.setup(scale)
    arms = {frozenset(found) for place in experiment.places() if (found := setup.overrides(*place)) is not None}
    prefix = "python train.py -m " if experiment.kind == "train" else "tokensieve mask "
    assert all(command.startswith(prefix) for command in setup.commands)
    jobs = {
        frozenset(job) for text in setup.commands for job in map(_without_execution, _jobs(text.removeprefix(prefix)))
    }
    before = {frozenset(_without_execution(shlex.split(command)[2:])) for command in setup.first}
    assert arms
    assert jobs <= arms
    assert arms <= jobs | before
    assert not jobs & before


@pytest.mark.parametrize(("name", "scale"), list(itertools.product(NAMES, SCALES)))
def test_every_arm_model_and_data_set_composes(name: str, scale: Any) -> None:
    experiment = find_experiment(name)
    setup = experiment.setup(scale)
    seen: set[str] = set()
    for place in experiment.places():
        overrides = setup.overrides(*place)
        if overrides is None or (scale == "lab" and place[0] in seen) or seen >= set(place):
            continue
        seen |= set(place)
        config = compose(overrides)
        assert (config.model.path == "lab") == (scale == "lab")


def _jobs(command: str) -> list[list[str]]:
    """The jobs of a command: every combination of its comma-separated values."""
    words = shlex.split(command)
    if "--thresholds" in words:
        at = words.index("--thresholds")
        words = [*words[:at], f"stm.threshold={words[at + 1]}"]
    axes = []
    for word in words:
        key, _, values = word.partition("=")
        axes.append([word] if values.startswith("[") else [f"{key}={value}" for value in values.split(",")])
    return [list(job) for job in itertools.product(*axes)]


def _without_execution(job: list[str]) -> list[str]:
    return [word for word in job if not word.startswith(("seed=", "sweep.controls=", "hydra.run.dir="))]


def test_readmes_show_the_commands() -> None:
    for experiment in list_experiments():
        text = (experiment.folder / "README.md").read_text(encoding="utf-8")
        suite = " ".join(experiment.paper_setup.fixed)
        flat = " ".join(text.replace("\\\n", " ").split())
        both = (experiment.paper_setup, experiment.lab_setup)
        for command in (text for setup in both for text in (*setup.first, *setup.commands)):
            assert command in flat or command.replace(suite, "$SUITE") in flat, (experiment.id, command)


@pytest.mark.parametrize("recipe", ["stm_2025", "stm_head", "axolotl_gt", "robustft"])
def test_recipe_gives_way_to_what_is_typed(recipe: str) -> None:
    assert {path.stem for path in (ROOT / "conf/recipe").glob("*.yaml")} >= {recipe}
    plain = compose([f"recipe={recipe}", "model=gemma2_2b_it"])
    assert plain.trainer.epochs == (2 if recipe == "robustft" else 3)
    changed = compose([f"recipe={recipe}", "model=lab", "optim.lr=1e-7", "trainer.batch_size=7", "lora.rank=3"])
    assert (changed.optim.lr, changed.trainer.batch_size, changed.lora.rank) == (1e-7, 7, 3)
    assert changed.trainer.micro_batch_size == plain.trainer.micro_batch_size  # not the lab's


def test_recipe_leaves_the_choice_of_an_adapter() -> None:
    assert compose(["recipe=stm_2025", "lora=dora"]).lora.use_dora
    assert compose(["recipe=stm_head"]).lora.use_dora
    assert (compose(["recipe=axolotl_gt"]).lora.rank, compose(["recipe=axolotl_gt"]).lora.alpha) == (32, 16)


# Numbers by hand


def test_errors_by_hand() -> None:
    assert accuracy_error(Score(50.0, 100)) == 5.0
    # TI = 100 (a / b - 1), a = b = 1/2 of 100 items: sqrt(2) * 5 / 50
    assert change_error(Score(50.0, 100), Score(50.0, 100)) == pytest.approx(100 * math.sqrt(2) * 5 / 50)
    one = {"a": Score(50.0, 100), "b": Score(50.0, 100)}
    assert transfer_error(one, one) == pytest.approx(100 * math.sqrt(2) * 5 / 50 / math.sqrt(2))
    assert accuracy_error(Score(0.0, 9)) == pytest.approx(100 * math.sqrt(0.05 * 0.95 / 9))


def test_derived_rows_by_hand() -> None:
    def row(arm: str, trained_on: str, dataset: str, percent: float) -> ExpectedRow:
        return ExpectedRow(arm, "M", trained_on, dataset, "accuracy", percent, 100, None)

    base = [row("base", "", task, value) for task, value in (("A", 40.0), ("B", 50.0), ("C", 20.0), ("BIRD", 10.0))]
    tuned = [row("x", "A", task, value) for task, value in (("A", 50.0), ("B", 25.0), ("C", 30.0), ("BIRD", 1.0))]
    derived = [found for found in complete([*base, *tuned]) if found.source == "derived"]
    assert [(found.metric, found.dataset, found.printed, found.n) for found in derived] == [
        ("ti", "A", 25.0, 100),
        ("bwt", "B+C", 0.0, 200),
    ]
    assert all(found.standard_error for found in derived)
    assert complete(complete([*base, *tuned])) == complete([*base, *tuned])


@pytest.mark.parametrize(
    ("ours", "finding"), [(10.0, "inside"), (13.9, "inside"), (14.0, "outside"), (6.1, "inside"), (6.0, "outside")]
)
def test_interval_adds_both_errors(ours: float, finding: str) -> None:
    verdict = judge(10.0, 1.2, Measured(ours, 1.6, 100))  # 1.96 * 2 = 3.92
    assert verdict.finding == finding
    assert (verdict.low, verdict.high) == (pytest.approx(6.08, abs=1e-3), pytest.approx(13.92, abs=1e-3))


def test_what_cannot_be_judged_says_why() -> None:
    ours = Measured(1.0, 0.1, 10)
    assert judge(1.0, 0.1, None).why == "not run"
    assert judge(None, None, ours).why == "the paper shows a curve without numbers"
    assert judge(1.0, None, ours).why == "the printed number has no known sampling error"
    assert judge(1.0, 0.1, Measured(math.nan, 0.1, 10)).why == "our number is undefined"
    assert judge(1.0, 0.1, ours, obstacle="other items").why == "other items"
    assert {judge(1.0, None, ours).finding, judge(1.0, 0.1, ours, obstacle="x").finding} == {"not comparable"}


def test_same_data_leaves_only_rounding() -> None:
    exact = judge(4.83, 0.14, Measured(4.8311, 0.14, 374), same_data=True)
    other = judge(23.57, 0.28, Measured(21.18, 0.27, 23212), same_data=True)
    assert (exact.finding, "equal as printed" in exact.why) == ("inside", True)
    assert (other.finding, "more than rounding" in other.why) == ("outside", True)
    assert exact.high - exact.low == pytest.approx(2 * 1.96 * 0.14, rel=1e-3)


@pytest.mark.parametrize(
    ("printed", "ours", "ending"),
    [
        (-30.0, -20.0, "same sign"),
        (5.0, -20.0, "opposite sign"),
        (5.0, 1.0, "no clear sign"),
        (0.0, 9.0, "the printed sign is not clear"),
        (0.0, 1.0, "no clear sign"),
    ],
)
def test_the_lab_tells_a_direction(printed: float, ours: float, ending: str) -> None:
    verdict = describe_lab(printed, Measured(ours, 1.0, 600))
    assert verdict.finding == "not comparable"
    assert verdict.why.endswith(ending)
    if abs(ours) > 1.96:  # a printed number that is within its own error has no direction
        assert describe_lab(printed, Measured(ours, 1.0, 600), 1e3).why.endswith("the printed sign is not clear")


# Runs


def _result(
    scores: dict[str, list[float]], base: dict[str, list[float]], config: dict[str, Any] | None = None
) -> RunResult:
    def evals(values: dict[str, list[float]]) -> list[EvalResult]:
        return [
            EvalResult(task, "accuracy", 1, [str(n) for n in range(len(row))], row, sum(row) / len(row), 0.0, 1.0)
            for task, row in values.items()
        ]

    stats = MaskStats(5, 0, 100, 80, 0.9, 1.0)
    return RunResult(
        "id", "name", "FINISHED", config or {}, "mbpp", {}, stats, evals(base), evals(scores), {}, {}, {}, {}, None
    )


def test_measured_by_hand() -> None:
    base = {"mbpp": [1, 1, 0, 0], "math": [1, 1, 1, 1], "gsm8k": [1, 1, 0, 0]}
    after = {"mbpp": [1, 1, 1, 0], "math": [1, 1, 1, 0], "gsm8k": [1, 1, 0, 0]}
    runs = [_result(after, base)]
    datasets = {"MBPP": "mbpp", "MATH": "math", "GSM8K": "gsm8k", "BIRD": "bird"}

    def measured(metric: str, dataset: str, arm: str = "x") -> Measured | None:
        return measure_runs(ExpectedRow(arm, "M", "MBPP", dataset, metric, 0.0, 1, None), runs, datasets)

    assert measured("accuracy", "MBPP") == Measured(75.0, pytest.approx(25.0), 4)
    assert measured("accuracy", "MBPP", "base") == Measured(50.0, pytest.approx(100 / math.sqrt(12)), 4)
    ti = measured("ti", "MBPP")
    assert ti is not None
    # each item's part of the ratio 1.5: (after - 1.5 base) / 0.5 is -1, -1, 2, 0
    assert (ti.value, ti.standard_error) == (50.0, pytest.approx(100 * math.sqrt(2) / 2))
    bwt = measured("bwt", "MATH+GSM8K")
    assert bwt is not None
    assert (bwt.value, bwt.n) == (-12.5, 8)
    assert measure_other_tasks(runs) == bwt
    assert measured("bwt", "MATH+GSM8K+BIRD") is None
    assert measured("weight_norm", "") is None
    share = measured("masked_percent", "MBPP")
    assert share is not None
    assert (share.value, share.n) == (pytest.approx(20.0), 100)
    assert measure_runs(ExpectedRow("x", "M", "MBPP", "MBPP", "ti", 0.0, 1, None), [], datasets) is None


def test_seeds_add_their_spread() -> None:
    base = {"mbpp": [1.0, 0.0, 1.0, 0.0]}
    runs = [_result({"mbpp": row}, base) for row in ([1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.0])]
    row = ExpectedRow("x", "M", "MBPP", "MBPP", "accuracy", 0.0, 1, None)
    both, first = measure_runs(row, runs, {"MBPP": "mbpp"}), measure_runs(row, runs[:1], {"MBPP": "mbpp"})
    assert both is not None
    assert first is not None
    assert (both.value, both.num_seeds, first.num_seeds) == (62.5, 2, 1)
    items = 100 * math.sqrt((0.375**2 * 2 + 0.625**2 + 0.125**2) / 3 / 4)
    assert both.standard_error == pytest.approx(math.sqrt(items**2 + 12.5**2), rel=1e-6)


def test_results_on_disk_are_found_by_what_they_compute(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from tokensieve.config import to_plain

    experiment = find_experiment("t19_sequential")
    extra = [f"output_dir={tmp_path}"]
    (config,) = compose_arms(experiment, experiment.paper_setup, compose, extra)["STM on MATH", "Llama-3-8B", "MATH"]
    base = {name: [1.0, 0.0] * 600 for name in ("mbpp", "math", "arc_challenge", "gsm8k")}
    folder = tmp_path / "sweeps" / "s" / "jobs" / "1"
    folder.mkdir(parents=True)
    result = replace(_result(base, base, to_plain(config)), target_task="math")
    (folder / "result.json").write_text(result.to_json())
    broken = tmp_path / "runs" / "r"
    broken.mkdir(parents=True)
    (broken / "result.json").write_text('{"half')
    with caplog.at_level("WARNING"):
        rows = reproduce(experiment, compose, scale="paper", output_dir=tmp_path, run=False)
    assert f"results that cannot be read are left out: {broken / 'result.json'}" in caplog.text
    found = {(row.expected.metric, row.expected.dataset): row for row in rows if row.expected.arm == "STM on MATH"}
    ours = found["ti", "MATH"].ours
    assert ours is not None
    assert ours.value == 0
    assert found["ti", "MATH"].verdict.finding == "inside"
    assert found["accuracy", "ARC"].verdict.finding == "outside"  # 50 against 75.8
    assert found["accuracy", "MATH"].verdict.why.startswith("another draw")
    others = [row for row in rows if row.expected.arm == "then STM on MBPP"]
    assert {row.verdict.finding for row in others} == {"not comparable"}
    assert {row.verdict.why for row in others if row.expected.dataset == "ARC"} == {"not run"}
    text = (tmp_path / "reproduce/t19_sequential/paper/table.csv").read_text()
    assert len(list(csv.DictReader(io.StringIO(text)))) == len(rows)


def test_a_base_that_scores_nothing_is_undefined() -> None:
    runs = [_result({"mbpp": [1.0, 0.0]}, {"mbpp": [0.0, 0.0]})]
    found = measure_runs(ExpectedRow("x", "M", "MBPP", "MBPP", "ti", 0.0, 1, None), runs, {"MBPP": "mbpp"})
    assert found is not None
    assert math.isnan(found.value)
    assert judge(1.0, 1.0, found).why == "our number is undefined"


# From released perplexities


def _write_scores(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [  # the prompt's own values must not count; responses of 2 and 3 tokens
        {"input_ids": [5, 6, 7, 8], "num_prompt_tokens": 2, "ppl": [10.0, 1e9, 4.0, 1.0]},
        {"input_ids": [5, 6, 7, 8], "num_prompt_tokens": 1, "ppl": [10.0, 8.0, 1.0, 64.0]},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def test_sentence_perplexity_of_a_small_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scores.parquet"
    _write_scores(path)
    rows = reproduce(
        find_experiment("t01_sentence_perplexity"), compose, scale="paper", data=path, output_dir=tmp_path / "out"
    )
    ours = {row.expected.metric: row for row in rows if row.ours is not None}
    assert {row.expected.arm for row in ours.values()} == {"GT"}
    mean, variance = ours["mean_sentence_ppl"].ours, ours["variance_sentence_ppl"].ours
    assert mean is not None
    assert variance is not None
    # sqrt(4 * 1) = 2 and cbrt(8 * 1 * 64) = 8
    assert (mean.value, mean.n, variance.value) == (pytest.approx(5.0, rel=1e-6), 2, pytest.approx(9.0, rel=1e-6))
    assert ours["mean_sentence_ppl"].verdict.finding == "inside"
    assert ours["variance_sentence_ppl"].verdict.finding == "outside"  # 9 against 7.04 +- 2 * 0.52
    assert "1 inside, 1 outside, 10 not comparable" in capsys.readouterr().out
    assert (tmp_path / "out/reproduce/t01_sentence_perplexity/released/table.md").is_file()


def test_masked_shares_of_a_small_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    _write_scores(path)
    rows = reproduce(
        find_experiment("fig_masked_share"), compose, scale="paper", data=path, output_dir=tmp_path / "out"
    )
    shares = {row.expected.arm: row.ours.value for row in rows if row.ours is not None}
    assert shares["STM 2.5"] == pytest.approx(60)  # 4, 8, 64 of five
    assert shares["STM 10"] == pytest.approx(20)
    assert shares["STM 100"] == pytest.approx(0)


@pytest.mark.skipif(not (DATA / "stm_llama3_mbpp").is_dir(), reason="needs the released perplexities")
def test_released_perplexities_reproduce_table_1_and_the_figure(tmp_path: Path) -> None:
    path = DATA / "stm_llama3_mbpp/scores.parquet"
    rows = reproduce(find_experiment("t01_sentence_perplexity"), compose, scale="paper", data=path, output_dir=tmp_path)
    found = {row.expected.metric: row.ours.value for row in rows if row.ours is not None}
    assert found["mean_sentence_ppl"] == pytest.approx(4.831, abs=5e-4)
    assert found["variance_sentence_ppl"] == pytest.approx(7.050, abs=5e-4)
    rows = reproduce(find_experiment("fig_masked_share"), compose, scale="paper", data=path, output_dir=tmp_path)
    released = [row for row in rows if row.expected.source == "released"]
    assert len(released) == 7
    assert all("equal as printed" in row.verdict.why for row in released)


# Faults


def test_unknown_name_is_one_line_with_near_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "t13_treshold"]) == 1
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert "did you mean t13_thresholds" in error
    with pytest.raises(ConfigError, match="--list"):
        find_experiment("zzz")
    with pytest.raises(ConfigError, match="t02_main"):
        find_experiment("t02")


def test_the_folder_is_an_option_not_an_override(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "t13_thresholds", "output_dir=elsewhere", "--no-run"]) == 1
    assert "--output-dir elsewhere" in capsys.readouterr().err


def test_a_model_that_an_arm_compares_with_is_trained_first(capsys: pytest.CaptureFixture[str]) -> None:
    experiment = find_experiment("t14_dpf")
    arms = compose_arms(experiment, experiment.paper_setup, compose, ["output_dir=out"])
    folder = arms["DPF 0", "Gemma-2-2B", "MATH"][0].stm.tuned_adapter
    assert folder == "out/runs/t14_dpf-gemma2_2b_it-1/adapter"
    assert main(["reproduce", "t14_dpf", "seed=4,5", "--dry-run"]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith(
        "for seed in 4 5; do python train.py model=lab dataset=lab_math stm=none seed=$seed 'hydra.run"
    )
    assert first.endswith("; done")
    assert "seed=4,5" in others[0]


def test_commands_run_in_order_and_the_first_ones_once_a_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def call(command: str, extra: Sequence[str]) -> bool:
        called.append(shlex.join(full_command(command, extra)[1:]))
        return False

    monkeypatch.setattr("tokensieve.reproduce.run._call", call)
    experiment = find_experiment("t19_sequential")
    reproduce(experiment, compose, scale="lab", extra=["seed=7,8", "optim.lr=1e-3"], output_dir=tmp_path)
    assert [text.rpartition("hydra.run.dir=")[0].split("seed=")[1].strip(" '") for text in called[:2]] == ["7", "8"]
    assert all(text.startswith("train.py model=lab") and f"output_dir={tmp_path}" in text for text in called[:2])
    assert len(called) == 3
    assert called[2].startswith("train.py -m model=lab dataset=lab_code")
    assert all(word in called[2] for word in ("seed=7,8", "optim.lr=1e-3"))


def test_changes_of_a_second_step_are_against_the_model_before_both(tmp_path: Path) -> None:
    """Step 1: math .5 -> .75. Step 2, whose own base is the model after step 1: math .75 -> 1, code .5 -> .75."""
    from tokensieve.config import to_plain

    experiment = find_experiment("t19_sequential")
    arms = compose_arms(experiment, experiment.lab_setup, compose, [f"output_dir={tmp_path}", "seed=1,2"])
    start = {"lab_math": [1.0, 1.0, 0.0, 0.0], "lab_code": [1.0, 1.0, 0.0, 0.0], "lab_sql": [1.0, 1.0, 1.0, 1.0]}
    middle = start | {"lab_math": [1.0, 1.0, 1.0, 0.0]}
    end = {"lab_math": [1.0] * 4, "lab_code": [1.0, 1.0, 1.0, 0.0], "lab_sql": [1.0, 1.0, 1.0, 0.0]}
    steps = {("STM on MATH", "MATH"): (middle, start), ("then STM on MBPP", "MATH+MBPP"): (end, middle)}
    for (arm, trained_on), (after, before) in steps.items():
        for config in arms[arm, "Llama-3-8B", trained_on]:
            folder = tmp_path / "runs" / f"{len(after)}-{arm}-{config.seed}"
            folder.mkdir(parents=True)
            result = replace(_result(after, before, to_plain(config)), target_task=config.dataset.task or "")
            (folder / "result.json").write_text(result.to_json())
    rows = reproduce(experiment, compose, scale="lab", extra=["seed=1,2"], output_dir=tmp_path, run=False)
    found = {
        (row.expected.arm, row.expected.metric, row.expected.dataset): row.ours.value
        for row in rows
        if row.ours is not None
    }
    assert found["STM on MATH", "ti", "MATH"] == pytest.approx(50)
    assert found["then STM on MBPP", "ti", "MATH"] == pytest.approx(100)
    assert found["then STM on MBPP", "ti", "MBPP"] == pytest.approx(50)
    assert found["then STM on MBPP", "bwt", "ARC+GSM8K"] == pytest.approx(-25)  # lab_sql alone: neither was trained for
    assert len(rows) == 5


def test_data_that_the_lab_has_nothing_like_are_told_from_runs_that_are_missing(tmp_path: Path) -> None:
    experiment = find_experiment("robustft_t3_ablation")
    rows = reproduce(experiment, compose, scale="lab", output_dir=tmp_path, run=False)
    reasons = {trained_on: {row.verdict.why for row in rows if row.expected.trained_on == trained_on}
               for trained_on in ("ARC", "MMLU")}  # fmt: skip
    assert reasons == {"ARC": {"not run"}, "MMLU": {"no counterpart in the lab"}}


def test_what_came_out_in_the_lab_is_written_into_the_folder(tmp_path: Path) -> None:
    from tokensieve.reproduce.record import write_lab_record
    from tokensieve.reproduce.table import Judged

    experiment = replace(find_experiment("t19_sequential"), folder=tmp_path)
    row = ExpectedRow("STM | x", "M", "MATH", "MATH", "ti", 6.37, 1000, 6.9, "derived")
    ours = Measured(-3.0, 1.0, 200, 5)
    rows = [Judged(row, ours, describe_lab(6.37, ours)), Judged(replace(row, arm="y"), None, describe_lab(6.37, None))]
    lines = write_lab_record(experiment, rows).read_text(encoding="utf-8").splitlines()
    assert lines[-2] == (
        "| STM \\| x | MATH | TI, % (MATH) | 6.37 ± 6.90 (M) | -3.00 ± 1.00 | 200 × 5 seeds | opposite sign |"
    )
    assert lines[-1].endswith("| – | – | not run |")
    with pytest.raises(ConfigError, match="--record"):
        reproduce(experiment, compose, scale="paper", output_dir=tmp_path, run=False, record=True)


def test_every_table_holds_what_came_out_in_the_lab() -> None:
    for experiment in list_experiments():
        readme = (experiment.folder / "README.md").read_text(encoding="utf-8")
        assert "What came out: [lab.md](lab.md)" in readme, experiment.id
        assert f"`tokensieve reproduce {experiment.id} --record`" in (experiment.folder / "lab.md").read_text(
            encoding="utf-8"
        )


def test_data_must_exist_and_belong_to_the_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="existing file"):
        reproduce(find_experiment("fig_masked_share"), compose, scale="paper", data=tmp_path / "x", output_dir=tmp_path)
    with pytest.raises(ConfigError, match="no released perplexities"):
        reproduce(find_experiment("t02_main"), compose, scale="paper", data=tmp_path / "x", output_dir=tmp_path)


def test_damaged_files_name_the_place(tmp_path: Path) -> None:
    path = tmp_path / "expected.csv"
    path.write_text("arm,model\n1,2\n")
    with pytest.raises(DataError, match="must have the columns"):
        read_expected(path)
    columns = ",".join(field for field in ExpectedRow.__dataclass_fields__)
    path.write_text(f"{columns}\nx,M,A,A,accuracy,many,10,,paper,\n")
    with pytest.raises(DataError, match=r"expected\.csv:2"):
        read_expected(path)
    (tmp_path / "experiment.yaml").write_text("id: other\n")
    with pytest.raises(DataError, match="no key 'title'"):
        read_experiment(tmp_path)
    (tmp_path / "experiment.yaml").write_text("[1, 2")
    with pytest.raises(DataError, match="must describe an experiment"):
        read_experiment(tmp_path)


def test_a_failed_command_is_told_after_the_table(tmp_path: Path) -> None:
    experiment = find_experiment("t19_sequential")
    commands = ("python -c pass", "python -c 'raise SystemExit(3)'")
    broken = replace(experiment, lab_setup=replace(experiment.lab_setup, first=(), commands=commands))
    with pytest.raises(SweepError, match="1 of its commands failed"):
        reproduce(broken, compose, scale="lab", output_dir=tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "reproduce/t19_sequential/lab/table.csv").read_text())))
    assert rows
    assert {row["verdict"] for row in rows} == {"not comparable"}


def test_a_failed_arm_costs_its_own_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokensieve.reproduce import collect

    def measure(config: Any, rows: list[ExpectedRow]) -> dict[ExpectedRow, Measured]:
        if config.variant.name == "rephrase":
            raise DataError("variant rephrase", "must keep a row")
        return {row: Measured(300.0, 8.0, 374) for row in rows}

    monkeypatch.setattr(collect, "_measure", measure)
    with pytest.raises(SweepError, match="1 of its arms failed"):
        reproduce(find_experiment("t17_usable_samples"), compose, scale="paper", output_dir=tmp_path)
    text = (tmp_path / "reproduce/t17_usable_samples/paper/table.csv").read_text()
    verdicts = {row["arm"]: row["verdict"] for row in csv.DictReader(io.StringIO(text))}
    expected = {"GT": "outside", "STM 2.5": "outside", "Self-Output": "outside", "Rephrase": "not comparable"}
    assert verdicts == expected  # 300 +- 8 against 374 +- 0, 374 +- 0, 213 +- 10


def test_an_interrupted_table_lets_its_sweep_stop(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(open(sys.argv[1], 'w').write('x')))"
            "\nopen(sys.argv[1] + '.ready', 'w').close()\ntime.sleep(60)",
            str(tmp_path / "saved"),
        ]
    )
    while not (tmp_path / "saved.ready").exists():
        assert child.poll() is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokensieve.reproduce.run._GRACE_SECONDS", 0.01)
        _let_stop(child)
    assert (tmp_path / "saved").read_text() == "x"


def test_later_overrides_take_the_place_of_earlier_ones() -> None:
    words = full_command("python train.py -m +dataset@eval.datasets.math=math model=lab seed=1,2", ["seed=3", "a.b=1"])
    assert words == [
        sys.executable,
        "train.py",
        "-m",
        "+dataset@eval.datasets.math=math",
        "model=lab",
        "seed=3",
        "a.b=1",
    ]


def test_seeds_of_the_command_line_win() -> None:
    experiment = find_experiment("t13_thresholds")
    configs = compose_arms(experiment, experiment.lab_setup, compose, ["seed=4,5"])["none", "Llama-3-8B", "MATH"]
    assert [config.seed for config in configs] == [4, 5]


def test_a_config_error_loads_no_torch() -> None:
    script = (
        "import sys; from tokensieve.cli import main; code = main(['reproduce', 't13_thresholds', 'optim.lr=-1', "
        "'--dry-run']); assert code == 1; assert main(['reproduce', 't13_thresholds', '--dry-run']) == 0; "
        "assert main(['reproduce', '--list']) == 0; print([name for name in ('torch', 'transformers', 'datasets') if "
        "name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip().endswith("[]")
    assert "optim.lr" in done.stderr
