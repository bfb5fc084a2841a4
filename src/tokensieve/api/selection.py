"""`select_tokens`: which of the scored tokens a rule keeps."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from tokensieve.api.scores import ScoredExample, ScoredTokens
from tokensieve.errors import AlignmentError, ConfigError
from tokensieve.records import MaskStats, TokenMask
from tokensieve.token_classes import classify_pieces

if TYPE_CHECKING:
    import pandas as pd

_DPF_RULES = ("dpf", "stm_dpf")


@dataclass(frozen=True)
class SelectedTokens:
    """Which response tokens are trained. `mask`: rows `id`, `keep` [T], in the order of `scored`."""

    scored: ScoredTokens
    rule: str
    mask: TokenMask

    def __len__(self) -> int:
        return len(self.mask)

    def __iter__(self) -> Iterator[tuple[ScoredExample, npt.NDArray[np.bool_]]]:
        for example, row in zip(self.scored, self.mask.rows, strict=True):
            yield example, np.asarray(row["keep"], dtype=bool)

    @property
    def stats(self) -> MaskStats:
        """What the rule did to the data: kept tokens, dropped examples, the masked share of the NLL."""
        return self.mask.stats

    @cached_property
    def frame(self) -> pd.DataFrame:
        """`ScoredTokens.frame` with the column `keep`: true where a token is trained, false in prompts."""
        keep = [np.asarray(row["keep"], dtype=bool) for row in self.mask.rows]
        return self.scored.frame.assign(keep=np.concatenate(keep))

    def describe_responses(self, language: str = "text") -> pd.DataFrame:
        """One row a response token: example, position, token, nll, perplexity, keep, token_class, tenth.

        Args:
            language: of the responses: `text`, or one that Pygments knows (python, sql, ...); see
                `tokensieve.token_classes` for the classes.

        `tenth` is the token's place in its response, 1 to 10. The last token of a response is its end token.

        Raises:
            ConfigError: no such language.
        """
        import pandas as pd

        parts = []
        for example, keep in self:
            for places in _spans(example.is_response):
                pieces = [example.tokens[place] for place in places]
                with np.errstate(over="ignore"):
                    perplexity = np.exp(example.nll[places].astype(np.float64))
                columns = {
                    "example": example.id,
                    "position": places,
                    "token": pieces,
                    "nll": example.nll[places],
                    "perplexity": perplexity,
                    "keep": keep[places],
                    "token_class": classify_pieces(pieces, language),
                    "tenth": 1 + np.arange(len(places)) * 10 // len(places),
                }
                parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True)


def _spans(is_response: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.intp]]:
    """Positions of each trained turn."""
    places = np.flatnonzero(is_response)
    return np.split(places, np.flatnonzero(np.diff(places) > 1) + 1) if places.size else []


def select_tokens(
    scored: ScoredTokens,
    rule: str = "high_ppl",
    *,
    threshold: float = 2.5,
    quantile: float = 0.8,
    quantile_scope: Literal["corpus", "example"] = "corpus",
    dpf_threshold: float = 0.0,
    dpf_keep: Literal["fallen", "risen", "most_fallen", "most_risen"] = "fallen",
    tuned: ScoredTokens | None = None,
    seed: int = 1,
) -> SelectedTokens:
    """What a token rule keeps of `scored`; the same rules, and the same cache, as `stm.rule` of a sweep.

    Args:
        scored: what `score_tokens` returned.
        rule: none, high_ppl (STM), low_ppl, random, quantile, dpf, stm_dpf.
        threshold: perplexity above which high_ppl masks; low_ppl and random mask as many.
        quantile: share of tokens that the rule quantile keeps, in (0, 1].
        quantile_scope: over the corpus, or within each example.
        dpf_threshold: the dpf rules mask where the perplexity under `tuned` exceeds that of `scored` by more.
        dpf_keep: fallen: so. risen: the dpf rules mask the others. most_fallen, most_risen: they keep as many in each
            example as high_ppl does, those whose perplexity fell or rose most under `tuned`.
        tuned: the same data, scored under a fine-tuned model; for the dpf rules.
        seed: of the rule random.

    Raises:
        ConfigError: an unknown rule, or a value out of its range. AlignmentError: `tuned` scores other tokens.
        EmptyMask: no token is kept.
    """
    from tokensieve.config import StmConfig
    from tokensieve.mask import define_mask
    from tokensieve.token_rules import TokenRule

    known = typing.get_args(typing.get_type_hints(StmConfig)["rule"])
    if rule not in known:
        raise ConfigError("rule", "must name a token rule", received=rule, remedy=f"choose from {', '.join(known)}")
    if rule in _DPF_RULES and tuned is None:
        raise ConfigError(
            "tuned",
            f"rule {rule} compares two perplexities",
            received=None,
            remedy="pass tuned=score_tokens(data, model=<a fine-tuned run>)",
        )
    if tuned is not None and tuned.tokens.digest != scored.tokens.digest:
        raise AlignmentError(
            "tuned",
            "must score the same tokens as `scored`",
            received=f"{tuned.model} on other data, or with another tokenizer",
            remedy="score the same data, split and limit, with models of one tokenizer and chat template",
        )
    settings: dict[str, Any] = {"threshold": threshold, "quantile": quantile, "quantile_scope": quantile_scope}
    settings |= {"dpf_threshold": dpf_threshold, "dpf_keep": dpf_keep}
    StmConfig(rule=rule, tuned_adapter="given" if tuned is not None else None, **settings)  # type: ignore[arg-type]
    chosen = TokenRule(rule, seed=seed, **settings)
    compared = tuned.scores if tuned is not None and rule in _DPF_RULES else None
    scores = scored.scores if rule != "none" else None
    return SelectedTokens(scored, rule, define_mask(scored.store, scored.tokens, chosen, scores, compared).get())
