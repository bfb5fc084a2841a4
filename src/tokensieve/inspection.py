"""Which tokens a run trains and which it masks, as a page to look at."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokensieve.config.tokens import READ_THRESHOLD
from tokensieve.model import load_tokenizer
from tokensieve.stages import Stages

# Examples on the page. The distribution and the summary are over all of them.
SHOWN_EXAMPLES = 50


def token_rows(stages: Stages) -> Iterator[dict[str, Any]]:
    """For each training example: id, decoded token pieces, nll (NaN where not scored), is_response, keep; each [T]."""
    tokenizer = load_tokenizer(
        stages.config.model.path, stages.config.model.revision, stages.config.model.chat_template
    )
    scores = stages.scores.get().rows if stages.scores is not None else None
    for number, (row, masked) in enumerate(zip(stages.tokens.get().rows, stages.mask.get().rows, strict=True)):
        ids = row["input_ids"]
        yield {
            "id": row["id"],
            "tokens": [tokenizer.decode([token]) for token in ids] if number < SHOWN_EXAMPLES else [""] * len(ids),
            "nll": scores[number]["nll"] if scores is not None else [math.nan] * len(ids),
            "is_response": row["is_response"],
            "keep": masked["keep"],
        }


def write_inspection(stages: Stages, path: Path) -> None:
    """Write the page of `stages`' training data to `path`."""
    from tokensieve.report.tokens import TokenRow, write_token_page

    stm = stages.config.stm
    border = stm.threshold if stm.rule in READ_THRESHOLD else None
    write_token_page(
        path,
        examples=(TokenRow(**row) for row in token_rows(stages)),
        title=stages.config.run_name,
        stats=stages.mask.get().stats,
        threshold=border,
    )
