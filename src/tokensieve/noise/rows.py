"""The examples of a corpus, read and rewritten a batch at a time through Arrow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokensieve.errors import DataError

if TYPE_CHECKING:
    import datasets

_BATCH_ROWS = 256


class Example(NamedTuple):
    """What an error is made from: where the row stands, its id, its response and its reference (JSON)."""

    position: int
    id: str
    response: str
    reference: str


def stream_examples(rows: datasets.Dataset) -> Iterator[Example]:
    """Every row, in order."""
    start = 0
    for table in read_tables(rows.select_columns(["id", "messages", "reference"]), "noise: draw"):
        columns = (table.column("id"), last_contents(table), table.column("reference"))
        for at, values in enumerate(zip(*(column.to_pylist() for column in columns), strict=True)):
            yield Example(start + at, *values)
        start += len(table)


def read_examples(rows: datasets.Dataset, positions: Sequence[int]) -> list[Example]:
    """The rows at `positions`, in that order."""
    table = rows.select_columns(["id", "messages", "reference"]).with_format("arrow")[list(positions)]
    columns = (table.column("id"), last_contents(table), table.column("reference"))
    values = zip(*(column.to_pylist() for column in columns), strict=True)
    return [Example(position, *value) for position, value in zip(positions, values, strict=True)]


def read_responses(rows: datasets.Dataset, positions: Sequence[int]) -> list[str]:
    """The responses of the rows at `positions`, which may repeat."""
    if not len(positions):
        return []
    table = rows.select_columns(["messages"]).with_format("arrow")[list(positions)]
    texts: list[str] = last_contents(table).to_pylist()
    return texts


def last_contents(table: pa.Table) -> Any:
    """String array [rows]: the content of each row's last turn."""
    messages = table.column("messages").combine_chunks()
    return pc.take(_field(messages.flatten(), "content"), _last_turns(messages))


def read_tables(rows: datasets.Dataset, label: str) -> Iterator[pa.Table]:
    """All rows as tables of a few rows each, under a progress bar."""
    from tqdm import tqdm

    with tqdm(total=len(rows), desc=label, unit="ex", disable=None, delay=2) as bar:
        for table in rows.with_format("arrow").iter(batch_size=_BATCH_ROWS):
            yield table
            bar.update(len(table))


def replace_contents(messages: Any, places: NDArray[np.int64], texts: list[str]) -> Any:
    """The list array with other contents in the last turn of the rows at `places`."""
    turns = messages.flatten()
    contents = _field(turns, "content")
    mask = np.zeros(len(turns), np.bool_)
    mask[_last_turns(messages)[places]] = True
    contents = pc.replace_with_mask(contents, pa.array(mask), pa.array(texts, contents.type))
    names = [field.name for field in turns.type]
    columns = [contents if name == "content" else _field(turns, name) for name in names]
    offsets = messages.offsets.to_numpy() - messages.offsets[0].as_py()
    structs = pa.StructArray.from_arrays(columns, fields=list(turns.type))
    return type(messages).from_arrays(pa.array(offsets, messages.offsets.type), structs, type=messages.type)


def _field(turns: Any, name: str) -> Any:
    # `flatten`, unlike `field`, heeds where a slice of the array starts.
    return turns.flatten()[turns.type.get_field_index(name)]


def _last_turns(messages: Any) -> NDArray[np.int64]:
    """Where each row's last turn stands among the flattened turns; every row has one."""
    ends: NDArray[np.int64] = messages.offsets.to_numpy().astype(np.int64) - messages.offsets[0].as_py()
    return ends[1:] - 1


def located(rows: datasets.Dataset, position: int, error: DataError) -> DataError:
    """The same error, about the file and row from which row `position` came."""
    row = rows[position]
    sources = [json.loads(entry).get("source") for entry in row["provenance"]]
    place = next((source for source in sources if source), row["id"])
    return DataError(str(place), error.rule, received=error.received, remedy=error.remedy)
