"""What a finished variant says about itself."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokensieve.records import Corpus
from tokensieve.store import Artefact
from tokensieve.variant.files import LEDGER_FILE, REPORT_FILE


def _folder(variant: Artefact[Corpus] | Path) -> Path | None:
    if isinstance(variant, Path):
        return variant
    if variant.stamp.stage != "variant":
        return None
    variant.get()
    return variant.store.folder(variant.stamp)


def read_variant_report(variant: Artefact[Corpus] | Path) -> dict[str, float]:
    """The figures of a variant, built first if need be, or of its folder; empty for a corpus that is no variant.

    Always `rows` (decisions), `kept`, `kept_fraction`, and the counts of each action (`own`, `rewritten`, `relabelled`,
    `new`, `fallback`, `dropped`); with a noise ledger also what `NoiseTally.figures` says. Undefined shares are NaN.
    """
    folder = _folder(variant)
    if folder is None:
        return {}
    figures = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    return {key: math.nan if value is None else float(value) for key, value in figures.items()}


def read_variant_ledger(variant: Artefact[Corpus] | Path) -> Iterator[dict[str, Any]]:
    """The decisions of a variant, one a source row, in order; none for a corpus that is no variant."""
    folder = _folder(variant)
    if folder is not None:
        with (folder / LEDGER_FILE).open(encoding="utf-8") as stream:
            for line in stream:
                yield json.loads(line)
