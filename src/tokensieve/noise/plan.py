"""Which rows change and how, and the one pass that writes them. Rows stream; one costs 10 bytes here."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokensieve.errors import DataError
from tokensieve.noise.ledger import LedgerEntry
from tokensieve.noise.rows import Example, last_contents, located, read_tables, replace_contents, stream_examples

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True, slots=True)
class Plan:
    """`changed` bool [N] tells the rows; `rewrite` gives a new response for each of some changed examples.

    `rewrite` depends on nothing but its argument, so the order and the size of the batches do not matter.
    """

    changed: NDArray[np.bool_]
    rewrite: Callable[[Sequence[Example]], list[str]]
    num_skipped: int = 0


class RowNoise(Protocol):
    """An error that needs no other row and no sandbox."""

    @property
    def kind(self) -> str: ...

    def applies(self, example: Example) -> bool:
        """Whether `corrupt` can change this row.

        Raises:
            DataError: the row has not the layout that this kind reads.
        """
        ...

    def corrupt(self, example: Example, rng: random.Random) -> str:
        """Another response than the example's, never blank; called only where it applies."""
        ...


def plan_row_by_row(rows: datasets.Dataset, noise: RowNoise, ratio: float, seed: int) -> Plan:
    """The first `round(ratio * N)` rows in the order of the seed to which `noise` applies."""
    keys, applies = np.empty(len(rows), np.uint64), np.empty(len(rows), np.bool_)
    for example in stream_examples(rows):
        keys[example.position] = order_key(seed, example.id)
        try:
            applies[example.position] = noise.applies(example)
        except DataError as error:
            raise located(rows, example.position, error) from None
    order = np.argsort(keys, kind="stable")
    changed = take_first(order, applies, ratio, noise.kind)

    def rewrite(examples: Sequence[Example]) -> list[str]:
        return [noise.corrupt(example, row_rng(seed, example.id, noise.kind)) for example in examples]

    last = int(np.flatnonzero(changed[order]).max(initial=-1))
    return Plan(changed, rewrite, num_skipped=int((~applies[order[: last + 1]]).sum()))


def order_key(seed: int, row_id: str) -> int:
    """64 bits that give a row its place in the order in which rows are drawn."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{row_id}".encode(), digest_size=8).digest())


def row_rng(seed: int, row_id: str, kind: str) -> random.Random:
    """The random numbers of one row's error: the same at every ratio and in every order."""
    return random.Random(hashlib.blake2b(f"{seed}/{kind}/{row_id}".encode(), digest_size=16).digest())


def num_wanted(num_rows: int, ratio: float) -> int:
    """How many of `num_rows` rows change.

    >>> num_wanted(10, 0.3), num_wanted(0, 1.0)
    (3, 0)
    """
    return round(ratio * num_rows)


def take_first(order: NDArray[np.int64], applies: NDArray[np.bool_], ratio: float, kind: str) -> NDArray[np.bool_]:
    """bool [N], true for the first `num_wanted` rows of `order` that `applies` holds for.

    Raises:
        DataError: there are fewer.
    """
    wanted = num_wanted(len(order), ratio)
    chosen = order[applies[order]][:wanted]
    if len(chosen) < wanted:
        raise too_few(kind, wanted, len(chosen), len(order))
    changed = np.zeros(len(order), np.bool_)
    changed[chosen] = True
    return changed


def too_few(kind: str, wanted: int, found: int, num_rows: int) -> DataError:
    """The error of a corpus in which not enough rows can take a kind of noise."""
    most = int(found / num_rows * 1000) / 1000
    return DataError(
        "noise.ratio",
        f"{kind} must find {wanted} rows that it can change",
        received=f"{found} such rows of {num_rows}",
        remedy=f"lower noise.ratio to {most:g}, or choose another kind of noise",
    )


def write_noisy(path: Path, rows: datasets.Dataset, plan: Plan, kind: str) -> None:
    """Write all rows, in order and in the same schema, the changed ones with their new response and ledger entry."""
    from datasets.arrow_writer import ArrowWriter

    start = 0
    with ArrowWriter(features=rows.features, path=str(path)) as writer:
        for table in read_tables(rows, "noise: write"):
            places = np.flatnonzero(plan.changed[start : start + len(table)])
            writer.write_table(_rewrite(table, places, start, plan, kind) if len(places) else table)
            start += len(table)
        writer.finalize()


def _rewrite(table: pa.Table, places: NDArray[np.int64], start: int, plan: Plan, kind: str) -> pa.Table:
    found = table.take(pa.array(places))
    columns = (found.column("id"), last_contents(found), found.column("reference"))
    values = zip(*(column.to_pylist() for column in columns), strict=True)
    examples = [Example(start + int(place), *value) for place, value in zip(places, values, strict=True)]
    texts = plan.rewrite(examples)
    provenance = table.column("provenance").to_pylist()
    for place, example, text in zip(places, examples, texts, strict=True):
        if text == example.response:  # every kind promises another text; a ledger must not list a row in vain
            raise AssertionError(f"{kind} left {example.id} as it was")
        provenance[place].append(LedgerEntry(example.id, kind, example.response, text).to_json())
    messages = replace_contents(table.column("messages").combine_chunks(), places, texts)
    for name, column in (("messages", messages), ("provenance", provenance)):
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(column, field.type))
    return table
