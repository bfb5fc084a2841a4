"""The examples of one split with their tokens and masks side by side, streamed from Arrow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tokensieve.corpora import define_split, open_source
from tokensieve.errors import AlignmentError, DataError
from tokensieve.prepare.formats import Format, count_true
from tokensieve.records import Corpus, TokenisedCorpus, TokenMask
from tokensieve.stages import Stages
from tokensieve.store import Artefact

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

_BATCH_ROWS: Final = 256


@dataclass(frozen=True, slots=True)
class Split:
    """The artefacts of a split. Without a corpus the rows came as tokens, in the order of `source`."""

    name: str
    corpus: Artefact[Corpus] | None
    tokens: Artefact[TokenisedCorpus]
    mask: Artefact[TokenMask]
    source: str

    def check_fit(self, wanted: Format, name: str) -> None:
        """Raise when format `name` cannot hold an example. Builds the examples, neither tokens nor mask.

        Raises:
            DataError: the first such row, named as in its source.
        """
        if self.corpus is None or not wanted.is_pair:
            return
        rows, start = self.corpus.get().rows, 0
        for table in _iterate(rows, ("messages",)):
            found = wanted.find_misfit(table)
            if found is not None:
                place, roles = found
                raise DataError(
                    _where(rows[start + place]),
                    f"format {name} holds one user turn and its response, without a system turn",
                    received=f"the turns {roles}",
                    remedy="use --format messages or sharegpt, or correct the row",
                )
            start += len(table)

    def trained(self, wanted: Format) -> Iterator[pa.Table]:
        """The examples with a kept token: `id`, `provenance` and the columns that the format reads.

        Raises:
            AlignmentError: the stages' rows do not belong together.
        """
        parts = [_iterate(self.mask.get().rows, ("id", "keep"))]
        if not wanted.is_text:
            parts.append(_iterate(self.tokens.get().rows, ("id", "input_ids", "is_response")))
        if self.corpus is not None:
            texts = ("messages",) if wanted.is_text else ()
            parts.append(_iterate(self.corpus.get().rows, ("id", "provenance", *texts)))
        start = 0
        for tables in zip(*parts, strict=True):
            joined = _join(tables, f"{self.name} split")
            if self.corpus is None:
                joined = joined.append_column("provenance", [self._positions(start, len(joined))])
            start += len(joined)
            yield joined.filter(count_true(joined, "keep") > 0)

    def _positions(self, start: int, number: int) -> Any:
        """Provenance of rows that came as tokens: the row of the split, counted from 1."""
        import pyarrow as pa

        entries = (
            {"stage": "dataset", "source": self.source, "split": self.name, "row": row}
            for row in range(start + 1, start + number + 1)
        )
        return pa.array([[json.dumps(entry)] for entry in entries], pa.list_(pa.string()))


def find_splits(stages: Stages) -> list[Split]:
    """The training split, and the validation split where there is one."""
    dataset = stages.config.dataset
    source = dataset.path or dataset.hub_id or f"lab:{dataset.lab_family}"
    found = [Split("train", stages.train, stages.tokens, stages.mask, source)]
    if stages.validation_tokens is not None and stages.validation_mask is not None:
        held_out = None
        if stages.train is not None:
            held_out = define_split(dataset, stages.store, open_source(dataset), "validation")
        found.append(Split("validation", held_out, stages.validation_tokens, stages.validation_mask, source))
    return found


def _iterate(rows: datasets.Dataset, columns: tuple[str, ...]) -> Iterator[pa.Table]:
    yield from rows.select_columns(list(columns)).with_format("arrow").iter(batch_size=_BATCH_ROWS)


def _join(tables: tuple[pa.Table, ...], what: str) -> pa.Table:
    first = tables[0]
    for other in tables[1:]:
        if not other.column("id").equals(first.column("id")):
            raise AlignmentError(
                what, "examples, tokens and mask must be the same rows in the same order", remedy="remove the cache"
            )
        for name in other.column_names:
            if name != "id":
                first = first.append_column(name, other.column(name))
    return first


def _where(row: dict[str, Any]) -> str:
    """The file and row that an example came from, and its id."""
    sources = [json.loads(entry).get("source") for entry in row["provenance"]]
    place = next((str(source) for source in sources if source), "")
    return f"{place} (example {row['id']})" if place else f"example {row['id']}"
