"""What a mask does, counted over a corpus in one pass; the corpus may be larger than memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

BIN_WIDTH = 0.1  # of log10 perplexity
NUM_BINS = 60  # up to a perplexity of a million; what lies above is in the last bin
NUM_PARTS = 10


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One example, T tokens: decoded pieces, `nll` in nats (NaN where not scored), and the two masks."""

    id: str
    tokens: list[str]
    nll: list[float]
    is_response: list[bool]
    keep: list[bool]


def _zeros(size: int) -> npt.NDArray[np.int64]:
    return np.zeros(size, dtype=np.int64)


@dataclass(slots=True)
class TokenCounts:
    """Sums over the examples that were added.

    `kept_bins`, `masked_bins`: scored response tokens by log10 perplexity. `part_tokens`, `part_masked`: response
    tokens by tenth of their response. `empty`: examples that keep no token. `end_kept`: whose last token is kept.
    """

    num_examples: int = 0
    with_response: int = 0
    response_tokens: int = 0
    kept_tokens: int = 0
    scored_tokens: int = 0
    empty: int = 0
    end_kept: int = 0
    nll: float = 0.0
    masked_nll: float = 0.0
    kept_bins: npt.NDArray[np.int64] = field(default_factory=lambda: _zeros(NUM_BINS))
    masked_bins: npt.NDArray[np.int64] = field(default_factory=lambda: _zeros(NUM_BINS))
    part_tokens: npt.NDArray[np.int64] = field(default_factory=lambda: _zeros(NUM_PARTS))
    part_masked: npt.NDArray[np.int64] = field(default_factory=lambda: _zeros(NUM_PARTS))
    masked_pieces: Counter[str] = field(default_factory=Counter)

    def add(self, row: TokenRow, *, with_pieces: bool) -> None:
        """Count one example; `with_pieces` also counts which token texts are masked."""
        response = np.flatnonzero(np.asarray(row.is_response, dtype=bool))
        kept = np.asarray(row.keep, dtype=bool)[response]
        nll = np.asarray(row.nll, dtype=np.float64)[response]
        self.num_examples += 1
        self.response_tokens += response.size
        self.kept_tokens += int(kept.sum())
        self.empty += not kept.any()
        if response.size == 0:
            return
        self.with_response += 1
        self.end_kept += bool(kept[-1])
        scored = ~np.isnan(nll)
        self.scored_tokens += int(scored.sum())
        self.nll += float(nll[scored].sum())
        self.masked_nll += float(nll[scored & ~kept].sum())
        bins = np.clip(nll[scored] / np.log(10) / BIN_WIDTH, 0, NUM_BINS - 1).astype(np.int64)
        self.kept_bins += np.bincount(bins[kept[scored]], minlength=NUM_BINS)
        self.masked_bins += np.bincount(bins[~kept[scored]], minlength=NUM_BINS)
        parts = np.arange(response.size) * NUM_PARTS // response.size
        self.part_tokens += np.bincount(parts, minlength=NUM_PARTS)
        self.part_masked += np.bincount(parts[~kept], minlength=NUM_PARTS)
        if with_pieces:
            self.masked_pieces.update(row.tokens[place] for place in response[~kept])
