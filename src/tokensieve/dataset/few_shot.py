"""Solved examples before a question: the same for every model, drawn anew for every item."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.dataset import DATA_FILE, open_corpus, write_examples
from tokensieve.dataset.selection import prompt_text
from tokensieve.errors import DataError
from tokensieve.records import Corpus, Stamp
from tokensieve.store import Artefact, Store

if TYPE_CHECKING:
    import datasets

VERSION = 1


def define_few_shot(
    store: Store, items: Artefact[Corpus], pool: Artefact[Corpus], *, num: int, seed: int, group: str | None
) -> Artefact[Corpus]:
    """The items, each with `num` examples of `pool` as turns before its question; ids and references stay.

    An item's examples are decided by the seed and its id. One that asks the item's own question is never taken, nor
    is an example's system turn; the ledger has their ids and numbers of turns. With `group`, a key of the references,
    they agree with the item in its value.

    Raises (when the artefact is built):
        DataError: fewer than `num` examples for an item, or a reference without the group's key.
    """
    stamp = Stamp(
        "few_shot",
        {
            "version": VERSION, "items": items.digest, "pool": pool.digest, "num": num, "seed": seed, "group": group
        },
    )  # fmt: skip

    def build(folder: Path) -> None:
        examples = _Pool(pool.get().rows, group)
        write_examples(folder / DATA_FILE, (_prefix(item, examples, num, seed) for item in items.get().rows))

    return Artefact(stamp, store, build, partial(open_corpus, stamp=stamp))


class _Pool:
    """The examples by the value of their group; memory holds their numbers, and the last of them that were read."""

    def __init__(self, rows: datasets.Dataset, group: str | None) -> None:
        self.rows, self.group = rows, group
        self.numbers: dict[str | None, Sequence[int]] = {None: range(len(rows))}
        if group is not None:
            found: dict[str | None, list[int]] = {}
            for number, example in enumerate(rows.select_columns(["id", "reference"])):
                found.setdefault(self.value_of(example), []).append(number)
            self.numbers = dict(found)

    def value_of(self, example: Mapping[str, Any]) -> str | None:
        if self.group is None:
            return None
        values = json.loads(example["reference"])
        if self.group not in values:
            raise DataError(
                example["id"],
                f"its reference must hold {self.group!r}, in which examples agree with the question",
                received=sorted(values),
                remedy=f"set dataset.reference.{self.group} to a column, or dataset.fewshot_group=null",
            )
        return json.dumps(values[self.group], sort_keys=True)


def _prefix(item: dict[str, Any], pool: _Pool, num: int, seed: int) -> dict[str, Any]:
    value = pool.value_of(item)
    question = prompt_text(item["messages"])
    chosen: list[dict[str, Any]] = []
    for number in _shuffle(pool.numbers.get(value, ()), random.Random(f"{seed}/{item['id']}")):
        example = pool.rows[number]
        if prompt_text(example["messages"]) != question:
            chosen.append(example)
        if len(chosen) == num:
            break
    if len(chosen) < num:
        raise DataError(
            item["id"],
            f"needs {num} examples that ask something else" + (f", with {pool.group} {value}" if value else ""),
            received=len(chosen),
            remedy="lower dataset.num_fewshot, or draw from another split (dataset.fewshot_split)",
        )
    own = item["messages"]
    num_system = 1 if own[0]["role"] == "system" else 0
    shown = [[turn for turn in example["messages"] if turn["role"] != "system"] for example in chosen]
    entry = {"stage": "few_shot", "examples": [example["id"] for example in chosen], "num_turns": [*map(len, shown)]}
    return {
        **item,
        "messages": [*own[:num_system], *chain.from_iterable(shown), *own[num_system:]],
        "provenance": [*item["provenance"], json.dumps(entry)],
    }


def _shuffle(numbers: Sequence[int], rng: random.Random) -> Iterator[int]:
    """The numbers in random order, made as they are asked for: a few of many cost a few draws."""
    moved: dict[int, int] = {}  # a Fisher-Yates shuffle that stores only the places it has touched
    for place in range(len(numbers)):
        other = rng.randrange(place, len(numbers))
        moved[place], moved[other] = moved.get(other, other), moved.get(place, place)
        yield numbers[moved.pop(place)]
