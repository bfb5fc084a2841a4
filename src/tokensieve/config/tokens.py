"""Config group `stm`: which response tokens are trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, Optional

from tokensieve.config.rule import require

READ_THRESHOLD: Final = ("high_ppl", "low_ppl", "random", "stm_dpf")
"""Rules of `stm.rule` that `stm.threshold` is for."""


@dataclass(kw_only=True, slots=True)
class StmConfig:
    """Which response tokens are trained (STM, arXiv 2501.14315, section 4)."""

    rule: Literal["none", "high_ppl", "low_ppl", "random", "quantile", "dpf", "stm_dpf"] = "high_ppl"
    """none: all. high_ppl (STM): mask ppl > threshold. low_ppl: mask the lowest, as many in each example as high_ppl
    masks. random: mask a uniform draw, as many in each example as high_ppl masks. quantile: keep the `quantile` share
    of lowest ppl. dpf: mask where ppl under `tuned_adapter` minus base ppl is above `dpf_threshold`. stm_dpf: mask
    what either high_ppl or dpf masks."""
    threshold: float = 2.5
    """Perplexity tau > 0: a token is trained iff exp(nll) <= tau. 2.5 is the paper's choice (p >= 0.4)."""
    dpf_threshold: float = 0.0
    """Bound on ppl_tuned - ppl_base; 0 is the paper's (masks every token whose perplexity rose)."""
    dpf_keep: Literal["fallen", "risen", "most_fallen", "most_risen"] = "fallen"
    """dpf and stm_dpf. fallen: train where the difference is at most `dpf_threshold`. risen: where it is above.
    most_fallen, most_risen: train the tokens whose perplexity fell or rose most, as many in each example as high_ppl
    keeps at `threshold`, so that the two directions can be compared at one count."""
    quantile: float = 0.8
    """Share of response tokens kept by rule=quantile, in (0, 1]."""
    quantile_scope: Literal["corpus", "example"] = "corpus"
    """Take the quantile over all response tokens of the corpus, or within each example."""
    scorer: Optional[str] = None
    """Model whose perplexities decide (folder or hub id, same tokenizer); null: the run's base model."""
    scorer_revision: Optional[str] = None
    tuned_adapter: Optional[str] = None
    """Adapter folder of an earlier run; gives the second perplexity of dpf and stm_dpf."""
    scores_path: Optional[str] = None
    """Parquet, Arrow or JSONL file of per-token `ppl` or `nll` with `input_ids`: replaces scoring."""
    mask_seed: Optional[int] = None
    """Seed of rule=random; null: the run's seed."""

    def __post_init__(self) -> None:
        require(
            self.threshold > 0 and math.isfinite(self.threshold),
            "stm.threshold",
            "must be a finite perplexity above 0",
            self.threshold,
            "2.5 is the paper's choice; stm=none trains every token",
        )
        require(
            0 < self.quantile <= 1,
            "stm.quantile",
            "must be in (0, 1]: the share of response tokens that are kept",
            self.quantile,
            "try 0.8",
        )
        require(
            self.scores_path != "",
            "stm.scores_path",
            "must name the file of perplexities to import",
            None,
            "set stm.scores_path=scores.parquet",
        )
        require(
            self.rule not in ("dpf", "stm_dpf") or self.tuned_adapter is not None,
            "stm.tuned_adapter",
            f"rule {self.rule} compares two perplexities and needs a fine-tuned adapter",
            self.tuned_adapter,
            "train one with stm=none and set stm.tuned_adapter=outputs/.../adapter",
        )

    @property
    def needs_scores(self) -> bool:
        return self.rule != "none"
