"""The k nearest texts of a collection, by TF-IDF or by a model's embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

Matrix = Any  # a dense float array or a SciPy sparse matrix, [N, D], rows of length 1 or 0
_MAX_CELLS: Final = 4_000_000  # similarities held at once
_EMBED_TEXTS: Final = 1024  # texts embedded at once


class Embedder(Protocol):
    """A model that turns texts into vectors."""

    def identity(self) -> Mapping[str, Any]:
        """JSON values that decide its vectors: part of a stamp."""
        ...

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.floating[Any]]:
        """[N, D], one row a text."""
        ...


class TextIndex:
    """N texts, searchable by cosine similarity. Holds vectors, not texts.

    TF-IDF counts words of one character and more, with sublinear term frequency; memory is about 12 bytes a distinct
    word of a text. Texts without any word are at similarity 0 from everything. A search compares with every text: M
    searches in N texts take time in proportion to M times N (about 0.3 ms a search in 20,000 short texts).
    """

    def __init__(self, texts: Iterable[str], embedder: Embedder | None = None) -> None:
        self._vectorise: Callable[[Sequence[str]], Matrix]
        vectors: Matrix
        if embedder is not None:
            self._vectorise = lambda some: _unit_rows(embedder(some))
            parts = [self._vectorise(some) for some in _chunks(texts, _EMBED_TEXTS)]
            vectors = np.concatenate(parts) if parts else np.zeros((0, 1))
        else:
            self._vectorise, vectors = _fit_tfidf(texts)
        transposed = vectors.T
        self._columns: Matrix = transposed.tocsr() if hasattr(transposed, "tocsr") else transposed  # [D, N]
        self._num_texts = int(transposed.shape[1])

    def __len__(self) -> int:
        return self._num_texts

    def nearest(self, texts: Sequence[str], k: int, excluded: Sequence[int | None] | None = None) -> list[list[int]]:
        """For each text the numbers of its (at most) `k` nearest in the collection, nearest first.

        Equal similarities are broken by the lower number. `excluded[i]` is a number that text i must not find: itself,
        when it is part of the collection.

        >>> TextIndex(["red wine", "green tea", "black tea"]).nearest(["a cup of green tea"], 2)
        [[1, 2]]
        """
        if len(self) == 0 or k < 1:
            return [[] for _ in texts]
        found: list[list[int]] = []
        rows = max(1, _MAX_CELLS // len(self))
        for start in range(0, len(texts), rows):
            similarity = self._vectorise(texts[start : start + rows]) @ self._columns
            for at in range(similarity.shape[0]):
                skipped = excluded[start + at] if excluded is not None else None
                found.append(_nearest(*_nonzero(similarity, at), k, skipped, len(self)))
        return found


def _nonzero(similarity: Matrix, row: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Columns, and their values, of what is not 0 in a row of a sparse or dense matrix."""
    if hasattr(similarity, "indptr"):
        part = slice(similarity.indptr[row], similarity.indptr[row + 1])
        columns, values = similarity.indices[part], similarity.data[part]
    else:
        columns = np.flatnonzero(similarity[row])
        values = similarity[row][columns]
    # Rounded, so that the order of a sum does not break a tie.
    return columns.astype(np.int64), np.round(values.astype(np.float64), 6)


def _nearest(
    columns: npt.NDArray[np.int64], values: npt.NDArray[np.float64], k: int, skipped: int | None, width: int
) -> list[int]:
    """The k columns of the largest values, largest first, ties by column; those that are not listed have value 0."""
    taken = columns != skipped if skipped is not None else np.ones(len(columns), np.bool_)
    columns, values = columns[taken], values[taken]
    if (values > 0).sum() < k:  # then columns of value 0 are needed: the first k, and as many as may be skipped
        listed = set(columns.tolist()) | {skipped}
        zeros = list(islice((at for at in range(width) if at not in listed), k))
        columns, values = np.concatenate([columns, np.array(zeros, np.int64)]), np.append(values, np.zeros(len(zeros)))
    elif len(values) > k:
        bound = np.partition(values, len(values) - k)[len(values) - k]
        columns, values = columns[values >= bound], values[values >= bound]
    return [int(at) for at in columns[np.lexsort((columns, -values))][:k]]


def _fit_tfidf(texts: Iterable[str]) -> tuple[Callable[[Sequence[str]], Matrix], Matrix]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b", dtype=np.float32)
    seen = 0

    def counted() -> Iterator[str]:
        nonlocal seen
        for text in texts:
            seen += 1
            yield text

    try:
        vectors = vectorizer.fit_transform(counted())
    except ValueError as error:
        if "empty vocabulary" not in str(error):
            raise
        return lambda some: np.zeros((len(some), 1)), np.zeros((seen, 1))  # no text has a word
    return vectorizer.transform, vectors


def _unit_rows(vectors: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: npt.NDArray[np.floating[Any]] = vectors / np.where(lengths > 0, lengths, 1)
    return unit


def _chunks(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    stream = iter(texts)
    while some := list(islice(stream, size)):
        yield some


class MeanPooling:
    """Embeddings of a causal model: the mean of its last hidden states over the tokens of a text.

    Args:
        load: gives model and tokenizer; called at the first text, and not before.
        identity: JSON values that decide what the model computes, for stamps.
        batch_size: texts in one forward pass.
        max_tokens: a longer text is cut.
    """

    def __init__(
        self,
        load: Callable[[], tuple[nn.Module, PreTrainedTokenizerBase]],
        identity: Mapping[str, Any],
        *,
        batch_size: int = 16,
        max_tokens: int = 512,
    ) -> None:
        self._load, self._identity = load, dict(identity)
        self._loaded: tuple[nn.Module, PreTrainedTokenizerBase] | None = None
        self._batch_size, self._max_tokens = batch_size, max_tokens

    def identity(self) -> Mapping[str, Any]:
        return {"pooling": "mean", "max_tokens": self._max_tokens, "model": self._identity}

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.floating[Any]]:
        import torch

        if self._loaded is None:
            self._loaded = self._load()
        model, tokenizer = self._loaded
        device = next(model.parameters()).device
        parts = []
        with torch.inference_mode():
            for some in _chunks(texts, self._batch_size):
                ids = [tokenizer(text)["input_ids"][: self._max_tokens] or [0] for text in some]
                width = max(map(len, ids))
                padded = torch.tensor([row + [0] * (width - len(row)) for row in ids], device=device)
                real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=device)
                states = model(input_ids=padded, attention_mask=real, output_hidden_states=True).hidden_states[-1]
                weights = real.unsqueeze(-1)
                parts.append(((states.float() * weights).sum(1) / weights.sum(1)).cpu().numpy())
        return np.concatenate(parts)
