"""The files of a variant: its rows, one ledger line for each decision, and a summary."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from tokensieve.errors import DataError
from tokensieve.records import Corpus
from tokensieve.variant.bench import Bench
from tokensieve.variant.example import Outcome
from tokensieve.variant.files import DATA_FILE, LEDGER_FILE, REPORT_FILE
from tokensieve.variant.noise_tally import NoiseTally

_REASONS_SHOWN: Final = 3
_FEW_ANSWERS: Final = 0.8  # below this share of completions with an answer, something is wrong with the question
log = logging.getLogger(__name__)


def write_variant(folder: Path, bench: Bench, corpus: Corpus, outcomes: Iterable[Outcome], on_empty: str) -> None:
    """Write the kept rows, the ledger and the summary into `folder`.

    Raises:
        DataError: no row is kept (`on_empty` is the remedy), or two have one id.
    """
    from datasets.arrow_writer import ArrowWriter

    name, tally = bench.settings.name, NoiseTally(bench, corpus)
    actions: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    seen: set[bytes] = set()  # 8-byte digests of ids
    with (
        ArrowWriter(features=corpus.rows.features, path=str(folder / DATA_FILE)) as writer,
        (folder / LEDGER_FILE).open("w", encoding="utf-8") as ledger,
    ):
        for outcome in outcomes:
            ledger.write(json.dumps(_ledger_line(outcome), ensure_ascii=False) + "\n")
            actions[outcome.action] += 1
            tally.add(outcome)
            if not outcome.is_kept:
                reasons[outcome.reason] += 1
                continue
            key = hashlib.blake2b(outcome.example.id.encode(), digest_size=8).digest()
            if key in seen:
                raise DataError(f"variant {name}", "ids must be unique", received=outcome.example.id)
            seen.add(key)
            writer.write(_row(outcome, name))
        writer.finalize()
    kept = sum(actions.values()) - actions["dropped"]
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(_REASONS_SHOWN))
    if kept == 0:
        rule = f"must keep at least one of {sum(actions.values())} rows"
        raise DataError(f"variant {name}", rule, received=f"none kept: {why or 'no row at all'}", remedy=on_empty)
    answered = bench.answered_fractions()
    figures = _figures(actions, kept) | {f"answered_{step}": share for step, share in answered.items()}
    figures |= tally.figures()
    finite = {key: value if math.isfinite(value) else None for key, value in figures.items()}
    (folder / REPORT_FILE).write_text(json.dumps(finite, indent=1), encoding="utf-8")
    for step, share in answered.items():
        if share < _FEW_ANSWERS:
            remedy = "raise variant.max_new_tokens, or let the prompt ask for the form of answer that the task reads"
            log.warning("variant %s: %.0f %% of %s completions give an answer: %s", name, 100 * share, step, remedy)
    log.info("variant %s: %s%s", name, _sentence(figures), f" ({why})" if why else "")


def _figures(actions: Counter[str], kept: int) -> dict[str, float]:
    counts = {key: float(actions[key]) for key in ("own", "rewritten", "relabelled", "new", "fallback", "dropped")}
    total = sum(actions.values())
    return {"rows": float(total), "kept": float(kept), "kept_fraction": kept / total} | counts


def _sentence(figures: dict[str, float]) -> str:
    parts = [f"kept {figures['kept']:.0f} of {figures['rows']:.0f} rows, dropped {figures['dropped']:.0f}"]
    parts += [f"{key} {figures[key]:.0f}" for key in ("rewritten", "relabelled", "new", "fallback") if figures[key]]
    parts += [
        f"{key.replace('_', ' ')} {figures[key]:.3f}"
        for key in ("noise_precision", "noise_recall", "noise_f1", "relabel_accuracy")
        if not math.isnan(figures.get(key, math.nan))
    ]
    return ", ".join(parts)


def _ledger_line(outcome: Outcome) -> dict[str, Any]:
    return {
        "id": outcome.example.id,
        "action": outcome.action,
        "reason": outcome.reason,
        **({"flagged": outcome.flagged} if outcome.flagged is not None else {}),
        **outcome.lineage,
        **outcome.sampled.audit(),
    }


def _row(outcome: Outcome, name: str) -> dict[str, Any]:
    example = outcome.example
    messages = [dict(turn) for turn in example.messages]
    if outcome.response is not None:
        messages[-1]["content"] = outcome.response
    entry = {
        "stage": "variant",
        "variant": name,
        "source": example.id,
        "action": outcome.action,
        "reason": outcome.reason,
        **outcome.lineage,
        **outcome.sampled.lineage(),
    }
    return {
        "id": example.id,
        "task": example.task,
        "messages": messages,
        "reference": example.reference_text,
        "provenance": [*example.provenance, json.dumps(entry, ensure_ascii=False)],
    }
