"""Which tokens a run trains and which it masks, as a page to look at."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokensieve.config.tokens import READ_THRESHOLD
from tokensieve.model import load_tokenizer
from tokensieve.records import Stamp
from tokensieve.stages import Stages
from tokensieve.store import Artefact

VERSION = 1
PAGE_FILE = "tokens.html"
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


def define_page(stages: Stages) -> Artefact[Path]:
    """The HTML page of `stages`' training data, not yet written. Runs that share a mask share it: it costs half a
    second and up to 4 MB."""
    config, stm = stages.config, stages.config.stm
    noise = [config.noise.label] if config.noise.corrupts_responses else []
    title = "/".join([config.model.name, config.dataset.name, config.variant.label, config.arm, *noise])
    border = stm.threshold if stm.rule in READ_THRESHOLD else None
    inputs = {"version": VERSION, "mask": stages.mask.digest, "title": title, "threshold": border}
    if stages.scores is not None:
        inputs["scores"] = stages.scores.digest

    def build(folder: Path) -> None:
        from tokensieve.report.tokens import TokenRow, write_token_page

        write_token_page(
            folder / PAGE_FILE,
            examples=(TokenRow(**row) for row in token_rows(stages)),
            title=title,
            stats=stages.mask.get().stats,
            threshold=border,
        )

    return Artefact(Stamp("page", inputs), stages.store, build, lambda folder: folder / PAGE_FILE)
