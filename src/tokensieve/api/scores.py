"""`score_tokens`: how surprising a frozen model finds each response token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from tokensieve.api.rows import Data, open_data
from tokensieve.api.subject import find_model
from tokensieve.errors import ConfigError
from tokensieve.records import Corpus, TokenisedCorpus, TokenScores
from tokensieve.store import Artefact, Store

if TYPE_CHECKING:
    import pandas as pd

    from tokensieve.evaluations import Subject


@dataclass(frozen=True, slots=True)
class ScoredExample:
    """One example, T tokens: the decoded `tokens`, and arrays [T] of `token_ids`, `is_response` and `nll` in nats.

    The NLL of prompt tokens is NaN: they are not scored.
    """

    id: str
    tokens: list[str]
    token_ids: npt.NDArray[np.int64]
    is_response: npt.NDArray[np.bool_]
    nll: npt.NDArray[np.float32]

    @property
    def text(self) -> str:
        """The whole example as the model reads it, chat template and all."""
        return "".join(self.tokens)


@dataclass(frozen=True)
class ScoredTokens:
    """N examples under one model and tokenizer. Rows stay in memory-mapped files; `frame` brings all into memory.

    Attributes:
        model: what scored, for people.
        tokens: the stage's artefact: ids and response spans.
        scores: the stage's artefact: NLLs.
        store: the cache that holds both.
    """

    model: str
    tokens: Artefact[TokenisedCorpus]
    scores: Artefact[TokenScores]
    store: Store
    tokenizer: Any

    def __len__(self) -> int:
        return len(self.tokens.get())

    def __iter__(self) -> Iterator[ScoredExample]:
        pieces: dict[int, str] = {}
        for row, scored in zip(self.tokens.get().rows, self.scores.get().rows, strict=True):
            for token in row["input_ids"]:
                if token not in pieces:
                    pieces[token] = self.tokenizer.decode([token])
            yield ScoredExample(
                row["id"],
                [pieces[token] for token in row["input_ids"]],
                np.asarray(row["input_ids"], dtype=np.int64),
                np.asarray(row["is_response"], dtype=bool),
                np.asarray(scored["nll"], dtype=np.float32),
            )

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a token: example, position, token_id, token, is_response, nll (nats), perplexity (exp of it)."""
        import pandas as pd

        parts = []
        for example in self:
            columns = {
                "example": example.id,
                "position": np.arange(len(example.tokens)),
                "token_id": example.token_ids,
                "token": example.tokens,
                "is_response": example.is_response,
                "nll": example.nll,
            }
            parts.append(pd.DataFrame(columns))
        table = pd.concat(parts, ignore_index=True)
        with np.errstate(over="ignore"):
            return table.assign(perplexity=np.exp(table["nll"].astype(np.float64)))

    @property
    def perplexity(self) -> float:
        """Exp of the mean NLL over all response tokens."""
        total, count = 0.0, 0
        for row in self.scores.get().rows.with_format("numpy", columns=["nll"]):
            known = row["nll"][~np.isnan(row["nll"])]
            total, count = total + float(known.sum(dtype=np.float64)), count + known.size
        with np.errstate(over="ignore"):
            return float(np.exp(total / count)) if count else float("nan")


def score_tokens(
    data: Data,
    *,
    model: str | Path = "lab",
    adapter: str | Path | None = None,
    split: str = "train",
    limit: int | None = None,
    revision: str | None = None,
    chat_template: str | Path | None = None,
    dtype: str = "auto",
    accelerator: str = "auto",
    output_dir: str | Path = "outputs",
) -> ScoredTokens:
    """NLL of every response token of `data` under a frozen model; from the cache where it was computed before.

    A sweep over the same data with the same model uses, and fills, the same cache.

    Args:
        data: rows (mappings in a layout such as messages or prompt and completion, lists of chat turns, texts), a
            file (all of it), a folder of split files, the name of a dataset option (`lab_code`, `gsm8k`), or a
            `tokensieve.config.DatasetConfig`.
        model: `lab`, a folder, a hub id, or a finished run's folder, which brings what it trained.
        adapter: a PEFT adapter folder, put on `model`.
        split: train, validation or test, where the data has splits.
        limit: at most so many examples.
        revision: commit of a hub id.
        chat_template: a Jinja file that replaces, or supplies, the tokenizer's.
        dtype: auto, float32, bfloat16 or float16.
        accelerator: auto, cpu or gpu.
        output_dir: the cache is in its folder `cache`.

    Raises:
        ConfigError: no such model, file or option. DataError: a row that does not fit, an example too long.
    """
    from tokensieve.cli.suite import make_subject
    from tokensieve.corpora import define_split
    from tokensieve.model import load_tokenizer

    _check(split, limit)
    dataset, source = open_data(data)
    options = {"adapter": adapter, "revision": revision, "chat_template": chat_template}
    trained = find_model(model, dtype=dtype, accelerator=accelerator, **options)  # type: ignore[arg-type]
    subject = make_subject(trained, replace(trained.config, output_dir=str(output_dir)))
    tokens, scores = _define(subject, define_split(dataset, subject.store, source, split, limit), dataset.train_on)
    scores.get()
    subject.resident.forget()  # the result outlives the call; the model's memory need not
    named = subject.config.model
    tokenizer = load_tokenizer(named.path, named.revision, named.chat_template)
    return ScoredTokens(trained.label, tokens, scores, subject.store, tokenizer)


def _check(split: str, limit: int | None) -> None:
    if split not in ("train", "validation", "test"):
        raise ConfigError("split", "must be train, validation or test", received=split, remedy="leave split out")
    if limit is not None and limit < 1:
        raise ConfigError("limit", "must be at least 1", received=limit, remedy="leave limit out")


def _define(
    subject: Subject, corpus: Artefact[Corpus], train_on: Literal["all", "last"]
) -> tuple[Artefact[TokenisedCorpus], Artefact[TokenScores]]:
    """Tokens and scores of `corpus`, stamped as a sweep's, so that either finds the other's."""
    from tokensieve.resident import base_identity
    from tokensieve.score import define_scores
    from tokensieve.tokenise import define_tokens

    named = subject.config.model
    tokens = define_tokens(
        subject.store,
        corpus,
        train_on=train_on,
        model_path=named.path,
        revision=named.revision,
        chat_template=named.chat_template,
        length_limit=named.max_length,
    )
    scorer = base_identity(subject.config)
    if subject.weights is not None:
        scorer["weights"] = subject.weights.identity
    return tokens, define_scores(subject.store, tokens, scorer=scorer, load_scorer=subject.load_model)
