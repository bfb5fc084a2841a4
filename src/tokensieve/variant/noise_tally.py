"""How well a variant found and mended the noise that the corpus' own ledger lists."""

from __future__ import annotations

import math

from tokensieve.records import Corpus
from tokensieve.variant.bench import Bench
from tokensieve.variant.example import Example, Outcome

_ROWS_AT_ONCE = 256  # graded together


class NoiseTally:
    """Counts over the outcomes of one build. It alone looks at the ledger; no variant decides by it."""

    def __init__(self, bench: Bench, corpus: Corpus) -> None:
        self._bench = bench
        self._has_ledger = _has_noise(corpus)
        self._flagged = self._noisy = self._found = 0
        self._proposed = self._right = self._relabelled = self._relabelled_right = 0
        self._waiting: list[tuple[Example, str, bool]] = []

    def add(self, outcome: Outcome) -> None:
        """Count one row."""
        if outcome.flagged is None or not self._has_ledger:
            return
        is_noisy = outcome.example.noise is not None
        self._flagged += outcome.flagged
        self._noisy += is_noisy
        self._found += outcome.flagged and is_noisy
        if outcome.proposal is not None:
            self._waiting.append((outcome.example, outcome.proposal, outcome.is_kept))
            if len(self._waiting) >= _ROWS_AT_ONCE:
                self._compare()

    def _compare(self) -> None:
        """Does the new label give the clean one's answer? The clean one is the ledger's, or the row's own."""
        examples = [example for example, _, _ in self._waiting]
        texts = [
            [proposal, str(example.noise["before"]) if example.noise is not None else example.response]
            for example, proposal, _ in self._waiting
        ]
        for (_, _, is_kept), (found, clean) in zip(self._waiting, self._bench.group(examples, texts), strict=True):
            is_right = found is not None and found == clean
            self._proposed += 1
            self._right += is_right
            self._relabelled += is_kept
            self._relabelled_right += is_kept and is_right
        self._waiting.clear()

    def figures(self) -> dict[str, float]:
        """Empty unless the variant judges labels and the corpus has a noise ledger.

        `noise_precision`, `noise_recall`, `noise_f1` of "flagged" against the ledger; `relabel_accuracy` over the new
        labels that are used and `proposal_accuracy` over all that were proposed: the share whose answer is the clean
        one. NaN where there is nothing to take a share of.
        """
        if self._waiting:
            self._compare()
        if not self._noisy:
            return {}
        precision, recall = _share(self._found, self._flagged), _share(self._found, self._noisy)
        return {
            "noisy": float(self._noisy),
            "flagged": float(self._flagged),
            "noise_precision": precision,
            "noise_recall": recall,
            "noise_f1": _share(2 * self._found, self._flagged + self._noisy),
            "relabel_accuracy": _share(self._relabelled_right, self._relabelled),
            "proposal_accuracy": _share(self._right, self._proposed),
        }


def _has_noise(corpus: Corpus) -> bool:
    batches = corpus.rows.select_columns(["provenance"]).iter(batch_size=1024)
    return any('"noise"' in text for batch in batches for row in batch["provenance"] for text in row)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
