"""Held-out perplexity: how surprising a model finds the responses of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tokensieve.evaluations.subject import Subject
from tokensieve.log_likelihood import compute_perplexity, sum_nll
from tokensieve.records import Corpus
from tokensieve.resident import base_identity
from tokensieve.score import define_scores
from tokensieve.store import Artefact
from tokensieve.tokenise import define_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutPerplexity:
    """`perplexity` is exp of the mean NLL over all `num_tokens` response tokens; `item_nlls` are means in nats a token.

    Ids and NLLs of the N items align. `was_cached` says whether the NLLs were there already.
    """

    dataset: str
    perplexity: float
    num_tokens: int
    item_ids: Sequence[str]
    item_nlls: Sequence[float]
    was_cached: bool


def measure_perplexity(
    subject: Subject, name: str, corpus: Artefact[Corpus], train_on: Literal["all", "last"]
) -> HeldOutPerplexity:
    """The perplexity of `subject` on the response tokens of `corpus`, the end token of each response among them.

    Raises:
        DataError: an example longer than the model's limit, or no response token at all.
    """
    config = subject.config
    tokens = define_tokens(
        subject.store,
        corpus,
        train_on=train_on,
        model_path=config.model.path,
        revision=config.model.revision,
        chat_template=config.model.chat_template,
        length_limit=config.model.max_length,
    )
    scorer = base_identity(config)
    if subject.weights is not None:
        scorer["weights"] = subject.weights.identity
    scores = define_scores(subject.store, tokens, scorer=scorer, load_scorer=subject.load_model)
    rows = scores.get().rows
    sums, counts = sum_nll(rows["nll"])
    found = compute_perplexity(sums, counts)
    return HeldOutPerplexity(
        dataset=name,
        perplexity=found.value,
        num_tokens=sum(counts),
        item_ids=list(rows["id"]),
        item_nlls=found.item_nlls,
        was_cached=not scores.built_here,
    )
