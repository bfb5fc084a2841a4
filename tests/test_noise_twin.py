"""Noise that comes in a file of its own, and the config group."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from noise_corpora import Example, example, make_corpus, responses

from tokensieve.config.noise import NoiseConfig
from tokensieve.dataset import define_corpus
from tokensieve.errors import ConfigError, DataError
from tokensieve.noise import KINDS, define_noise, read_ledger, read_noise_stats, score_detection
from tokensieve.records import Corpus
from tokensieve.sources import LocalSource
from tokensieve.store import Artefact, Store

DATA = Path(os.environ.get("TOKENSIEVE_DATA", Path(__file__).parents[1] / "data"))
CONF = Path(__file__).parents[1] / "conf" / "noise"


def twins(root: Path, clean: list[Example], noisy: list[Example]) -> Artefact[Corpus]:
    ours = make_corpus(root, clean)
    return define_noise(ours.store, ours, kind="from_file", ratio=0.0, seed=0, noisy=make_corpus(root, noisy))


def test_responses_that_differ_are_taken_and_listed(tmp_path: Path) -> None:
    clean = [example(number, "yes", {"answer": "yes"}) for number in range(300)]
    noisy = [example(number, "no" if number % 3 == 0 else "yes", {"answer": "no"}) for number in range(300)]
    artefact = twins(tmp_path, clean, noisy)
    corpus = artefact.get()
    assert responses(corpus) == responses(make_corpus(tmp_path, noisy).get())
    assert corpus.rows["reference"] == ['{"answer": "yes"}'] * 300  # of the clean twin
    entries = list(read_ledger(corpus))
    assert [entry.id for entry in entries] == [f"train/{number}" for number in range(0, 300, 3)]
    assert {(entry.kind, entry.before, entry.after) for entry in entries} == {("from_file", "yes", "no")}
    stats = read_noise_stats(artefact)
    assert stats is not None
    assert (stats.num_rows, stats.num_changed) == (300, 100)
    again = twins(tmp_path, clean, noisy)
    assert again.is_cached
    assert twins(tmp_path, clean, clean).digest != again.digest


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (example(8, "yes"), r"rows\.jsonl:9: must be the twin of the clean row 'train/3'; received 'train/8'"),
        (example(3, "yes", prompt="Why?"), r"rows\.jsonl:4: must have the prompt of its clean twin.*received 'Why\?'"),
        (None, r"noise\.path: the noisy file must hold the 5 rows of the clean one; received '4 rows'"),
    ],
)
def test_files_that_are_no_twins_are_refused(tmp_path: Path, row: Example | None, message: str) -> None:
    clean = [example(number, "yes") for number in range(5)]
    noisy = [*clean[:3], *([row] if row is not None else []), *clean[4:]]
    with pytest.raises(DataError, match=message):
        twins(tmp_path, clean, noisy).get()


def test_equal_twins_are_worth_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clean = [example(0, "yes")]
    other = [clean[0] | {"task": "other"}]
    with caplog.at_level(logging.WARNING):
        assert list(read_ledger(twins(tmp_path, clean, other).get())) == []
    assert "there is no noise" in caplog.text


def read_fpb(root: Path, path: Path, val_fraction: float = 0.0) -> Artefact[Corpus]:
    """The training rows as the dataset option reads them."""
    from omegaconf import OmegaConf

    option: Any = OmegaConf.to_container(OmegaConf.load(CONF.parent / "dataset" / "fpb.yaml"))
    return define_corpus(
        Store(root / "cache"),
        LocalSource(path, None, {}, option["splits"]),
        "train",
        task=None,
        prompt=option["prompt"],
        response=option["response"],
        system_prompt=None,
        reference=option["reference"],
        id_field=None,
        limit=None,
        val_fraction=val_fraction,
        test_fraction=0.0,
        seed=0,
    )


@pytest.mark.skipif(not (DATA / "fpb").is_dir(), reason="needs the Financial PhraseBank files of RobustFT")
@pytest.mark.parametrize(("name", "percent"), [("noisy30", 29.97), ("noisy50", 49.97), ("noisy70", 69.97)])
def test_published_noise_of_robustft(tmp_path: Path, name: str, percent: float) -> None:
    clean, noisy = read_fpb(tmp_path, DATA / "fpb"), read_fpb(tmp_path, DATA / "fpb" / f"{name}.csv")
    artefact = define_noise(clean.store, clean, kind="from_file", ratio=0.0, seed=0, noisy=noisy)
    corpus = artefact.get()
    stats = read_noise_stats(artefact)
    assert stats is not None
    assert round(100 * stats.num_changed / stats.num_rows, 2) == percent
    truth = {entry.id for entry in read_ledger(corpus)}
    told_by_gold = [
        row["id"]
        for row in corpus.rows
        if row["messages"][-1]["content"] != f"Answer: {json.loads(row['reference'])['answer']}"
    ]
    assert score_detection(truth, told_by_gold, corpus.rows["id"]).f1 == 1


@pytest.mark.skipif(not (DATA / "fpb").is_dir(), reason="needs the Financial PhraseBank files of RobustFT")
def test_published_twins_stay_twins_when_validation_is_held_out(tmp_path: Path) -> None:
    clean = read_fpb(tmp_path, DATA / "fpb", 0.1)
    noisy = read_fpb(tmp_path, DATA / "fpb" / "noisy50.csv", 0.1)
    corpus = define_noise(clean.store, clean, kind="from_file", ratio=0.0, seed=0, noisy=noisy).get()
    assert 0.45 < len(list(read_ledger(corpus))) / len(corpus) < 0.55
    assert 1350 < len(corpus) < 1500


@pytest.mark.skipif(not (DATA / "fpb").is_dir(), reason="needs the Financial PhraseBank files of RobustFT")
def test_own_label_flips_on_real_rows(tmp_path: Path) -> None:
    clean = read_fpb(tmp_path, DATA / "fpb")
    flipped = define_noise(clean.store, clean, kind="label_flip", ratio=0.3, seed=0).get()
    assert len(list(read_ledger(flipped))) == round(0.3 * 1585)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"name": "typo", "ratio": 1.1}, "noise.ratio"),
        ({"name": "typo", "ratio": -0.1}, "noise.ratio"),
        ({"name": "typo", "ratio": float("nan")}, "noise.ratio"),
        ({"ratio": 0.3}, "noise.ratio"),
        ({"name": "typo", "rate": 0}, "noise.rate"),
        ({"seed": -1}, "noise.seed"),
        ({"name": "from_file"}, "noise.path"),
        ({"name": "from_file", "path": "noisy.csv", "ratio": 0.3}, "noise.ratio"),
        ({"name": "typo", "path": "noisy.csv"}, "noise.path"),
    ],
)
def test_config_refuses_what_cannot_work(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NoiseConfig(**settings)
    assert caught.value.subject == key
    assert caught.value.remedy


def test_config_knows_whether_responses_change() -> None:
    assert not NoiseConfig().corrupts_responses
    assert not NoiseConfig(name="label_flip").corrupts_responses
    assert NoiseConfig(name="auto", ratio=0.1).corrupts_responses
    assert NoiseConfig(name="from_file", path="noisy.csv").corrupts_responses


def test_every_kind_has_an_option_that_makes_noise() -> None:
    from omegaconf import OmegaConf

    options = {file.stem: OmegaConf.to_container(OmegaConf.load(file)) for file in CONF.glob("*.yaml")}
    assert set(options) == {"none", "auto", "from_file", *KINDS}
    for name, values in options.items():
        assert isinstance(values, dict)
        assert values["name"] == name
        path = {"path": "noisy.csv"} if name == "from_file" else {}
        config = NoiseConfig(**values, **path)  # type: ignore[arg-type]
        assert config.corrupts_responses == (name not in ("none", "auto"))
