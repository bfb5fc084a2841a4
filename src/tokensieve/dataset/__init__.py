"""Stage 1: rows of a source become examples with a prompt, a response and a reference."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokensieve.dataset.bad_rows import LEDGER_FILE, BadRows
from tokensieve.dataset.databases import DatabaseFiles
from tokensieve.dataset.examples import ExampleMaker
from tokensieve.dataset.selection import drop_duplicates, iterate_rows, shuffle_rows
from tokensieve.dataset.splits import held_out_fractions, select_split
from tokensieve.errors import DataError
from tokensieve.records import Corpus, Stamp
from tokensieve.sources import LabSource, Source
from tokensieve.store import Artefact, Store

if TYPE_CHECKING:
    import datasets

log = logging.getLogger(__name__)
VERSION = 2
DATA_FILE = "data.arrow"
_UNSELECTED_FILE = "unselected.arrow"
_FLUSH_CHARACTERS = 1 << 25


def define_corpus(
    store: Store,
    source: Source,
    split: str,
    *,
    task: str | None,
    prompt: str | None,
    response: str | None,
    system_prompt: str | None,
    reference: Mapping[str, str],
    id_field: str | None,
    limit: int | None,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    layout: str = "auto",
    columns: Mapping[str, str] | None = None,
    shuffle_seed: int | None = None,
    deduplicate: Literal["none", "exact", "near"] = "none",
    near_threshold: float = 0.8,
    evaluation: Mapping[str, Artefact[Corpus]] | None = None,
    on_bad_row: Literal["error", "skip"] = "error",
    databases: DatabaseFiles | None = None,
) -> Artefact[Corpus]:
    """The examples of one split of `source`, not yet loaded.

    `ExampleMaker` says how a row becomes an example. A split that the source does not publish is held out of its
    train rows, by a hash of the seed and the row's position: no row is in two splits. Then, in this order: duplicates
    go (train alone, also against the `evaluation` sets, by name), `shuffle_seed` permutes, `limit` cuts. `databases`
    gives the templates what a row's database file holds.

    Raises (when the artefact is built):
        ConfigError: templates that do not compile, a layout that cannot be told.
        DataError: a row that does not fit, with its file and number, or too many of them; a split without any row.
    """
    held_out = held_out_fractions(source, val_fraction, test_fraction)
    published = source.has_split(split)
    form: dict[str, Any] = {
        "task": task, "prompt": prompt, "response": response, "system_prompt": system_prompt, "layout": layout,
        "columns": dict(columns or {}), "reference": dict(reference), "id_field": id_field,
    }  # fmt: skip
    selection = _Selection(deduplicate if split == "train" else "none", near_threshold, shuffle_seed, limit)
    compared = dict(evaluation or {}) if selection.deduplicate != "none" else {}
    inputs = {
        "version": VERSION,
        "source": source.identity(split if published else "train") | _drawn_from(source, split, selection),
        "split": split,
        "held_out": held_out if not published or split == "train" else {},
        "seed": seed,
        "evaluation": {name: artefact.digest for name, artefact in compared.items()},
        "on_bad_row": on_bad_row,
    }
    if databases is not None:
        inputs["databases"] = databases.identity()

    def build(folder: Path) -> None:
        with BadRows(folder, on_bad_row) as bad:
            maker = ExampleMaker(split=split, databases=databases, **form)
            rows = _to_examples(source, split, held_out, seed, maker, bad)
            _write_checked(folder, rows, selection, bad, f"{split} split of the dataset")
        if not selection.is_plain:
            _select(folder, selection, {name: artefact.get() for name, artefact in compared.items()})

    stamp = Stamp("dataset", inputs | form | selection.identity())
    return Artefact(stamp, store, build, partial(open_corpus, stamp=stamp))


@dataclass(frozen=True, slots=True)
class _Selection:
    """What is done with the examples of a split once they are known to be good."""

    deduplicate: Literal["none", "exact", "near"]
    near_threshold: float
    shuffle_seed: int | None
    limit: int | None

    @property
    def is_plain(self) -> bool:
        """Whether the examples stay in the source's order: the limit can then end the reading."""
        return self.deduplicate == "none" and self.shuffle_seed is None

    def identity(self) -> dict[str, Any]:
        return {
            "deduplicate": self.deduplicate,
            "near_threshold": self.near_threshold if self.deduplicate == "near" else None,
            "shuffle_seed": self.shuffle_seed,
            "limit": self.limit,
            **({"shuffle": 2} if self.shuffle_seed is not None else {}),  # the version of its order
        }


def _drawn_from(source: Source, split: str, selection: _Selection) -> dict[str, Any]:
    """How many rows a generated source has: with a limit, a permutation's first rows depend on it."""
    return {"rows": source.counts[split]} if isinstance(source, LabSource) and not selection.is_plain else {}


def open_corpus(folder: Path, *, stamp: Stamp) -> Corpus:
    """The corpus whose examples `write_examples` put into `folder`."""
    from datasets import Dataset

    return Corpus(Dataset.from_file(str(folder / DATA_FILE)), stamp)


def _to_examples(
    source: Source, split: str, held_out: Mapping[str, float], seed: int, maker: ExampleMaker, bad: BadRows
) -> Iterator[dict[str, Any]]:
    """The examples of the split; bad rows go to the ledger, and so do rows whose id is taken."""
    is_new = _unique_names()
    for where, position, row in select_split(source, split, held_out, seed, bad.refuse_unreadable):
        bad.num_read += 1
        if row is None:
            continue
        try:
            example = maker.make(row, where, position)
            if not is_new(example["id"]):
                raise DataError(
                    where,
                    "ids must be unique",
                    received=example["id"],
                    remedy="set dataset.id_field to a unique column, or null",
                )
        except DataError as error:
            bad.refuse_unfit(error)
            continue
        bad.num_fitting += 1
        yield example


def _unique_names() -> Callable[[str], bool]:
    seen: set[bytes] = set()  # 8-byte digests: 1 M ids take about 70 MB

    def is_new(name: str) -> bool:
        key = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()
        count = len(seen)
        seen.add(key)
        return len(seen) > count

    return is_new


def _write_checked(
    folder: Path, rows: Iterator[dict[str, Any]], selection: _Selection, bad: BadRows, what: str
) -> None:
    plain = selection.is_plain
    count = write_examples(
        folder / (DATA_FILE if plain else _UNSELECTED_FILE), islice(rows, selection.limit) if plain else rows
    )
    bad.check_share(what)
    if not count:
        remedy = "check dataset.path, dataset.splits and dataset.split_ranges"
        if bad.num_read:
            remedy = "give more rows, or lower dataset.val_fraction and dataset.test_fraction, which took them"
        raise DataError(what, "must hold at least one row", received=f"none of {bad.num_read} rows read", remedy=remedy)
    if bad.num_bad:
        log.warning("%s: %d bad rows skipped, listed in %s", what, bad.num_bad, LEDGER_FILE)


def _select(folder: Path, selection: _Selection, evaluation: Mapping[str, Corpus]) -> None:
    """Write the examples again in their final choice and order; memory holds their numbers, not the examples."""
    import numpy as np
    from datasets import Dataset

    path = folder / _UNSELECTED_FILE
    rows = Dataset.from_file(str(path))
    numbers = np.arange(len(rows), dtype=np.int64)
    repeats: Mapping[int, Mapping[str, Any]] = {}
    if selection.deduplicate != "none":
        kept = drop_duplicates(rows, evaluation, selection.deduplicate, selection.near_threshold, folder)
        numbers, repeats = kept.numbers, kept.repeats
    if selection.shuffle_seed is not None:
        numbers = shuffle_rows(rows, numbers, selection.shuffle_seed)
    write_examples(folder / DATA_FILE, iterate_rows(rows, numbers[: selection.limit], repeats))
    path.unlink()


def features() -> datasets.Features:
    """Arrow schema of a corpus."""
    from datasets import Features, List, Value

    text = Value("string")
    return Features(
        {
            "id": text,
            "task": text,
            "messages": List({"role": text, "content": text}),
            "reference": text,
            "provenance": List(text),
        }
    )


def write_examples(path: Path, examples: Iterator[dict[str, Any]]) -> int:
    """Stream the examples into an Arrow file; returns how many there were."""
    from datasets.arrow_writer import ArrowWriter
    from tqdm import tqdm

    count = characters = 0
    with ArrowWriter(features=features(), path=str(path)) as writer:
        for example in tqdm(examples, desc="load", unit="ex", disable=None, delay=2):
            writer.write(example)
            count += 1
            characters += sum(len(turn["content"]) for turn in example["messages"]) + len(example["reference"])
            if characters > _FLUSH_CHARACTERS:  # long rows: the writer itself counts rows, not what they hold
                writer.write_examples_on_file()
                characters = 0
        writer.finalize()
    return count
