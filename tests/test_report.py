"""The report, on folders as sweeps leave them."""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fake_sweep import TASKS, config_of, job, result_of, run_name, threshold_sweep, write_run, write_sweep
from rich.console import Console

from tokensieve.config import RunConfig, StmConfig
from tokensieve.errors import CacheError, DataError
from tokensieve.report import load_sweep, summarise_sweep, write_report
from tokensieve.report.arms import Arm, build_arms
from tokensieve.report.axis import choose_axis
from tokensieve.report.change import change_interval, detectable_change, score_interval
from tokensieve.report.figure import to_svg
from tokensieve.report.findings import findings
from tokensieve.report.load import arm_of, read_sweep
from tokensieve.report.pairs import pair
from tokensieve.report.plots import draw_curves, draw_quantity, forgetting
from tokensieve.report.table import columns, explain
from tokensieve.report.terminal import print_table
from tokensieve.statistics import (
    compare_arms,
    detectable_over_seeds,
    minimum_detectable_difference,
    paired_bootstrap,
    seed_interval,
)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=100)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests about words and numbers: drawing is most of a report's time."""
    monkeypatch.setattr("tokensieve.report.page._figures", lambda arms: iter(()))
    monkeypatch.setattr("tokensieve.report.figure.save_figure", lambda figure, path: path.touch())


class Page(HTMLParser):
    """Checks that tags nest, and collects what would leave the page."""

    VOID = ("meta", "br", "link", "img", "path", "use", "stop")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.requests: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key in ("src", "href", "xlink:href", "action") and not (value or "").startswith("#"):
                self.requests.append(f"{tag} {key}={value}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def check_page(path: Path) -> str:
    text = path.read_text()
    page = Page(text)
    assert page.open == []
    assert page.requests == []
    assert "@import" not in text
    assert "<script" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "nan" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL).lower().replace("finan", "")
    return text


@pytest.mark.parametrize("rule", ["none", "high_ppl", "low_ppl", "random", "quantile", "dpf", "stm_dpf"])
def test_arm_of_is_the_label_of_the_config(rule: str) -> None:
    stm = StmConfig(rule=rule, threshold=3.25, tuned_adapter="adapter")  # type: ignore[arg-type]
    values = {key: getattr(stm, key) for key in ("rule", "threshold", "quantile", "dpf_threshold")}
    assert arm_of(values) == RunConfig(stm=stm).arm


def test_single_seed_change_is_the_paired_bootstrap() -> None:
    rng = np.random.default_rng(0)
    before = (rng.uniform(size=300) < 0.6).astype(float)
    after = np.where(rng.uniform(size=300) < 0.15, 1 - before, before)
    ours, theirs = change_interval([[(after, before)]], "points"), paired_bootstrap(after, before)
    assert ours == pytest.approx([100 * value for value in theirs])


def test_several_seeds_are_at_least_as_wide_as_the_t_interval_and_as_items_allow() -> None:
    rng = np.random.default_rng(0)
    before = (rng.uniform(size=200) < 0.6).astype(float)
    afters = [np.where(rng.uniform(size=200) < 0.2, 1 - before, before) for _ in range(4)]
    ours = change_interval([[(after, before)] for after in afters], "points")
    over_seeds = seed_interval([100 * float((after - before).mean()) for after in afters])
    assert ours.value == pytest.approx(over_seeds.value)
    assert ours.low <= over_seeds.low
    assert ours.high >= over_seeds.high
    # Seeds that agree item by item bring no news about the items: the interval is that of one seed.
    same = change_interval([[(afters[0], before)]] * 4, "points")
    one = change_interval([[(afters[0], before)]], "points")
    assert same.high - same.low == pytest.approx(one.high - one.low, rel=0.05)
    crossed = compare_arms([afters[0]] * 4, [before] * 4)
    assert same.high - same.low == pytest.approx(100 * (crossed.high - crossed.low), rel=0.05)


def test_one_task_in_points_is_the_comparison_of_two_arms() -> None:
    rng = np.random.default_rng(1)
    before = (rng.uniform(size=150) < 0.6).astype(float)
    afters = [np.where(rng.uniform(size=150) < share, 1 - before, before) for share in (0.1, 0.2, 0.3)]
    ours = change_interval([[(after, before)] for after in afters], "points")
    assert ours == pytest.approx([100 * value for value in compare_arms(afters, [before] * 3)])
    # A seed that lacks the score of an item cannot be crossed with the others.
    shorter = change_interval([[(afters[0], before)], [(afters[1][1:], before[1:])]], "points")
    assert shorter.low < shorter.value < shorter.high


def test_what_could_have_been_seen_of_one_task_and_of_the_mean_of_several() -> None:
    flat = np.zeros(200)
    alone = detectable_change([[(flat, flat)]])
    assert alone == pytest.approx(100 * minimum_detectable_difference(0.0, 200))
    assert detectable_change([[(flat, flat)] * 4]) == pytest.approx(alone / 2)  # independent tasks: errors average out
    # One training moves all tasks together: the mean over tasks spreads over seeds as much as each task does.
    ups = [np.r_[np.ones(number), np.zeros(200 - number)] for number in (10, 30, 50)]
    together = detectable_change([[(up, flat)] * 4 for up in ups])
    assert together == pytest.approx(100 * detectable_over_seeds([0.05, 0.15, 0.25]))
    assert math.isnan(detectable_change([]))
    assert math.isnan(detectable_change([[]]))
    assert math.isnan(detectable_change([[(flat, flat)], [(flat[1:], flat[1:])]]))


def test_the_report_tells_what_could_have_been_seen_and_how_many_comparisons_there_are(
    tmp_path: Path, no_figures: None
) -> None:
    folder = threshold_sweep(tmp_path / "sweep")
    console = quiet()
    write_report(folder, console=console)
    text = " ".join(printed(console).split())
    assert re.search(r"Minimum detectable differences .*: target \d+\.\d to \d+\.\d, others \d+\.\d", text)
    assert "exclude zero by chance when no arm differs" in text
    frame = summarise_sweep(folder)
    masked = frame[frame["arm"] == "stm=2.5"].iloc[0]
    for column in ("target_delta_points", "others_delta_points", "target_points_vs_unmasked"):
        assert 0 < masked[f"{column}_mdd"] < 20
    assert math.isnan(frame["target_delta_points_mdd"][0])  # the base is compared with nothing


def test_scores_of_several_versions_of_a_task_are_told(tmp_path: Path) -> None:
    sweep = read_sweep(threshold_sweep(tmp_path / "sweep"))
    assert not [line for line in explain(sweep, build_arms(sweep)) if "versions" in line]
    first = sweep.runs[0]
    assert first.result is not None
    evals = [replace(entry, version=9) if entry.task == "lab_sql" else entry for entry in first.result.evals]
    runs = (replace(first, result=replace(first.result, evals=evals)), *sweep.runs[1:])
    lines = explain(sweep, build_arms(replace(sweep, runs=runs)))
    assert len([line for line in lines if line.startswith("lab_sql was graded in versions 1, 9")]) == 1


def test_relative_change_by_hand_and_undefined_on_a_base_of_zero() -> None:
    ones, half, zeros = np.ones(4), np.array([1.0, 0, 1, 0]), np.zeros(4)
    assert change_interval([[(half, ones), (ones, half)]], "relative").value == pytest.approx((-50 + 100) / 2)
    assert math.isnan(change_interval([[(half, ones), (ones, zeros)]], "relative").value)
    assert math.isnan(change_interval([], "points").value)
    assert math.isnan(change_interval([[]], "points").value)
    assert score_interval([ones, half]).value == 0.75


def test_pair_aligns_by_item_and_leaves_out_what_has_no_score() -> None:
    entry = result_of(job([]), num_items=4).evals[0]
    after = replace(entry, item_ids=["a", "b", "c", "d"], item_scores=[1.0, 0.0, None, 1.0])  # type: ignore[list-item]
    before = replace(entry, item_ids=["d", "c", "a"], item_scores=[0.0, 1.0, 0.5])
    one, other = pair(after, before)
    assert one.tolist() == [1.0, 1.0]
    assert other.tolist() == [0.5, 0.0]


def test_load_sweep_has_a_row_for_each_run_and_task(tmp_path: Path) -> None:
    frame = load_sweep(threshold_sweep(tmp_path / "sweep", seeds=(1, 2)))
    assert len(frame) == 8 * len(TASKS)
    row = frame[(frame["label"] == "stm=2.5") & (frame["seed"] == 2) & frame["is_target"]].iloc[0]
    assert row["task"] == "lab_code"
    assert row["border"] == 2.5
    assert row["n"] == 200
    assert row["low"] < row["value"] < row["high"]
    assert row["delta_points"] == pytest.approx(100 * (row["value"] - row["base_value"]))
    assert row["item_scores"].mean() == pytest.approx(row["value"])
    assert set(frame["control"].dropna()) == {"unmasked"}
    assert set(frame[frame["control"] == "unmasked"]["arm"]) == {"unmasked"}


def test_summary_orders_arms_and_averages_seeds(tmp_path: Path) -> None:
    folder = threshold_sweep(tmp_path / "sweep", ("1.5", "2.5", "1000"), seeds=(1, 2, 3))
    frame = summarise_sweep(folder)
    assert frame["arm"].tolist() == ["base", "unmasked", "stm=1000", "stm=2.5", "stm=1.5"]
    assert frame["num_seeds"].tolist() == [0, 3, 3, 3, 3]
    runs = load_sweep(folder)
    chosen = runs[(runs["arm"] == "stm=2.5") & ~runs["is_target"].astype(bool)]
    row = frame[frame["arm"] == "stm=2.5"].iloc[0]
    assert row["others_delta_points"] == pytest.approx(chosen["delta_points"].mean())
    relative = 100 * (chosen["value"] / chosen["base_value"] - 1)
    assert row["bwt_percent"] == pytest.approx(relative.mean())
    assert row["others_points_vs_unmasked_low"] > 0
    assert math.isnan(frame["target_points_vs_unmasked"][1])


def test_comparison_with_unmasked_uses_shared_seeds_and_settings(tmp_path: Path) -> None:
    jobs = [job(["stm.threshold=2.5", f"lora={lora}", f"seed={seed}"]) for lora in ("r16", "dora") for seed in (1, 2)]
    jobs += [job(["stm.rule=none", "lora=r16", "seed=2"], control="unmasked")]
    folder = write_sweep(
        tmp_path / "s", jobs, {"lora": ["r16", "dora"], "seed": ["1", "2"], "stm.threshold": ["2.5", "4"]}
    )
    arms = {arm.label: arm for arm in build_arms(read_sweep(folder))}
    assert arms["stm=2.5 · lora=dora"].against_unmasked is None
    compared = arms["stm=2.5 · lora=r16"].against_unmasked
    assert compared is not None
    masked, unmasked = result_of(jobs[1]), result_of(jobs[4])
    assert compared[0].value == pytest.approx(100 * (masked.evals[0].value - unmasked.evals[0].value))


def test_report_of_a_threshold_sweep(tmp_path: Path) -> None:
    folder = threshold_sweep(tmp_path / "sweep")
    console = quiet()
    paths = write_report(folder, console=console)
    assert all(path.stat().st_size > 0 for path in paths.existing())
    assert len(paths.existing()) == 5
    text = check_page(paths.page)
    assert text.count("<svg") == 5
    assert "python train.py -m stm.threshold=1.5,2.5,4" in text
    assert "Training on every token moved lab_code by" in text
    assert paths.page.stat().st_size < 1_000_000
    lines = printed(console).splitlines()
    assert [line.split(" ")[0] for line in lines if line.startswith(("base", "unmasked", "stm"))] == [
        "base",
        "unmasked",
        "stm=4",
        "stm=2.5",
        "stm=1.5",
    ]
    assert any(line.startswith("n = 200 items of lab_code, 600 of 3 other tasks; 1 seed") for line in lines)
    assert "\x1b" not in printed(console)
    assert paths.markdown.read_text().count("\n| ") == 6
    assert paths.csv.read_text().splitlines()[0].startswith("arm,rule,border")


def test_figures_are_reproducible(tmp_path: Path) -> None:
    arms = build_arms(read_sweep(threshold_sweep(tmp_path / "sweep")))
    texts = [to_svg(draw_quantity(arms, forgetting, "points"), "a & b", "one") for _ in range(2)]
    assert texts[0] == texts[1]
    assert 'aria-label="a &amp; b"' in texts[0]
    assert re.findall(r'\bid="(?!one-)', texts[0]) == []


@pytest.mark.usefixtures("no_figures")
def test_failed_and_duplicate_jobs_are_listed_under_their_names(tmp_path: Path) -> None:
    error = "fit: loss is <not> finite\nat step 17"
    jobs = [
        job(["stm.threshold=1000"]),
        job(["stm.threshold=2.5"], state="FAILED", error=error),
        job(["stm.threshold=4"], state="KILLED"),
        job(["stm.rule=none"], control="unmasked"),
    ]
    jobs.append(job(["stm.threshold=2000"], state="SKIPPED", same_as=jobs[0]["id"]))
    folder = write_sweep(tmp_path / "sweep", jobs, {"stm.threshold": ["1000", "2.5", "4", "2000"]})
    console = quiet()
    paths = write_report(folder, console=console)
    shown = printed(console)
    assert "3 of 5 runs finished" in shown
    assert "FAILED lab/lab_code/ground_truth/stm=2.5" in shown
    assert "loss is <not> finite at step 17" in shown
    assert f"log: {folder / jobs[1]['dir'] / 'log.txt'}" in shown
    assert "loss is &lt;not&gt; finite" in check_page(paths.page)
    assert "stm=2000 (seed 1) is the same training as stm=1000" in shown
    arms = build_arms(read_sweep(folder))
    assert [arm.label for arm in arms] == ["base", "unmasked", "stm=2000", "stm=1000"]
    assert arms[2].tasks == arms[3].tasks
    assert not any("2 masked arms" in line for line in findings(arms))
    states = load_sweep(folder).groupby("run")["state"].first()
    assert states[jobs[4]["name"]] == "FINISHED"
    assert states[jobs[1]["name"]] == "FAILED"


def test_a_duplicate_within_one_arm_is_no_second_seed(tmp_path: Path) -> None:
    first = job(["stm.rule=none", "stm.threshold=2"])
    second = job(["stm.rule=none", "stm.threshold=3"], state="SKIPPED", same_as=first["id"])
    folder = write_sweep(tmp_path / "s", [first, second], {"stm.threshold": ["2", "3"]})
    arms = build_arms(read_sweep(folder))
    assert [(arm.label, len(arm.seeds)) for arm in arms] == [("base", 0), ("unmasked", 1)]


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_arms_of_a_file_are_not_pooled_over_a_key_that_one_of_them_sets(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    """`optim.lr` has one value in the whole sweep, and yet it varies: the other arms leave it alone."""
    arms = {
        "unmasked": ["stm.rule=none"],
        "slow": ["stm.rule=none", "optim.lr=0.0001"],
        "masked": ["stm.threshold=2.5"],
        "masked, slow": ["stm.threshold=2.5", "optim.lr=0.0001"],
    }
    jobs = [job([*overrides, f"seed={seed}"]) for overrides in arms.values() for seed in seeds]
    axes = {
        "optim.lr": ["0.0001"],
        "stm.rule": ["none"],
        "stm.threshold": ["2.5"],
        "seed": [str(seed) for seed in seeds],
    }
    found = build_arms(read_sweep(write_sweep(tmp_path / "s", jobs, axes)))
    rows = {arm.label: arm for arm in found if not arm.is_base}
    assert sorted(rows) == ["stm=2.5", "stm=2.5 · lr=0.0001", "unmasked", "unmasked · lr=0.0001"]
    assert all(arm.seeds == seeds for arm in rows.values())
    assert rows["stm=2.5"].against_unmasked is not None
    pair = [
        mean_score(rows[f"stm=2.5{slow}"]) - mean_score(rows[f"unmasked{slow}"]) for slow in ("", " · lr=0.0001")
    ]  # each masked arm is compared with the unmasked one of its own rate
    for slow, expected in zip(("", " · lr=0.0001"), pair, strict=True):
        against = rows[f"stm=2.5{slow}"].against_unmasked
        assert against is not None
        assert against[0].value == pytest.approx(100 * expected)


def test_weighted_arms_are_compared_with_plain_unmasked_training(tmp_path: Path) -> None:
    """As masked ones with a weight are, where nobody trained with that weight alone; a path tells no arms apart."""
    arms = {
        "plain": ["stm.rule=none"],
        "dft": ["stm.rule=none", "weight.rule=dft"],
        "rho": ["stm.rule=none", "weight.rule=rho", "weight.reference=runs/a/adapter"],
        "rho, low": ["stm.rule=none", "weight.rule=rho", "weight.keep=low", "weight.reference=runs/a/adapter"],
        "masked": ["stm.threshold=2.5", "weight.rule=eaft"],
    }
    axes = {"weight.rule": ["dft", "rho", "eaft"], "weight.reference": ["runs/a/adapter"], "weight.keep": ["low"]}
    jobs = [job(overrides) for overrides in arms.values()]
    found = {arm.label: arm for arm in build_arms(read_sweep(write_sweep(tmp_path / "s", jobs, axes)))}
    assert list(found) == [
        "base",
        "unmasked",
        "unmasked · rule=dft",
        "unmasked · rule=rho",
        "unmasked · rule=rho · keep=low",
        "stm=2.5 · rule=eaft",
    ]
    assert found["unmasked"].against_unmasked is None
    for label in list(found)[2:]:
        against = found[label].against_unmasked
        assert against is not None
        assert against[0].value == pytest.approx(100 * (mean_score(found[label]) - mean_score(found["unmasked"])))


def test_many_named_arms_stand_under_each_other(tmp_path: Path) -> None:
    names = [f"a_rule_with_a_name_{number}" for number in range(12)]
    jobs = [job(["stm.rule=none", f"weight.rule={name}"]) for name in names]
    arms = build_arms(read_sweep(write_sweep(tmp_path / "s", jobs, {"weight.rule": names})))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a layout that collapses is a warning
        text = to_svg(draw_quantity(arms, forgetting, "points"), "d", "n")
        assert draw_curves(arms, "train/nll", "NLL") is not None
    heights = [float(height) for height in re.findall(r'viewBox="0 0 [\d.]+ ([\d.]+)"', text)]
    assert heights[0] > 250
    assert all(text.count(f"with_a_name_{number}<") == 1 for number in range(12))


def mean_score(arm: Arm) -> float:
    assert arm.target is not None
    return arm.target.score.value


def test_a_control_without_the_swept_key_does_not_make_it_vary(tmp_path: Path) -> None:
    jobs = [job(["stm.threshold=2.5"]), job(["stm.rule=none"], control="unmasked")]
    found = build_arms(read_sweep(write_sweep(tmp_path / "s", jobs, {"stm.threshold": ["2.5"]})))
    assert [arm.label for arm in found] == ["base", "unmasked", "stm=2.5"]
    assert all(not arm.axes for arm in found)


def test_nothing_finished(tmp_path: Path) -> None:
    jobs = [job(["stm.threshold=1.5"], state="FAILED", error="disk full"), job(["stm.threshold=2"], state="PENDING")]
    folder = write_sweep(tmp_path / "sweep", jobs, {"stm.threshold": ["1.5", "2"]})
    console = quiet()
    paths = write_report(folder, console=console)
    assert paths.figure is None
    assert "No run finished" in check_page(paths.page)
    assert "No run finished" in printed(console)
    assert "disk full" in printed(console)
    assert "Not ended: 1 waiting." in printed(console)
    page = paths.page.read_text(encoding="utf-8")
    assert "Not ended: 1 waiting." in page
    assert "Without a result: 1" in page  # what waits is no fault
    assert load_sweep(folder)["state"].tolist() == ["FAILED", "PENDING"]


@pytest.mark.usefixtures("no_figures")
def test_single_run_and_folder_that_is_none(tmp_path: Path) -> None:
    write_run(tmp_path / "run", job(["stm.threshold=2.5"]))
    console = quiet()
    paths = write_report(tmp_path / "run", console=console)
    assert paths.page.parent == tmp_path / "run" / "report"
    assert "stm=2.5" in printed(console)
    check_page(paths.page)
    with pytest.raises(DataError, match=r"sweep\.json"):
        write_report(tmp_path, console=quiet())
    (tmp_path / "sweep.json").write_text('{"jobs": [{"id": 1}')
    with pytest.raises(DataError, match="manifest"):
        load_sweep(tmp_path)


@pytest.mark.parametrize(
    ("axes", "overrides", "labels", "title"),
    [
        (
            {"optim.lr": ["1e-3", "1e-4"]},
            ["optim.lr=1e-3", "optim.lr=1e-4"],
            ["stm=2.5 · lr=1e-3", "stm=2.5 · lr=1e-4"],
            "optim.lr",
        ),
        ({"seed": ["1", "2"]}, ["seed=1", "seed=2"], ["stm=2.5"], ""),
        ({"lora": ["r16", "dora"]}, ["lora=r16", "lora=dora"], ["stm=2.5 · lora=r16", "stm=2.5 · lora=dora"], ""),
    ],
)
def test_other_axes(
    tmp_path: Path, axes: dict[str, list[str]], overrides: list[str], labels: list[str], title: str
) -> None:
    folder = write_sweep(tmp_path / "s", [job([text]) for text in overrides], axes)
    arms = build_arms(read_sweep(folder))
    assert [arm.label for arm in arms] == ["base", *labels]
    assert choose_axis(arms).title == title
    if title:
        check_page(write_report(folder, console=quiet()).page)


def test_threshold_axis_is_logarithmic_with_unmasked_at_its_right_end(tmp_path: Path) -> None:
    arms = build_arms(read_sweep(threshold_sweep(tmp_path / "s", ("1.5", "2.5", "1000"))))
    axis = choose_axis(arms)
    assert axis.is_log
    places = {arm.label: axis.place(arm) for arm in arms if not arm.is_base}
    assert places["stm=2.5"] == 2.5
    assert places["unmasked"] == axis.none_place > 1000
    assert axis.ticks[places["unmasked"]] == "none"
    assert set(axis.series) == {"STM", "unmasked"}


def test_a_search_over_two_numbers_is_a_cloud_of_points(tmp_path: Path) -> None:
    trials = [[f"stm.threshold={1.5 + number / 7:.3f}", f"optim.lr={1e-4 * (1 + number):.2e}"] for number in range(24)]
    jobs = [job(overrides) for overrides in trials]
    folder = write_sweep(tmp_path / "s", jobs, {}, num_items=20)
    arms = build_arms(read_sweep(folder))
    axis = choose_axis(arms)
    assert axis.is_scatter
    assert set(axis.series) == {"STM"}
    assert len(arms) == 25
    figure = draw_curves(arms, "train/nll", "nats")
    assert figure is not None
    assert figure.legends == []


def test_dollar_signs_are_text(tmp_path: Path) -> None:
    jobs = [job([f"lora={name}"]) for name in ("$a^", "b$_")]
    arms = build_arms(read_sweep(write_sweep(tmp_path / "s", jobs, {"lora": ["$a^", "b$_"]}, num_items=10)))
    assert "lora=$a^" in to_svg(draw_quantity(arms, forgetting, "points"), "x", "x")


def test_one_task_and_a_base_of_zero(tmp_path: Path) -> None:
    one = build_arms(read_sweep(threshold_sweep(tmp_path / "one", tasks={"lab_code": 0.5})))
    assert [column.short for column in columns(one)] == [
        "kept %",
        "lab_code %",
        "Δ lab_code",
        "TI %",
        "lab_code vs unmasked",
        "MDD lab_code",
    ]
    console = quiet()
    zero = write_report(threshold_sweep(tmp_path / "zero", tasks={"lab_code": 0.0, "lab_sql": 0.5}), console=console)
    check_page(zero.page)
    assert "undefined where the base scores 0 (lab_code)" in printed(console)


def test_a_run_without_evaluations_or_with_nan(tmp_path: Path) -> None:
    entry = job([])
    write_run(tmp_path / "run", entry)
    result = result_of(entry)
    nothing = replace(result, evals=(), base_evals=(), target_task="", fit={"val/nll": math.nan}, mask=None)
    (tmp_path / "run" / "result.json").write_text(nothing.to_json())
    check_page(write_report(tmp_path / "run", console=quiet()).page)
    bad = replace(result.evals[0], item_scores=[math.nan] * 200, value=math.nan, low=math.nan, high=math.nan)
    (tmp_path / "run" / "result.json").write_text(replace(result, evals=(bad, *result.evals[1:])).to_json())
    check_page(write_report(tmp_path / "run", console=quiet()).page)
    (tmp_path / "run" / "result.json").write_text("{half")
    console = quiet()
    write_report(tmp_path / "run", console=console)
    assert "result.json cannot be read" in printed(console)


@pytest.mark.usefixtures("no_figures")
def test_a_folder_that_cannot_be_written_still_prints_the_table(tmp_path: Path) -> None:
    folder = threshold_sweep(tmp_path / "s", num_items=10)
    (folder / "report").write_text("in the way")
    console = quiet()
    with pytest.raises(CacheError, match="must be writable"):
        write_report(folder, console=console)
    assert "unmasked" in printed(console)


def test_manifest_without_axes_names_what_varies(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", [job([f"optim.lr={lr}", "lora=r16"]) for lr in ("1e-3", "1e-4")], {})
    assert [arm.label for arm in build_arms(read_sweep(folder))] == ["base", "stm=2.5 · lr=1e-3", "stm=2.5 · lr=1e-4"]


def test_a_killed_job_is_not_shown_as_running(tmp_path: Path) -> None:
    entry = job(["stm.threshold=1.5"], state="FAILED", error="killed by signal 9")
    folder = write_sweep(tmp_path / "s", [entry], {"stm.threshold": ["1.5", "2"]})
    status = folder / entry["dir"] / "status.json"
    status.write_text(json.dumps({**json.loads(status.read_text()), "status": "RUNNING", "error": None}))
    run = read_sweep(folder).runs[0]
    assert (run.state, run.error) == ("FAILED", "killed by signal 9")


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_terminal_of_any_width(tmp_path: Path, width: int) -> None:
    sweep = read_sweep(threshold_sweep(tmp_path / "s"))
    arms = build_arms(sweep)
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    print_table(sweep, arms, console)
    shown = printed(console)
    assert all(len(line) <= width for line in shown.splitlines() if "log" not in line and "runs finished" not in line)
    assert "..." not in shown.replace("…", "...")
    if width == 200:
        assert all(column.short.split()[0] in shown for column in columns(arms))


def test_a_closed_pipe_costs_neither_files_nor_what_follows(tmp_path: Path) -> None:
    threshold_sweep(tmp_path / "s")
    code = "import sys; from tokensieve.report import write_report; write_report(sys.argv[1]); sys.exit(7)"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.returncode == 7, done.stderr
    assert list((tmp_path / "s/report").glob("*.html"))


def test_run_name_of_the_fixture_is_the_real_one() -> None:
    assert run_name(config_of(["stm.threshold=4"])).split("/")[3] == "stm=4"
    parts = RunConfig().run_name.split("/")
    assert parts[3] == RunConfig().arm
