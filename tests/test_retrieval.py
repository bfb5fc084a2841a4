from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokensieve.retrieval import MeanPooling, TextIndex


class Letters:
    """Counts of a, b and c."""

    def identity(self) -> Mapping[str, Any]:
        return {"letters": "abc"}

    def __call__(self, texts: Sequence[str]) -> Any:
        return np.array([[text.count(letter) for letter in "abc"] for text in texts], dtype=np.float32)


def test_nearest_first_and_ties_by_number() -> None:
    index = TextIndex(["red wine", "green tea", "black tea", "green tea"])
    assert index.nearest(["green tea please"], 3) == [[1, 3, 2]]


def test_a_text_does_not_find_itself() -> None:
    texts = ["green tea", "black tea", "green tea", "coal"]
    index = TextIndex(texts)
    assert index.nearest(texts, 1, [0, 1, 2, 3]) == [[2], [0], [0], [0]]
    assert index.nearest(texts[:1], 99, [0]) == [[2, 1, 3]]


def test_only_some_texts_exclude_one() -> None:
    assert TextIndex(["x y", "x"]).nearest(["x", "x"], 1, [1, None]) == [[0], [1]]


def test_rare_words_weigh_more_than_common_ones() -> None:
    index = TextIndex(["the the ship", "the whale", "the cat", "the dog"])
    assert index.nearest(["the whale"], 1) == [[1]]
    assert index.nearest(["whale the"], 1) == [[1]]


@pytest.mark.parametrize("texts", [["", "  "], ["?!", "..."]])
def test_texts_without_words_are_found_in_order(texts: list[str]) -> None:
    assert TextIndex(texts).nearest(["word", ""], 2) == [[0, 1], [0, 1]]


def test_unicode_words_count() -> None:
    assert TextIndex(["grüner Tee", "schwarzer Kaffee", "зелёный чай"]).nearest(["ЗЕЛЁНЫЙ", "GRÜNER"], 1) == [[2], [0]]


def test_nothing_to_search_finds_nothing() -> None:
    assert TextIndex([]).nearest(["a"], 3) == [[]]
    assert TextIndex(["a"]).nearest([], 3) == []
    assert TextIndex(["a"]).nearest(["a"], 0) == [[]]
    assert TextIndex(["a"]).nearest(["a"], 2, [0]) == [[]]
    assert TextIndex([], Letters()).nearest(["a"], 3) == [[]]


def test_many_queries_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"word{number} shared" for number in range(30)]
    whole = TextIndex(texts).nearest(texts, 2, list(range(30)))
    monkeypatch.setattr("tokensieve.retrieval._MAX_CELLS", 40)
    assert TextIndex(texts).nearest(texts, 2, list(range(30))) == whole


def test_embeddings_are_compared_by_angle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokensieve.retrieval._EMBED_TEXTS", 2)
    index = TextIndex(["a", "bbbb", "ab", ""], Letters())
    assert index.nearest(["b", "aaab"], 2) == [[1, 2], [0, 2]]


def test_mean_pooling_ignores_padding(tiny_folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    texts = ["one", "one two three four", ""]
    together = MeanPooling(lambda: (model, tokenizer), {"model": "tiny"}, batch_size=3)
    alone = MeanPooling(lambda: (model, tokenizer), {"model": "tiny"}, batch_size=1)
    np.testing.assert_allclose(together(texts), alone(texts), atol=1e-5)
    assert together.identity() == alone.identity()
    assert TextIndex(texts, together).nearest(["one"], 1) == [[0]]
