"""Stage 6: the kept positions of a whole corpus, and what the rule did to it. A sweep of thresholds starts here."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tokensieve.errors import EmptyMask
from tokensieve.records import MaskStats, Stamp, TokenisedCorpus, TokenMask, TokenScores
from tokensieve.store import Artefact, Store
from tokensieve.token_rules import BoolArray, FloatArray, TokenRule

VERSION = 1
DATA_FILE = "data.arrow"
STATS_FILE = "stats.json"


def define_mask(
    store: Store,
    tokens: Artefact[TokenisedCorpus],
    rule: TokenRule,
    scores: Artefact[TokenScores] | None,
    tuned_scores: Artefact[TokenScores] | None = None,
    *,
    split: str = "train",
) -> Artefact[TokenMask]:
    """The mask that `rule` makes of `tokens`, not yet computed. `scores` may be absent for the rule `none`.

    `split` only names the data in an error.

    Raises (when the artefact is built):
        EmptyMask: no token of the whole corpus is kept.
    """
    inputs: dict[str, Any] = {"version": VERSION, "tokens": tokens.digest} | rule.identity()
    if scores is not None and rule.name != "none":
        inputs["scores"] = scores.digest
    if tuned_scores is not None:
        inputs["tuned_scores"] = tuned_scores.digest
    stamp = Stamp("mask", inputs)

    def build(folder: Path) -> None:
        keep_by_row = _select_all(tokens.get(), rule, scores, tuned_scores)
        stats = _write(folder / DATA_FILE, tokens.get(), keep_by_row, scores.get() if scores is not None else None)
        if stats["stats"]["kept_tokens"] == 0:
            num_tokens = stats["stats"]["response_tokens"]
            raise EmptyMask(
                "stm",
                f"must keep at least one of the {num_tokens} response tokens of the {split} split",
                received=", ".join(f"{key}={value}" for key, value in rule.identity().items()),
                remedy="raise stm.threshold (or stm.quantile)"
                + ("" if split == "train" else ", or take more validation data: dataset.val_fraction"),
            )
        (folder / STATS_FILE).write_text(json.dumps(stats))

    return Artefact(stamp, store, build, partial(_open, stamp=stamp))


def content_digest(mask: Artefact[TokenMask]) -> str:
    """Digest of the kept positions themselves: two rules with equal masks train equal adapters."""
    if not mask.is_cached:  # reading a cached one needs no library: a dry run asks for it
        mask.get()
    stats = json.loads((mask.store.folder(mask.stamp) / STATS_FILE).read_text())
    return str(stats["content"])


def _open(folder: Path, *, stamp: Stamp) -> TokenMask:
    from datasets import Dataset

    stats = json.loads((folder / STATS_FILE).read_text())["stats"]
    return TokenMask(Dataset.from_file(str(folder / DATA_FILE)), MaskStats(**stats), stamp)


def _select_all(
    tokens: TokenisedCorpus,
    rule: TokenRule,
    scores: Artefact[TokenScores] | None,
    tuned_scores: Artefact[TokenScores] | None,
) -> Iterator[tuple[str, BoolArray, BoolArray, FloatArray | None]]:
    """For each example: its id, the kept positions, the response positions, and the NLL where there is one."""
    nll_rows = scores.get().rows if scores is not None else None
    tuned_rows = tuned_scores.get().rows if tuned_scores is not None else None
    border = math.inf
    if rule.name == "quantile" and rule.quantile_scope == "corpus" and nll_rows is not None:
        border = _corpus_border(tokens, nll_rows, rule.quantile)
    for number, row in enumerate(tokens.rows.with_format(None)):
        is_response = np.asarray(row["is_response"], dtype=bool)
        nll = np.asarray(nll_rows[number]["nll"], dtype=np.float32) if nll_rows is not None else None
        tuned = np.asarray(tuned_rows[number]["nll"], dtype=np.float32) if tuned_rows is not None else None
        unused = np.zeros(len(is_response), dtype=np.float32)
        yield (
            row["id"],
            rule.select(row["id"], unused if nll is None else nll, tuned, is_response, border),
            is_response,
            nll,
        )


def _corpus_border(tokens: TokenisedCorpus, nll_rows: Any, quantile: float) -> float:
    """NLL of the last kept token when all response tokens of the corpus are sorted (nearest-rank quantile)."""
    values = [
        np.asarray(scored["nll"], dtype=np.float32)[np.asarray(row["is_response"], dtype=bool)]
        for row, scored in zip(tokens.rows, nll_rows, strict=True)
    ]
    return float(np.quantile(np.concatenate(values), quantile, method="inverted_cdf"))


def _write(
    path: Path,
    tokens: TokenisedCorpus,
    keep_by_row: Iterator[tuple[str, BoolArray, BoolArray, FloatArray | None]],
    scores: TokenScores | None,
) -> dict[str, Any]:
    from datasets import Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    dropped = response = kept = ends = 0
    total_nll = masked_nll = 0.0
    content = hashlib.blake2b(digest_size=16)
    features = Features({"id": Value("string"), "keep": List(Value("bool"))})
    with ArrowWriter(features=features, path=str(path)) as writer:
        for name, keep, is_response, nll in keep_by_row:
            writer.write({"id": name, "keep": keep})
            content.update(f"{name}:{len(keep)}:".encode() + np.packbits(keep).tobytes())
            response += int(is_response.sum())
            kept += int(keep.sum())
            dropped += not keep.any()
            ends += bool(keep[np.flatnonzero(is_response)[-1]])
            if nll is not None:
                total_nll += float(nll[is_response].sum(dtype=np.float64))
                masked_nll += float(nll[is_response & ~keep].sum(dtype=np.float64))
        writer.finalize()
    stats = MaskStats(
        num_examples=len(tokens),
        dropped_examples=dropped,
        response_tokens=response,
        kept_tokens=kept,
        masked_nll_fraction=masked_nll / total_nll if total_nll > 0 else math.nan,
        end_kept_fraction=ends / len(tokens),
    )
    return {"stats": asdict(stats), "content": content.hexdigest()}
