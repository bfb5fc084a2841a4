"""What an export did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokensieve.export.verification import Agreement


@dataclass(frozen=True, slots=True)
class Export:
    """What was written. Without an adapter (full fine-tuning) the files are copies, and nothing was to be compared.

    Attributes:
        folder: the checkpoint.
        dtype: of its weights.
        merge: the merged model, read from the written files, against base and adapter unmerged; tolerance in
            `TOLERANCE[dtype]`.
        effect: the same against the base alone: what the adapter does at all.
        quantisation: against base and adapter with the base in 4 bits, as trained; None where it was not.
    """

    folder: Path
    dtype: str
    merge: Agreement | None = None
    effect: Agreement | None = None
    quantisation: Agreement | None = None
