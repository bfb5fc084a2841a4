"""Which examples of a written corpus stay, and in which order: duplicates, contamination, shuffle, limit."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokensieve.dataset.duplicates import Mode, find_overlap, find_repeats
from tokensieve.errors import DataError
from tokensieve.records import Corpus

if TYPE_CHECKING:
    import datasets
    import numpy as np

log = logging.getLogger(__name__)
PAIRS_FILE: Final = "duplicates.jsonl"
REPORT_FILE: Final = "duplicates.json"
_BATCH_ROWS: Final = 1000
_MAX_NAMED: Final = 20  # repeats that an example's provenance names; the ledger has them all
Turns = Sequence[Mapping[str, str]]


def prompt_text(turns: Turns) -> str:
    """What an evaluation set would leak through: the user's turns, or the text itself where there are none."""
    asked = [turn["content"] for turn in turns if turn["role"] == "user"]
    return "\n".join(asked) or "\n".join(turn["content"] for turn in turns if turn["role"] == "assistant")


def dialogue_text(turns: Turns) -> str:
    """What makes two training examples the same: all turns but the system prompt."""
    return "\n".join(turn["content"] for turn in turns if turn["role"] != "system")


class _Texts:
    """A text an example, read from the memory map as it is asked for."""

    def __init__(self, rows: datasets.Dataset, text_of: Callable[[Turns], str]) -> None:
        self._rows, self._text_of = rows.select_columns(["messages"]), text_of

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> str:
        return self._text_of(self._rows[number]["messages"])

    def __iter__(self) -> Iterator[str]:
        for batch in self._rows.iter(_BATCH_ROWS):
            yield from map(self._text_of, batch["messages"])


@dataclass(frozen=True, slots=True)
class Kept:
    """Numbers of the examples that stay, ascending, and for some of them a provenance entry: what they stand for."""

    numbers: np.ndarray[Any, np.dtype[np.int64]]
    repeats: Mapping[int, Mapping[str, Any]]


def drop_duplicates(
    rows: datasets.Dataset, evaluation: Mapping[str, Corpus], mode: Mode, threshold: float, folder: Path
) -> Kept:
    """Leave out what overlaps an evaluation set in its prompt, then what repeats an earlier example.

    Writes `duplicates.jsonl` (row, of, where, similarity: one line an example left out) and `duplicates.json` (counts)
    into `folder`, and logs the counts.
    """
    import numpy as np

    alive = np.ones(len(rows), dtype=bool)
    counts: dict[str, int] = {}
    repeats: dict[int, dict[str, Any]] = {}
    with (folder / PAIRS_FILE).open("w", encoding="utf-8") as ledger:

        def write(row: int, of: str, where: str, similarity: float) -> None:
            entry = {"row": rows[row]["id"], "of": of, "where": where, "similarity": round(similarity, 4)}
            ledger.write(json.dumps(entry, ensure_ascii=False) + "\n")

        for name, corpus in evaluation.items():
            numbers = np.flatnonzero(alive)
            texts = _Texts(rows.select(numbers), prompt_text)
            counts[name] = 0
            for pair in find_overlap(texts, _Texts(corpus.rows, prompt_text), mode, threshold):
                row = int(numbers[pair.row])
                alive[row], counts[name] = False, counts[name] + 1
                write(row, corpus.rows[pair.of]["id"], name, pair.similarity)
        numbers = np.flatnonzero(alive)
        num_repeats = 0
        for pair in find_repeats(_Texts(rows.select(numbers), dialogue_text), mode, threshold):
            row, of = int(numbers[pair.row]), int(numbers[pair.of])
            alive[row], num_repeats = False, num_repeats + 1
            entry = repeats.setdefault(of, {"stage": "deduplicate", "num_repeats": 0, "stands_for": []})
            entry["num_repeats"] += 1
            if entry["num_repeats"] <= _MAX_NAMED:
                entry["stands_for"].append(rows[row]["id"])
            write(row, rows[of]["id"], "train", pair.similarity)
    report = {
        "mode": mode,
        "threshold": threshold if mode == "near" else None,
        "num_examples": len(rows),
        "num_contaminated": counts,
        "num_repeats": num_repeats,
        "num_kept": int(alive.sum()),
    }
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=1), encoding="utf-8")
    found = ", ".join(f"{count} also in {name}" for name, count in counts.items()) or "no evaluation set compared"
    log.log(
        logging.WARNING if any(counts.values()) else logging.INFO,
        f"deduplicate={mode}: {report['num_kept']} of {len(rows)} training examples kept; "
        f"{num_repeats} repeats; {found}",
    )
    if not alive.any():
        raise DataError(
            "dataset.deduplicate",
            "must leave at least one training example",
            received=found,
            remedy="train on other data, or set dataset.deduplicate=none",
        )
    return Kept(np.flatnonzero(alive), repeats)


def shuffle_rows(
    rows: datasets.Dataset, numbers: np.ndarray[Any, np.dtype[np.int64]], seed: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The numbers in an order drawn by a hash of the seed and each example's id: 8 bytes an example in memory.

    A shorter set drawn with the same seed is the beginning of a longer one.
    """
    import numpy as np

    keys = np.empty(len(rows), dtype=np.uint64)
    start = 0
    for batch in rows.select_columns(["id"]).iter(_BATCH_ROWS):
        for place, name in enumerate(batch["id"], start=start):
            # Noise takes the first rows by a hash of seed and id alone: of equal hashes all noise would stand in front.
            keys[place] = int.from_bytes(hashlib.blake2b(f"shuffle/{seed}/{name}".encode(), digest_size=8).digest())
        start += len(batch["id"])
    return numbers[np.argsort(keys[numbers], kind="stable")]


def iterate_rows(
    rows: datasets.Dataset, numbers: np.ndarray[Any, np.dtype[np.int64]], repeats: Mapping[int, Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The examples in the order of `numbers`; provenance names the repeats that an example stands for."""
    for start in range(0, len(numbers), _BATCH_ROWS):
        chosen = numbers[start : start + _BATCH_ROWS]
        batch = rows.select(chosen)[:]
        for place, number in enumerate(chosen.tolist()):
            example = {name: batch[name][place] for name in batch}
            if number in repeats:
                example["provenance"] = [*example["provenance"], json.dumps(repeats[number])]
            yield example
