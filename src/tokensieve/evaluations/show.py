"""Results of one model as a table and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.evaluations.perplexity import HeldOutPerplexity
from tokensieve.evaluations.subject import Subject
from tokensieve.records import EvalResult
from tokensieve.run_folder import write_atomically

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_scores(results: Sequence[EvalResult], console: Console) -> None:
    """One line a task: score in percent, its 95 % Wilson interval, number of items, metric, version of the task."""
    table = _make_table("task", "score", "95 % interval", "n", "metric", "version")
    notes = []
    for result in results:
        interval = f"{100 * result.low:.1f} to {100 * result.high:.1f}" if math.isfinite(result.low) else "-"
        score = f"{100 * result.value:.1f}" if result.num_items else f"{result.value:.4g}"
        table.add_row(result.task, score, interval, str(result.num_items), result.metric, str(result.version))
        notes += [f"{result.task}: {note}" for note in _notes(result)]
    console.print(table)
    for note in notes:
        console.print(note, markup=False, highlight=False)


def _notes(result: EvalResult) -> list[str]:
    decoding = result.decoding
    notes = [f"{name} {100 * value:.1f}" for name, value in decoding.get("outcomes", {}).items()]
    if decoding.get("examples_left_out"):
        notes.append(f"{decoding['examples_left_out']} examples were left out of prompts too long")
    if decoding.get("prompts_too_long"):
        notes.append(f"{decoding['prompts_too_long']} prompts were too long and scored 0")
    return notes


def print_perplexities(results: Sequence[HeldOutPerplexity], console: Console) -> None:
    """One line a dataset: perplexity over its response tokens, and how many examples and tokens there were."""
    table = _make_table("dataset", "perplexity", "n", "tokens")
    for result in results:
        row = result.dataset, _format(result.perplexity), str(len(result.item_ids)), str(result.num_tokens)
        table.add_row(*row)
    console.print(table)


def _format(perplexity: float) -> str:
    return f"{perplexity:.4f}" if perplexity < 100 else f"{perplexity:.5g}"


def _make_table(*titles: str) -> Table:
    from rich.table import Table

    table = Table()
    for title in titles:
        table.add_column(title, justify="left" if title in ("task", "dataset", "metric") else "right")
    return table


def write_results(
    path: Path,
    subject: Subject,
    results: Sequence[EvalResult | HeldOutPerplexity],
    *,
    suite: str,
    stamps: Mapping[str, str],
) -> None:
    """Write model, settings, stamps and results with all items; a number that is not finite is null."""
    config, weights = subject.config, subject.weights
    content = {
        "model": {"path": config.model.path, "revision": config.model.revision},
        "weights": str(weights.folder()) if weights is not None else None,
        "suite": suite,
        "eval": {key: value for key, value in asdict(config.eval).items() if key != "datasets"},
        "stamps": dict(stamps),
        "results": [asdict(result) for result in results],
    }
    text = json.dumps(_finite(content), ensure_ascii=False, allow_nan=False, indent=1)
    write_atomically(path, text + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
