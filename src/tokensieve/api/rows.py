"""The data of a call: rows in hand, a file, an option of conf/dataset, or a dataset's config."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokensieve.config import DatasetConfig
from tokensieve.errors import ConfigError, DataError
from tokensieve.records import digest
from tokensieve.sources import Row, Source
from tokensieve.sources.readers import OnBad

Turn = Mapping[str, str]
Data = str | Path | DatasetConfig | Iterable[str | Sequence[Turn] | Row]


@dataclass(frozen=True, slots=True)
class RowsInHand:
    """Rows of the caller, in every split. Named `data:1` and so on in messages, as the lines of a file are."""

    content: tuple[Row, ...]
    content_digest: str

    def identity(self, split: str) -> dict[str, Any]:
        return {"rows": self.content_digest}

    def has_split(self, split: str) -> bool:
        return True

    def rows(self, split: str, on_bad: OnBad | None = None) -> Iterator[tuple[str, Row]]:
        for number, row in enumerate(self.content, start=1):
            yield f"data:{number}", row


def open_data(data: Data) -> tuple[DatasetConfig, Source]:
    """How the rows of `data` are read, and where they come from.

    A text names a file that exists, else an option of conf/dataset. A row is a mapping in any layout that a file may
    have (messages, prompt and completion, ...), a list of chat turns, or a text, which is one response without a
    prompt.

    Raises:
        ConfigError: no such file or option, or rows that are tokens. DataError: no row, or one that is none of these.
    """
    from tokensieve.corpora import open_source

    if isinstance(data, (str, Path)):
        data = _named(data)
    if isinstance(data, DatasetConfig):
        if data.tokens_field is not None:
            raise ConfigError(
                "dataset.tokens_field",
                "gives tokens without texts, which no model here can score",
                received=data.tokens_field,
                remedy="use the command `tokensieve mask`, with stm=imported",
            )
        return data, open_source(data)
    source = _take(data)
    # The path is never opened: the rows are here.
    return DatasetConfig(name="data", task=None, path="data"), source


def _named(data: str | Path) -> DatasetConfig:
    path = Path(data).expanduser()
    if path.exists():
        # Nobody asked for a hold-out: a file is read whole, and a folder's splits are those that it has.
        name = path.stem or "data"
        return DatasetConfig(name=name, task=None, path=str(path), val_fraction=0.0, test_fraction=0.0)
    if isinstance(data, Path) or len(path.parts) > 1 or path.suffix:
        raise DataError(str(data), "must be an existing file or folder", remedy="check the path")
    if len(data.split()) > 1:
        raise DataError(
            "data", "must be a file, a dataset option or rows", received=data[:60], remedy="put a text into a list"
        )
    from tokensieve.cli.overrides import compose

    return compose([f"dataset={data}", "eval=target"]).dataset


def _take(data: Iterable[Any]) -> RowsInHand:
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        raise DataError(
            "data",
            "must be a list of rows",
            received=type(data).__name__,
            remedy="put a row into a list; a table into frame.to_dict('records')",
        )
    rows = tuple(_as_row(row, number) for number, row in enumerate(data, start=1))
    if not rows:
        raise DataError("data", "must hold at least one row", received="none", remedy="give texts, chats or mappings")
    return RowsInHand(rows, digest([_digest(row, number) for number, row in enumerate(rows, start=1)]))


def _digest(row: Row, number: int) -> str:
    try:
        return digest(dict(row))
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise DataError(
            f"data:{number}", "must be valid Unicode", received=str(error), remedy="correct or remove the row"
        ) from None
    except (TypeError, ValueError) as error:
        raise DataError(
            f"data:{number}",
            "must hold plain values (texts, numbers, lists, mappings)",
            received=str(error),
            remedy="convert what is none, such as arrays and dates",
        ) from error


def _as_row(row: Any, number: int) -> Row:
    if isinstance(row, str):
        return {"messages": [{"role": "assistant", "content": row}]}
    if isinstance(row, Mapping):
        return dict(row)
    if isinstance(row, Sequence) and all(isinstance(turn, Mapping) for turn in row):
        return {"messages": [dict(turn) for turn in row]}
    raise DataError(
        f"data:{number}",
        "must be a text, a list of chat turns or a mapping",
        received=type(row).__name__,
        remedy='write a turn as {"role": "user", "content": "..."}; a table as frame.to_dict(\'records\')',
    )
