"""The published layouts of fine-tuning rows, how they are recognised, and how each becomes chat turns."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tokensieve.errors import ConfigError, DataError
from tokensieve.sources.readers import Row

Turns = list[dict[str, str]]
ROLES: Final = ("system", "user", "assistant")
SYSTEM_COLUMN: Final = "system"
OPTIONAL_COLUMNS: Final = frozenset({SYSTEM_COLUMN, "input"})  # read where they are there, by no layout required
_SPEAKERS: Final[Mapping[str, str]] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
}
_MARK: Final = re.compile(r"^###[ \t]*(Human|Assistant|System):[ \t]?", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns a row of the layout must have, and its turns; `detected` is false where only its name selects it."""

    required: tuple[str, ...]
    read: Callable[[Row], Turns]
    detected: bool = True


def _pair(prompt: str, response: str) -> Callable[[Row], Turns]:
    return lambda row: [_turn("user", row[prompt]), _turn("assistant", row[response])]


def _turn(role: str, text: object) -> dict[str, str]:
    if not isinstance(text, str):
        raise ValueError(f"a {role} turn that is {type(text).__name__}, not text")
    return {"role": role, "content": text}


def _read_messages(row: Row) -> Turns:
    turns = _mappings(row["messages"], "messages")
    for turn in turns:
        if turn.get("role") not in ROLES:
            raise ValueError(f"the role {turn.get('role')!r}; known: {', '.join(ROLES)}")
    return [_turn(turn["role"], _join_parts(turn.get("content"))) for turn in turns]


def _join_parts(content: object) -> object:
    """The text of a content that comes as a list of {type: text, text: ...}, as chat APIs write it."""
    if isinstance(content, list) and all(
        isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    ):
        return "".join(part["text"] for part in content)
    return content


def _read_sharegpt(row: Row) -> Turns:
    turns = _mappings(row["conversations"], "conversations")
    for turn in turns:
        if str(turn.get("from")).lower() not in _SPEAKERS:
            raise ValueError(f"the speaker {turn.get('from')!r}; known: {', '.join(_SPEAKERS)}")
    return [_turn(_SPEAKERS[str(turn["from"]).lower()], turn.get("value")) for turn in turns]


def _mappings(value: object, column: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        raise ValueError(f"{column!r} that is no list of turns")
    return value


def _read_alpaca(row: Row) -> Turns:
    task, given = _turn("user", row["instruction"]), row.get("input")
    if given is not None and _turn("user", given)["content"].strip():
        task["content"] = f"{task['content']}\n\n{given}"
    return [task, _turn("assistant", row["output"])]


def _read_text(row: Row) -> Turns:
    return [_turn("assistant", row["text"])]


def _read_transcript(row: Row) -> Turns:
    text = _turn("user", row["text"])["content"]
    marks = list(_MARK.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        raise ValueError("a text that does not start with '### Human:'")
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [
        _turn(_SPEAKERS[mark[1].lower()], text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)
    ]


LAYOUTS: Final[Mapping[str, Layout]] = {
    "messages": Layout(("messages",), _read_messages),
    "sharegpt": Layout(("conversations",), _read_sharegpt),
    "alpaca": Layout(("instruction", "output"), _read_alpaca),
    "prompt_completion": Layout(("prompt", "completion"), _pair("prompt", "completion")),
    "question_answer": Layout(("question", "answer"), _pair("question", "answer")),
    "instruction_response": Layout(("instruction", "response"), _pair("instruction", "response")),
    "text": Layout(("text",), _read_text),
    "transcript": Layout(("text",), _read_transcript, detected=False),
}


def detect_layout(row: Row, mapped: Collection[str], where: str) -> str:
    """The one layout whose columns are all there and not null.

    `mapped` are the columns that `dataset.columns` names: a layout that they alone make up beats the others.

    Raises:
        ConfigError: no layout fits, or more than one.

    >>> detect_layout({"question": "1 + 1?", "answer": "2", "id": 7}, (), "rows.jsonl:1")
    'question_answer'
    """
    present = {column for column, value in row.items() if value is not None}

    def fitting(columns: Collection[str]) -> list[str]:
        return [name for name, layout in LAYOUTS.items() if layout.detected and set(layout.required) <= set(columns)]

    found = fitting(mapped) or fitting(present)
    if len(found) == 1:
        return found[0]
    if found:
        rule, remedy = "more than one layout fits", f"set dataset.layout to one of {', '.join(found)}"
    else:
        known = "; ".join(f"{name} ({', '.join(layout.required)})" for name, layout in LAYOUTS.items())
        rule = "no layout fits the first row"
        remedy = f"map its columns with dataset.columns, or set dataset.prompt and dataset.response. Known: {known}"
    raise ConfigError("dataset.layout", rule, received=f"columns {sorted(present)} at {where}", remedy=remedy)


def read_turns(row: Row, layout: str, where: str) -> Turns:
    """The turns of a row. A text in column `system` becomes the system turn, where the turns bring none.

    Raises:
        DataError: the row is not of this layout.

    >>> read_turns({"instruction": "Add.", "input": "2 3", "output": "5"}, "alpaca", "row 1")
    [{'role': 'user', 'content': 'Add.\\n\\n2 3'}, {'role': 'assistant', 'content': '5'}]
    """
    required = LAYOUTS[layout].required
    missing = [column for column in required if row.get(column) is None]
    try:
        if missing:
            raise ValueError(f"columns {sorted(row)}, without {', '.join(missing)}")
        turns = LAYOUTS[layout].read(row)
        system = row.get(SYSTEM_COLUMN)
        if isinstance(system, str) and system.strip() and not (turns and turns[0]["role"] == "system"):
            turns.insert(0, _turn("system", system))
    except ValueError as error:
        raise DataError(
            where,
            f"must be a row of layout {layout} ({', '.join(required)})",
            received=str(error),
            remedy="correct the row, or see dataset.layout, dataset.columns and dataset.prompt",
        ) from None
    return turns


def read_column(row: Row, column: str, where: str) -> Any:
    """Value of a column, which may be a dotted path into nested objects.

    Raises:
        DataError: it is not there, or null.
    """
    value: Any = row.get(column)
    if value is None:
        value = row
        for part in column.split("."):
            if not isinstance(value, Mapping) or value.get(part) is None:
                raise DataError(
                    where,
                    f"column {column!r} must be there",
                    received=f"columns {sorted(row)}",
                    remedy="correct the row, or dataset.reference, dataset.columns and dataset.id_field",
                )
            value = value[part]
    return value
