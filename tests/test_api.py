"""What the commands do, as functions."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_sweep import TASKS, job, threshold_sweep, write_sweep
from trained_run import make_run

import tokensieve
from tokensieve.api import ScoredTokens, evaluate, load_sweep, score_tokens, select_tokens
from tokensieve.config import DatasetConfig
from tokensieve.errors import AlignmentError, ConfigError, DataError, EmptyMask, TokensieveError

ROOT = Path(__file__).parents[1]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"What is {n} + {n}?"},
            {"role": "assistant", "content": f"It is {2 * n}."},
        ]
    }
    for n in range(4)
]


@pytest.fixture(scope="module")
def scored(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ScoredTokens:
    return score_tokens(CHATS, model=tiny_folder, accelerator="cpu", output_dir=tmp_path_factory.mktemp("out"))


def test_import_loads_nothing_and_the_functions_stay_what_they_are() -> None:
    program = """
import sys, tokensieve
assert not {"torch", "transformers", "pandas", "numpy", "mlflow", "hydra"} & set(sys.modules), "heavy import"
assert {"evaluate", "load_sweep"} <= set(dir(tokensieve))
import tokensieve.evaluate.questions
from tokensieve.evaluate import questions
from tokensieve import evaluate
assert callable(evaluate) and callable(tokensieve.evaluate) and evaluate is tokensieve.evaluate
assert tokensieve.__version__
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tokensieve.nothing  # noqa: B018


def test_ten_lines_of_the_readme_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in snippet.splitlines() if line]) <= 10
    threshold_sweep(tmp_path / "outputs" / "sweeps" / "one", seeds=(1, 2))
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "lab_math" in shown
    assert "stm=2.5" in shown


def test_scores_are_those_of_the_plain_forward(scored: ScoredTokens, tiny_folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_folder).eval()
    examples = list(scored)
    assert len(scored) == len(examples) == 4
    for example in examples:
        with torch.no_grad():
            logits = model(torch.tensor(example.token_ids)[None]).logits[0].float().log_softmax(-1)
        expected = [-logits[t - 1, token].item() for t, token in enumerate(example.token_ids) if t]
        inside = example.is_response[1:]
        assert np.allclose(example.nll[1:][inside], np.array(expected)[inside], atol=1e-4)
        assert np.isnan(example.nll[~example.is_response]).all()
    assert "What is 3 + 3?" in examples[3].text
    known = scored.frame[scored.frame["is_response"]]
    assert scored.perplexity == pytest.approx(math.exp(known["nll"].astype(float).mean()), rel=1e-5)
    assert known["perplexity"].to_numpy() == pytest.approx(np.exp(known["nll"].astype(float)))
    assert list(scored.frame["example"].unique()) == [f"train/{n}" for n in range(4)]


def test_the_same_rows_are_scored_once(
    scored: ScoredTokens, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokensieve.score.compute_nll", lambda *args: pytest.fail("a scoring pass"))
    options: dict[str, Any] = {"model": tiny_folder, "accelerator": "cpu", "output_dir": scored.store.root.parent}
    turns = [row["messages"] for row in CHATS]
    assert score_tokens(turns, **options).scores.digest == scored.scores.digest  # turns alone are the same rows
    assert score_tokens(iter(CHATS), **options).scores.digest == scored.scores.digest


def test_rows_files_options_and_configs(tiny_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in CHATS))
    options: dict[str, Any] = {"model": str(tiny_folder), "accelerator": "cpu", "output_dir": tmp_path / "a b, {c}"}
    texts = score_tokens(["One two.", "Drei — vier ✓."], **options)
    assert [example.is_response[0] for example in texts] == [False, False]
    assert "vier" in list(texts)[1].text
    with pytest.raises(DataError, match="Remedy"):
        score_tokens(file, split="validation", **options)
    named = DatasetConfig(name="rows", task=None, path=str(file), val_fraction=0, test_fraction=0)
    whole = [[example.text for example in score_tokens(data, **options)] for data in (file, named, CHATS)]
    assert whole[0] == whole[1] == whole[2]
    lab = score_tokens("lab_sql", limit=2, **options)
    assert [example.id for example in lab] == ["train/0", "train/1"]


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        ([], {}, "data: must hold at least one row"),
        ([3], {}, "data:1: must be a text, a list of chat turns or a mapping; received 'int'"),
        ({"messages": []}, {}, "data: must be a list of rows; received 'dict'"),
        (7, {}, "data: must be a list of rows; received 'int'"),
        ([{"messages": CHATS[0]["messages"], "extra": {1}}], {}, "data:1: must hold plain values"),
        (["fine", "  "], {}, "data:2: the last turn must be a non-empty assistant turn"),
        ([[{"role": "user", "content": "?"}]], {}, "data:1: the last turn must be"),
        ([{"messages": [{"role": "robot", "content": "?"}]}], {}, "robot"),
        (["\ud800"], {}, "data:1: must be valid Unicode"),
        ("no_such_option", {}, "no_such_option"),
        ("no/such.jsonl", {}, "no/such.jsonl: must be an existing file"),
        ("a text instead of a list", {}, "Remedy: put a text into a list"),
        (CHATS, {"split": "dev"}, "split: must be train, validation or test"),
        (CHATS, {"limit": 0}, "limit: must be at least 1"),
        (CHATS, {"model": "/no/such/model"}, "model.path: must be lab, an existing folder, or a hub id"),
        (CHATS, {"adapter": "/no/such/adapter"}, "must be a folder with adapter_config.json"),
    ],
)
def test_wrong_data_is_one_line_with_a_remedy(
    tiny_folder: Path, tmp_path: Path, data: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(TokensieveError) as caught:
        score_tokens(data, **{"model": tiny_folder, "accelerator": "cpu", "output_dir": tmp_path, **options})
    assert said in str(caught.value)
    assert "Remedy:" in str(caught.value)


def test_selection_by_hand(scored: ScoredTokens) -> None:
    tokens = scored.frame[scored.frame["is_response"]]
    threshold = float(tokens["perplexity"].median())
    masked = select_tokens(scored, threshold=threshold)
    frame = masked.frame
    expected = frame["is_response"] & (frame["nll"].fillna(np.inf) <= np.float32(math.log(threshold)))
    assert frame["keep"].tolist() == expected.tolist()
    assert masked.stats.kept_tokens == expected.sum()
    assert masked.stats.response_tokens == len(tokens)
    assert [keep.sum() for _, keep in masked] == frame.groupby("example", sort=False)["keep"].sum().tolist()
    low, random = (select_tokens(scored, rule, threshold=threshold) for rule in ("low_ppl", "random"))
    assert low.stats.kept_tokens == random.stats.kept_tokens == masked.stats.kept_tokens
    assert (low.frame["keep"] != masked.frame["keep"]).any()
    other_seed = select_tokens(scored, "random", threshold=threshold, seed=7).frame["keep"]
    assert random.frame["keep"].tolist() != other_seed.tolist()
    assert select_tokens(scored, "none").stats.kept_fraction == 1.0
    half = select_tokens(scored, "quantile", quantile=0.5).stats
    assert half.kept_tokens == math.ceil(0.5 * half.response_tokens)


def test_difference_rule_needs_scores_of_the_same_tokens(
    scored: ScoredTokens, tiny_folder: Path, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", tiny_folder)
    options: dict[str, Any] = {"accelerator": "cpu", "output_dir": scored.store.root.parent}
    tuned = score_tokens(CHATS, model=run, **options)
    assert tuned.scores.digest != scored.scores.digest
    rises = tuned.frame["perplexity"] - scored.frame["perplexity"]
    selected = select_tokens(scored, "dpf", tuned=tuned)
    assert selected.frame["keep"].tolist() == (scored.frame["is_response"] & (rises <= 0)).tolist()
    with pytest.raises(ConfigError, match=r"tuned: rule dpf compares two.*Remedy"):
        select_tokens(scored, "dpf")
    with pytest.raises(AlignmentError, match="tuned: must score the same tokens"):
        select_tokens(scored, "dpf", tuned=score_tokens(CHATS[:2], model=run, **options))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rule": "naive"}, "rule: must name a token rule; received 'naive'. Remedy: choose from none, high_ppl"),
        ({"threshold": -1}, "stm.threshold: must be a finite perplexity above 0"),
        ({"rule": "quantile", "quantile": 2}, "stm.quantile"),
    ],
)
def test_wrong_rules(scored: ScoredTokens, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        select_tokens(scored, **options)
    assert said in str(caught.value)
    with pytest.raises(EmptyMask, match="Remedy"):
        select_tokens(scored, threshold=1.0)


def test_responses_are_described_span_by_span(scored: ScoredTokens, tmp_path: Path) -> None:
    table = select_tokens(scored, "none").describe_responses()
    assert len(table) == int(scored.frame["is_response"].sum())
    assert table.groupby("example")["token_class"].last().eq("end token").all()
    assert table["tenth"].between(1, 10).all()
    assert table["keep"].all()
    with pytest.raises(ConfigError, match="language: must be text"):
        select_tokens(scored, "none").describe_responses("klingon")


def test_evaluation_is_that_of_the_command(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokensieve.cli import main

    monkeypatch.chdir(ROOT)
    run = make_run(tmp_path / "run", tiny_folder)
    options: dict[str, Any] = {
        "tasks": ["lab_sql"],
        "num_items": 2,
        "accelerator": "cpu",
        "output_dir": tmp_path / "o,'",
    }
    found = evaluate(run, "lab", **options)
    assert [result.task for result in found.results] == ["lab_sql"]
    assert found["lab_sql"].num_items == 2
    assert found.frame.loc[0, ["task", "n"]].tolist() == ["lab_sql", 2]
    assert found.items["score"].mean() == pytest.approx(found["lab_sql"].value)
    with pytest.raises(KeyError, match="there are lab_sql"):
        found["lab_math"]
    file = tmp_path / "scores.json"
    command = ["evaluate", str(run), "--suite", "lab", "--tasks", "lab_sql", "--num-items", "2", "--accelerator", "cpu"]
    assert main([*command, "--output", str(file), f"output_dir={tmp_path / 'out'}"]) == 0
    (written,) = json.loads(file.read_text())["results"]
    assert written["item_scores"] == list(found["lab_sql"].item_scores)
    base = evaluate(tiny_folder, "lab", **options)
    assert base.model != found.model
    for wrong, said in (({"tasks": "lab_nothing"}, "lab_nothing"), ({"num_items": 0}, "num_items: must be at least 1")):
        with pytest.raises(ConfigError, match=said):
            evaluate(tiny_folder, "lab", **{**options, **wrong})
    with pytest.raises(ConfigError, match="no_suite"):
        evaluate(tiny_folder, "no_suite", **options)


def test_sweep_as_tables(tmp_path: Path) -> None:
    folder = threshold_sweep(tmp_path / "outputs" / "sweeps" / "one", seeds=(1, 2))
    sweep = load_sweep(output_dir=tmp_path / "outputs")
    assert sweep.folder == folder
    assert sweep.axes == {"stm.threshold": ("1.5", "2.5", "4"), "seed": ("1", "2")}
    assert len(sweep.frame) == 8 * len(TASKS)
    assert not {"item_ids", "item_scores"} & set(sweep.frame)
    assert len(sweep.items) == 8 * len(TASKS) * 200
    means = sweep.items.groupby(["run", "task"])["score"].mean().astype(float)
    values = sweep.frame.set_index(["run", "task"])["value"]
    assert np.allclose(means, values.loc[means.index])
    assert set(sweep.curves["metric"]) >= {"train/nll", "val/nll"}
    assert sweep.curves.groupby(["run", "metric"])["step"].max().loc[:, "train/nll"].eq(75).all()
    assert sweep.arms["arm"].tolist() == ["base", "unmasked", "stm=4", "stm=2.5", "stm=1.5"]
    tests = sweep.compare("unmasked")
    assert len(tests) == 3 * len(TASKS)
    one = tests[(tests["arm"] == "stm=2.5") & (tests["task"] == "lab_math")].iloc[0]
    assert one["difference_low"] <= one["difference"] <= one["difference_high"]
    assert one["num_seeds"] == 2
    assert len(sweep.compare("base", "stm=2.5", tasks=["lab_sql"])) == 1
    assert sweep.predictors.empty  # four masks
    with pytest.raises(DataError, match="unmaskt"):
        sweep.compare("unmaskt")


def test_a_sweep_half_done_is_still_a_table(tmp_path: Path) -> None:
    jobs = [
        job(["stm.threshold=2.5"], state="FAILED", error="loss is not finite"),
        job(["stm.threshold=4"], state="PENDING"),
    ]
    sweep = load_sweep(write_sweep(tmp_path / "s", jobs, {"stm.threshold": ["2.5", "4"]}))
    assert sweep.frame["state"].tolist() == ["FAILED", "PENDING"]
    assert sweep.frame["error"].iloc[0] == "loss is not finite"
    assert sweep.items.empty
    assert sweep.curves.empty
    assert sweep.arms.empty
    assert list(sweep.items) == ["run", "label", "arm", "seed", "task", "item", "score", "base_score"]


@pytest.mark.parametrize("path", ["latest", "/no/such/folder"])
def test_no_sweep_is_one_line_with_a_remedy(tmp_path: Path, path: str) -> None:
    with pytest.raises(DataError, match="Remedy"):
        load_sweep(path, output_dir=tmp_path)
