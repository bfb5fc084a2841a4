"""A row of a source becomes an example: chat turns, the grader's reference, where it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokensieve.dataset.databases import DatabaseFiles
from tokensieve.dataset.layouts import OPTIONAL_COLUMNS, Turns, detect_layout, read_column, read_turns
from tokensieve.dataset.templates import RowExpression, RowTemplate
from tokensieve.errors import ConfigError, DataError
from tokensieve.sources.readers import Row


@dataclass(slots=True)
class ExampleMaker:
    """How the rows of one split become examples.

    `prompt` and `response`, Jinja templates, beat `layout`; `layout` beats detection, which reads the columns of the
    first row and then holds for all. `columns` gives columns other names first (layout's name -> the row's column).
    A value of `reference` is a column, a dotted path, or a Jinja expression in double braces. `databases` adds its
    columns to each row first.

    Raises:
        ConfigError: a template that does not compile; one of the two templates without the other.
    """

    split: str
    task: str | None
    prompt: str | None
    response: str | None
    system_prompt: str | None
    layout: str
    columns: Mapping[str, str]
    reference: Mapping[str, str]
    id_field: str | None
    databases: DatabaseFiles | None = None
    _templates: tuple[RowTemplate, RowTemplate] | None = field(init=False, default=None)
    _reference: dict[str, RowExpression | str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if (self.prompt is None) != (self.response is None):
            raise ConfigError(
                "dataset.prompt", "goes together with dataset.response", remedy="set both, or neither to use a layout"
            )
        if self.prompt is not None and self.response is not None:
            self._templates = (
                RowTemplate("dataset.prompt", self.prompt),
                RowTemplate("dataset.response", self.response),
            )
        self._reference = {
            key: RowExpression(f"dataset.reference.{key}", value) if value.strip().startswith("{{") else value
            for key, value in self.reference.items()
        }

    def make(self, row: Row, where: str, position: int) -> dict[str, Any]:
        """The example of a row, in the columns of a corpus.

        Raises:
            DataError: the row does not fit.
            ConfigError: the layout cannot be told from the first row.
        """
        if self.databases is not None:
            row = self.databases.attach(row, where)
        row = {**row, **{name: self._read_mapped(row, name, column, where) for name, column in self.columns.items()}}
        turns = self._turns(row, where)
        entry: dict[str, Any] = {"stage": "dataset", "source": where}
        num_trailing = _count_trailing(turns)
        if num_trailing:
            turns, entry["dropped_last_turns"] = turns[:-num_trailing], num_trailing
        _check_turns(turns, where)
        if self.system_prompt is not None and turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": self.system_prompt})
        name = read_column(row, self.id_field, where) if self.id_field else position
        example = {
            "id": f"{self.split}/{name}",
            "task": self.task or "",
            "messages": turns,
            "reference": json.dumps(self._read_reference(row, where), default=str),
            "provenance": [json.dumps(entry)],
        }
        _check_unicode(example, where)
        return example

    @staticmethod
    def _read_mapped(row: Row, name: str, column: str, where: str) -> Any:
        """A column that `dataset.columns` names; null is a value where no layout needs one."""
        if name in OPTIONAL_COLUMNS and column in row and row[column] is None:
            return None
        return read_column(row, column, where)

    def _turns(self, row: Row, where: str) -> Turns:
        if self._templates is not None:
            prompt, response = (template.render(row, where) for template in self._templates)
            return [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        if self.layout == "auto":
            self.layout = detect_layout(row, self.columns, where)
        return read_turns(row, self.layout, where)

    def _read_reference(self, row: Row, where: str) -> dict[str, Any]:
        """The named values, or the row's own `reference` object when none are named."""
        if not self._reference and isinstance(row.get("reference"), Mapping):
            return dict(row["reference"])
        return {
            key: value.evaluate(row, where) if isinstance(value, RowExpression) else read_column(row, value, where)
            for key, value in self._reference.items()
        }


def _count_trailing(turns: Turns) -> int:
    """How many turns follow the last assistant turn: there is nothing to learn from them. 0 without any such turn."""
    answers = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
    return len(turns) - 1 - answers[-1] if answers else 0


def _check_turns(turns: Turns, where: str) -> None:
    if not turns or turns[-1]["role"] != "assistant" or not turns[-1]["content"].strip():
        raise DataError(
            where,
            "the last turn must be a non-empty assistant turn: it is what is trained",
            received=f"a last turn of {turns[-1]['role']}" if turns else "a last turn of nobody",
            remedy="correct or remove the row",
        )
    blank = next((turn["role"] for turn in turns if not turn["content"].strip()), None)
    if blank is not None:
        remedy = "correct or remove the row, or the template of dataset.prompt"
        raise DataError(where, "no turn may be blank", received=f"a blank turn of {blank}", remedy=remedy)


def _check_unicode(example: Mapping[str, Any], where: str) -> None:
    try:
        for text in (example["id"], *(turn["content"] for turn in example["messages"])):
            text.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON's escapes allow
        raise DataError(
            where, "must be valid Unicode", received=str(error), remedy="correct or remove the row"
        ) from None
