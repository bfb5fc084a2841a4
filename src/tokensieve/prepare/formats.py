"""How examples are laid out for other trainers, a table of rows at a time, without leaving Arrow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

IGNORED_LABEL: Final = -100  # what PyTorch's cross entropy ignores
_SHARED: Final = ("id", "provenance")
_SPEAKERS: Final[Mapping[str, str]] = {"system": "system", "user": "human", "assistant": "gpt"}
_TURNS_SHOWN: Final = 6


@dataclass(frozen=True, slots=True)
class Format:
    """`fields` makes a format's columns from a table of examples that train; `id` and `provenance` go around them.

    `is_pair`: it holds one user turn and its response, nothing else. `reads` are the columns that `fields` needs:
    `messages`, or `input_ids`, `is_response` and `keep`.
    """

    reads: tuple[str, ...]
    fields: Callable[[pa.Table], dict[str, Any]]
    is_pair: bool = False

    @property
    def is_text(self) -> bool:
        return "messages" in self.reads

    def lay_out(self, table: pa.Table) -> pa.Table:
        """The rows as they are written."""
        import pyarrow as pa

        first, last = _SHARED
        return pa.table({first: table.column(first), **self.fields(table), last: table.column(last)})

    def find_misfit(self, table: pa.Table) -> tuple[int, str] | None:
        """Position of the first row that the format cannot hold, and its turns; None when all fit."""
        if not self.is_pair or not len(table):
            return None
        import pyarrow.compute as pc

        messages = _whole(table, "messages")
        lengths = _lengths(messages)
        roles = _member(messages.flatten(), "role")
        starts = np.cumsum(lengths) - lengths
        is_user = np.append(pc.equal(roles, "user").to_numpy(zero_copy_only=False), False)
        # Every conversation ends with an assistant turn, so that two turns are a pair once the first is the user's.
        wrong = np.flatnonzero((lengths != 2) | ~is_user[starts])
        if not len(wrong):
            return None
        row = int(wrong[0])
        names = [turn["role"] for turn in messages[row].as_py()]
        more = f" and {len(names) - _TURNS_SHOWN} more" if len(names) > _TURNS_SHOWN else ""
        return row, ", ".join(names[:_TURNS_SHOWN]) + more


def count_answers(table: pa.Table) -> NDArray[np.int64]:
    """Assistant turns of each row of a table with a column `messages`."""
    import pyarrow.compute as pc

    messages = _whole(table, "messages")
    answers = pc.equal(_member(messages.flatten(), "role"), "assistant").to_numpy(zero_copy_only=False)
    return sum_rows(answers, _lengths(messages))


def count_true(table: pa.Table, column: str) -> NDArray[np.int64]:
    """How many entries of each row's list of bool are true."""
    lists = _whole(table, column)
    return sum_rows(lists.flatten().to_numpy(zero_copy_only=False), _lengths(lists))


def sum_rows(values: NDArray[Any], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums of consecutive runs of `values`, `lengths[i]` long each; 0 for an empty one.

    >>> sum_rows(np.array([1, 1, 0, 1]), np.array([2, 0, 2])).tolist()
    [2, 0, 1]
    """
    sums = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    ends = np.cumsum(lengths)
    found: NDArray[np.int64] = sums[ends] - sums[ends - lengths]
    return found


def _messages(table: pa.Table) -> dict[str, Any]:
    return {"messages": table.column("messages")}


def _sharegpt(table: pa.Table) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    messages = _whole(table, "messages")
    turns = messages.flatten()
    places = pc.index_in(_member(turns, "role"), value_set=pa.array(_SPEAKERS))
    speakers = pa.array(_SPEAKERS.values()).take(places)
    said = pa.StructArray.from_arrays([speakers, _member(turns, "content")], names=["from", "value"])
    return {"conversations": _relist(messages, said)}


def _alpaca(table: pa.Table) -> dict[str, Any]:
    import pyarrow as pa

    prompts, responses = _pairs(table)
    return {"instruction": prompts, "input": pa.array([""] * len(table)), "output": responses}


def _prompt_completion(table: pa.Table) -> dict[str, Any]:
    prompts, responses = _pairs(table)
    return {"prompt": prompts, "completion": responses}


def _pairs(table: pa.Table) -> tuple[Any, Any]:
    """The contents of first and second turns, of rows that have two."""
    contents = _member(_whole(table, "messages").flatten(), "content")
    return contents.take(np.arange(0, len(contents), 2)), contents.take(np.arange(1, len(contents), 2))


def _tokens(table: pa.Table) -> dict[str, Any]:
    import pyarrow as pa

    ids = _whole(table, "input_ids")
    keep = _whole(table, "keep").flatten().to_numpy(zero_copy_only=False)
    labels = np.where(keep, ids.flatten().to_numpy(), IGNORED_LABEL).astype(np.int32)
    return {
        "input_ids": ids,
        "labels": _relist(ids, pa.array(labels)),
        "num_prompt_tokens": pa.array(_prompt_lengths(table), pa.int64()),
    }


def _prompt_lengths(table: pa.Table) -> list[int | None]:
    """How many tokens stand before the response where it is one run to the end, else None."""
    responses = _whole(table, "is_response")
    lengths, counts = _lengths(responses), count_true(table, "is_response")
    ends = np.cumsum(lengths)
    before = np.concatenate([[0], np.cumsum(responses.flatten().to_numpy(zero_copy_only=False))])
    is_run = before[ends] - before[ends - counts] == counts
    prompts = (lengths - counts).tolist()
    return [length if run else None for length, run in zip(prompts, is_run.tolist(), strict=True)]


def _whole(table: pa.Table, column: str) -> Any:
    """A column as one array."""
    return table.column(column).combine_chunks()


def _lengths(lists: Any) -> NDArray[np.int64]:
    lengths: NDArray[np.int64] = np.diff(lists.offsets.to_numpy()).astype(np.int64)
    return lengths


def _member(turns: Any, name: str) -> Any:
    # `flatten`, unlike `field`, heeds where a slice of the array starts.
    return turns.flatten()[turns.type.get_field_index(name)]


def _relist(lists: Any, values: Any) -> Any:
    """Other values in the same lists."""
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum(_lengths(lists))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


FORMATS: Final[Mapping[str, Format]] = {
    "messages": Format(("messages",), _messages),
    "sharegpt": Format(("messages",), _sharegpt),
    "alpaca": Format(("messages",), _alpaca, is_pair=True),
    "prompt_completion": Format(("messages",), _prompt_completion, is_pair=True),
    "tokens": Format(("input_ids", "is_response", "keep"), _tokens),
}
