"""The ledger of noise, kept in each changed row's provenance, and how well a detector found what it lists."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tokensieve.errors import DataError
from tokensieve.records import Corpus


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One changed row: `before` and `after` are the whole contents of its last assistant turn."""

    id: str
    kind: str
    before: str
    after: str

    def to_json(self) -> str:
        """The entry as it stands in a row's provenance; the row itself holds the id."""
        entry = {"stage": "noise", "kind": self.kind, "before": self.before, "after": self.after}
        return json.dumps(entry, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class DetectionScore:
    """How well `num_flagged` rows match the `num_noisy` of the ledger; `num_found` are in both.

    `precision` is NaN when nothing is flagged, `recall` when nothing is noisy, `f1` when neither is.
    """

    precision: float
    recall: float
    f1: float
    num_noisy: int
    num_flagged: int
    num_found: int


def read_ledger(corpus: Corpus) -> Iterator[LedgerEntry]:
    """Every changed row of `corpus`, in row order; none for a corpus without noise. Streams."""
    columns = corpus.rows.select_columns(["id", "provenance"])
    for batch in columns.iter(batch_size=256):
        for row_id, provenance in zip(batch["id"], batch["provenance"], strict=True):
            for text in provenance:
                entry = json.loads(text) if '"noise"' in text else {}
                if entry.get("stage") == "noise":
                    yield LedgerEntry(row_id, entry["kind"], entry["before"], entry["after"])


def score_detection(
    ledger_ids: Collection[str], flagged_ids: Collection[str], all_ids: Collection[str]
) -> DetectionScore:
    """Score a detector of noisy rows; ids count once, however often they are given.

    Raises:
        DataError: the ledger or the detector names an id that is not among `all_ids`.

    >>> score_detection({"a", "b"}, {"b", "c"}, {"a", "b", "c", "d"}).f1
    0.5
    """
    from sklearn.metrics import precision_recall_fscore_support

    noisy, flagged, known = set(ledger_ids), set(flagged_ids), set(all_ids)
    for name, ids in (("ledger", noisy), ("detector", flagged)):
        if unknown := ids - known:
            raise DataError(
                f"{name} of noise",
                "must name rows of the corpus",
                received=min(unknown),
                remedy="score against the corpus that was searched",
            )
    precision = recall = f1 = float("nan")
    if noisy or flagged:
        order = sorted(noisy | flagged)  # rows in neither set enter none of the three
        precision, recall, f1, _ = precision_recall_fscore_support(
            [row_id in noisy for row_id in order],
            [row_id in flagged for row_id in order],
            average="binary",
            zero_division=float("nan"),
        )
    return DetectionScore(float(precision), float(recall), float(f1), len(noisy), len(flagged), len(noisy & flagged))
