from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_checkpoint import tiny_model

from tokensieve import score
from tokensieve.errors import AlignmentError, ConfigError, DataError
from tokensieve.records import Stamp, TokenisedCorpus
from tokensieve.score import compute_nll, define_imported_scores
from tokensieve.store import Artefact, Store


def tokens(num: int = 9) -> TokenisedCorpus:
    generator = np.random.default_rng(1)
    rows = []
    for number in range(num):
        length = int(generator.integers(4, 40))
        rows.append(
            {
                "id": f"r{number}",
                "input_ids": generator.integers(3, 300, length).tolist(),
                "is_response": [t >= 2 for t in range(length)],
            }
        )
    return TokenisedCorpus(Dataset.from_list(rows), Stamp("tokens", {}))


@pytest.mark.parametrize("budget", [1, 64, 10_000])
def test_scores_equal_a_plain_forward_of_each_example_alone(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "BATCH_TOKENS", budget)
    corpus, model = tokens(), tiny_model()
    for row, nll in zip(corpus.rows, compute_nll(model, corpus), strict=True):
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            logs = model(ids).logits.double().log_softmax(-1)[0]
        expected = -logs[:-1].gather(-1, ids[0, 1:, None])[:, 0].numpy()
        assert np.isnan(nll[:2]).all()
        np.testing.assert_allclose(nll[2:], expected[1:], rtol=1e-5, atol=1e-5)


def imported(tmp_path: Path, rows: list[dict[str, Any]], corpus: TokenisedCorpus) -> Any:
    file = tmp_path / "scores.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = Store(tmp_path / "cache")
    artefact = Artefact(corpus.stamp, store, lambda folder: None, lambda folder: corpus)
    return define_imported_scores(store, artefact, str(file)).get()


def exported(corpus: TokenisedCorpus) -> list[dict[str, Any]]:
    return [{"input_ids": row["input_ids"], "ppl": [10.0] + [2.0] * (len(row["input_ids"]) - 1)} for row in corpus.rows]


def test_imported_perplexities_become_nll_by_order(tmp_path: Path) -> None:
    corpus = tokens(3)
    nll = imported(tmp_path, exported(corpus), corpus).rows[1]["nll"]
    assert np.isnan(nll[:2]).all()
    assert nll[2:] == pytest.approx([np.log(2.0)] * (len(nll) - 2))


def test_imported_rows_pair_by_id_when_they_have_one(tmp_path: Path) -> None:
    corpus = tokens(3)
    rows = [row | {"id": f"r{number}"} for number, row in enumerate(exported(corpus))][::-1]
    assert imported(tmp_path, rows, corpus).rows["id"] == ["r0", "r1", "r2"]


@pytest.mark.parametrize("names", [("train/r0", "train/r1", "train/r2"), ("train/0", "train/1", "train/2")])
def test_imported_rows_pair_with_the_names_that_a_corpus_gives(tmp_path: Path, names: tuple[str, ...]) -> None:
    """By their own ids where the corpus took them over, and by order where it numbers its rows."""
    plain = tokens(3)
    corpus = TokenisedCorpus(plain.rows.remove_columns("id").add_column("id", list(names)), plain.stamp)
    rows = [row | {"id": f"r{number}"} for number, row in enumerate(exported(corpus))]
    given = rows[::-1] if "r" in names[0][5:] else rows
    assert imported(tmp_path, given, corpus).rows["id"] == list(names)


def test_rows_longer_than_the_model_are_refused() -> None:
    model = tiny_model(max_position_embeddings=6)
    with pytest.raises(DataError, match=r"example r\d: must have at most 6 tokens, the model's limit"):
        compute_nll(model, tokens(3))


def test_imported_scores_of_another_tokenisation_are_refused(tmp_path: Path) -> None:
    corpus = tokens(3)
    rows = exported(corpus)
    rows[1]["input_ids"] = [*rows[1]["input_ids"][:3], 0, *rows[1]["input_ids"][4:]]
    with pytest.raises(AlignmentError, match=r"r1.*position 3"):
        imported(tmp_path, rows, corpus)


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (lambda rows: rows[:2], AlignmentError, "must hold 3 rows"),
        (lambda rows: [{"input_ids": row["input_ids"]} for row in rows], DataError, "nll"),
        (lambda rows: [row | {"ppl": [0.5] * len(row["ppl"])} for row in rows], DataError, "at least 1"),
        (lambda rows: [row | {"ppl": row["ppl"][:-1]} for row in rows], AlignmentError, "one value a token"),
    ],
)
def test_imported_files_that_cannot_be_right(tmp_path: Path, change: Any, kind: type[Exception], said: str) -> None:
    corpus = tokens(3)
    with pytest.raises(kind, match=said):
        imported(tmp_path, change(exported(corpus)), corpus)


def test_missing_score_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artefact = Artefact(Stamp("tokens", {}), store, lambda folder: None, lambda folder: tokens(1))
    with pytest.raises(ConfigError, match=r"stm\.scores_path"):
        define_imported_scores(store, artefact, str(tmp_path / "none.parquet"))
