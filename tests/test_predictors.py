"""What foretold forgetting: the numbers by hand, and what is said of them."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_sweep import job, threshold_sweep, write_sweep
from rich.console import Console
from test_report import check_page

from tokensieve.report import write_report
from tokensieve.report.arms import build_arms
from tokensieve.report.forgetting import MIN_MASKS, cells, forgetting_of, predictor_markdown, study_forgetting
from tokensieve.report.load import read_sweep
from tokensieve.report.predictors import PREDICTORS, measure_predictors
from tokensieve.statistics.rank_correlation import (
    correlate_ranks,
    correlate_without_each,
    leave_one_out_error,
    spearman,
)
from tokensieve.token_classes import classify_pieces

THRESHOLDS = ("1.5", "2.5", "4", "10", "25", "1000")


def one(x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
    return np.array([x]), np.array([y])


def write_artefact(root: Path, stage: str, digest: str, rows: list[dict[str, Any]]) -> None:
    from datasets import Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    name, kind = ("nll", "float32") if stage == "scores" else ("keep", "bool")
    folder = root / stage / digest
    folder.mkdir(parents=True)
    features = Features({"id": Value("string"), name: List(Value(kind))})
    with ArrowWriter(features=features, path=str(folder / "data.arrow")) as writer:
        for row in rows:
            writer.write(row)
        writer.finalize()


def stamps_of(folder: Path, entry: dict[str, Any]) -> dict[str, str]:
    return json.loads((folder / entry["dir"] / "result.json").read_text())["stamps"]


def test_spearman_is_scipys_with_ties() -> None:
    from scipy import stats

    rng = np.random.default_rng(0)
    x, y = rng.integers(5, size=40).astype(float), rng.normal(size=40)
    assert spearman([(x[:10], y[:10]), (x[10:], y[10:])]) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert math.isnan(spearman([one(1, 2), one(1, 3)]))
    assert math.isnan(spearman([one(math.nan, 2), one(1, 3)]))


def test_seeds_of_an_arm_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(1)
    arms = [one(x, y) for x, y in zip(rng.normal(size=8), rng.normal(size=8), strict=True)]
    repeated = [(np.repeat(x, 5), np.repeat(y, 5)) for x, y in arms]
    few, many = correlate_ranks(arms), correlate_ranks(repeated)
    assert many.value == pytest.approx(few.value)
    assert many.high - many.low == pytest.approx(few.high - few.low)
    assert correlate_ranks(arms) == few  # drawn from a seed of its own
    assert all(math.isnan(value) for value in correlate_ranks(arms[:2]))


def test_leaving_one_arm_out_tells_a_correlation_that_rests_on_it() -> None:
    arms = [one(0, 0), one(1, 0.2), one(2, -0.1), one(3, 0.1), one(100, 50)]
    low, high = correlate_without_each(arms)
    assert low < 0.1
    assert high > 0.5
    line = [one(x, 2 * x) for x in range(6)]
    error, blind = leave_one_out_error(line)
    # Inside, the fit interpolates and is right; at both ends it is level with the neighbour: 2 points off, twice.
    assert error == pytest.approx((2 + 2) / 6)
    assert blind > error
    assert (
        leave_one_out_error([one(1, y) for y in range(5)])[0] == leave_one_out_error([one(1, y) for y in range(5)])[1]
    )
    assert all(math.isnan(value) for value in leave_one_out_error(line[:3]))


def test_predictors_by_hand(tmp_path: Path) -> None:
    jobs = [job(["stm.threshold=2.5"]), job(["stm.rule=none"], control="unmasked")]
    folder = write_sweep(tmp_path / "outputs" / "sweeps" / "s", jobs, {"stm.threshold": ["2.5"]})
    masked, unmasked = (stamps_of(folder, entry) for entry in jobs)
    unmasked_file = folder / jobs[1]["dir"] / "result.json"
    values = json.loads(unmasked_file.read_text())
    del values["stamps"]["score"]  # an unmasked run needs none
    unmasked_file.write_text(json.dumps(values))
    nan, two, ten = math.nan, math.log(2.0), math.log(10.0)
    scores = [
        {"id": "a", "nll": [nan, 0.0, two, ten]},
        {"id": "b", "nll": [nan, ten]},
        {"id": "c", "nll": [nan, nan, two]},
    ]
    cache = tmp_path / "outputs" / "cache"
    write_artefact(cache, "scores", masked["score"], scores)
    keep = [[False, True, True, False], [False, False], [False, False, True]]
    write_artefact(cache, "mask", masked["mask"], [{"id": i, "keep": k} for i, k in zip("abc", keep, strict=True)])
    everything = [[False, True, True, True], [False, True], [False, False, True]]
    write_artefact(
        cache, "mask", unmasked["mask"], [{"id": i, "keep": k} for i, k in zip("abc", everything, strict=True)]
    )
    found = {entry.run.arm: entry.values for entry in measure_predictors(read_sweep(folder))}
    one, all_tokens = found["stm=2.5"], found["unmasked"]
    assert set(one) == set(PREDICTORS)
    assert one["kept_nll"] == pytest.approx(2 * two / 3, rel=1e-6)
    assert one["kept_nll_per_response"] == pytest.approx(2 * two / 5, rel=1e-6)
    assert one["kept_surprise"] == pytest.approx((0 + 0.5 + 0.5) / 3, rel=1e-6)
    assert one["sentence_perplexity"] == pytest.approx((math.sqrt(2) + 2) / 2, rel=1e-6)  # b keeps nothing
    assert one["masked_nll_fraction"] == 0.6  # as the mask's own stage counted it
    assert all_tokens["masked_fraction"] == all_tokens["masked_nll_fraction"] == 0.0
    assert all_tokens["kept_nll"] == pytest.approx((2 * two + 2 * ten) / 5, rel=1e-6)
    assert all_tokens["kept_surprise"] == pytest.approx((0 + 0.5 + 0.9 + 0.9 + 0.5) / 5, rel=1e-6)


def test_without_the_cache_the_masked_shares_remain(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = threshold_sweep(tmp_path / "sweeps" / "s", THRESHOLDS)
    (values, *_) = (entry.values for entry in measure_predictors(read_sweep(folder)))
    assert values["masked_fraction"] == pytest.approx(0.3, abs=1e-4)
    assert math.isnan(values["kept_nll"])
    stamps = read_sweep(folder).runs[0].result.stamps  # type: ignore[union-attr]
    write_artefact(tmp_path / "cache", "scores", stamps["score"], [{"id": "a", "nll": [1.0]}])
    write_artefact(tmp_path / "cache", "mask", stamps["mask"], [{"id": "a", "keep": [True, False]}])
    (values, *_) = (entry.values for entry in measure_predictors(read_sweep(folder)))
    assert math.isnan(values["kept_nll"])
    assert "scores and mask of other tokens" in caplog.text


def test_five_masks_make_a_table_and_four_do_not(tmp_path: Path) -> None:
    few = read_sweep(threshold_sweep(tmp_path / "few", THRESHOLDS[:3]))
    assert study_forgetting(few, build_arms(few)).predictions == ()
    folder = threshold_sweep(tmp_path / "many", THRESHOLDS, seeds=(1, 2))
    sweep = read_sweep(folder)
    study = study_forgetting(sweep, build_arms(sweep))
    assert [entry.predictor for entry in study.predictions] == ["masked_fraction", "masked_nll_fraction"]
    share = study.predictions[0]
    assert (share.num_arms, share.num_runs) == (7, 14)
    assert share.correlation.value < -0.8  # the fake world forgets less the more is masked
    assert share.error < share.blind_error
    console = Console(file=io.StringIO(), width=100)
    paths = write_report(folder, console=console)
    assert paths.predictors is not None
    lines = paths.predictors.read_text().splitlines()
    assert len(lines) == 15
    assert lines[0].startswith("run,arm,seed,stm.threshold,masked_fraction,")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for text in (check_page(paths.page), paths.markdown.read_text(), shown):
        assert "foretold before training" in text
        assert "masked share of tokens" in text
        assert "7 (14)" in text
    assert paths.page in paths.existing()
    assert paths.predictors in paths.existing()


def test_settings_that_predictors_cannot_see_are_taken_apart(tmp_path: Path) -> None:
    jobs = [job([f"stm.threshold={t}", f"optim.lr={lr}"]) for t in THRESHOLDS for lr in ("0.001", "0.004")]
    folder = write_sweep(tmp_path / "s", jobs, {"stm.threshold": list(THRESHOLDS), "optim.lr": ["0.001", "0.004"]})
    sweep = read_sweep(folder)
    study = study_forgetting(sweep, build_arms(sweep))
    assert {entry.settings for entry in study.predictions} == {"optim.lr=0.001", "optim.lr=0.004"}
    assert {entry.num_runs for entry in study.predictions} == {6}
    assert "optim.lr=0.001" in predictor_markdown(study)


def test_equal_masks_are_one_point(tmp_path: Path) -> None:
    folder = threshold_sweep(tmp_path / "s", THRESHOLDS[: MIN_MASKS - 1])
    sweep = read_sweep(folder)
    assert study_forgetting(sweep, build_arms(sweep)).predictions  # with the unmasked arm they are five
    for run in sweep.runs[:2]:
        file = run.folder / "result.json"
        values = json.loads(file.read_text())
        values["stamps"]["fit"] = "the same"
        file.write_text(json.dumps(values))
    sweep = read_sweep(folder)
    assert not study_forgetting(sweep, build_arms(sweep)).predictions


def test_forgetting_counts_the_other_tasks_that_have_items(tmp_path: Path) -> None:
    run = read_sweep(threshold_sweep(tmp_path / "s", ("2.5",))).runs[0]
    assert run.result is not None
    others = [entry for entry in run.result.evals if entry.task != "lab_code"]
    before = {entry.task: entry.value for entry in run.result.base_evals}
    expected = np.mean([100 * (before[entry.task] - entry.value) for entry in others])
    assert forgetting_of(run) == pytest.approx(expected)
    alone = dataclasses.replace(run, result=dataclasses.replace(run.result, evals=run.result.evals[:1]))
    assert math.isnan(forgetting_of(alone))


def test_cells_show_what_is_not_known_as_a_dash(tmp_path: Path) -> None:
    sweep = read_sweep(threshold_sweep(tmp_path / "s", THRESHOLDS))
    row = study_forgetting(sweep, build_arms(sweep)).predictions[0]
    nan = math.nan
    empty = dataclasses.replace(
        row, correlation=type(row.correlation)(nan, nan, nan), without_one=(nan, nan), error=nan
    )
    assert cells(empty)[1:4] == ["-", "-", "-"]


def test_classes_of_pieces() -> None:
    assert classify_pieces([]) == []
    assert classify_pieces(["<end>"]) == ["end token"]
    pieces = ["It", " don", "'t", " cost", " 3", ".5", " €", "\n", "", "\ufffd", "_", "<end>"]
    assert classify_pieces(pieces) == [
        "function word", "function word", "function word", "content word", "number", "number", "punctuation",
        "whitespace", "other", "punctuation", "punctuation", "end token",
    ]  # fmt: skip
    code = [
        "# ",
        "so",
        "\n",
        "def",
        " f",
        "(",
        "x",
        ")",
        ":\n",
        "    ",
        "return",
        " x",
        "*",
        "2",
        " +",
        " len",
        "('a')",
        "<|e|>",
    ]
    assert classify_pieces(code, "python") == [
        "comment", "comment", "whitespace", "keyword", "name", "punctuation", "name", "punctuation", "punctuation",
        "whitespace", "keyword", "name", "operator", "number", "operator", "name", "punctuation", "end token",
    ]  # fmt: skip
    assert classify_pieces(["SELECT", " name", " FROM", " t", ";", "<end>"], "sql")[::2] == [
        "keyword",
        "keyword",
        "punctuation",
    ]
