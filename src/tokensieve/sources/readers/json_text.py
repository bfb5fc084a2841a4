"""JSON Lines, and one JSON list, an object at a time."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tokensieve.errors import DataError
from tokensieve.sources.readers.row import OnBad, Row, refuse
from tokensieve.sources.readers.streams import CHUNK_BYTES

_BOM: Final = b"\xef\xbb\xbf"
_BLANK: Final = re.compile(r"[ \t\r\n]*")


def is_json_list(stream: io.BufferedReader) -> bool:
    """Whether the text is one list rather than one object a line; the stream stays where it is.

    A text of neither kind counts as a list, whose reader says what is wrong with it.
    """
    return not stream.peek(64).removeprefix(_BOM).lstrip().startswith(b"{")


def read_json_lines(stream: io.BufferedReader, path: Path, on_bad: OnBad | None) -> Iterator[tuple[int, Row]]:
    """Pairs of (line number, object); blank lines are passed over."""
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:  # JSONDecodeError, UnicodeDecodeError; nested too deep
            value, received = None, str(error)
        else:
            received = type(value).__name__
        if isinstance(value, dict):
            yield number, value
            continue
        fault = DataError(
            f"{path}:{number}", "must be one JSON object", received=received, remedy="correct or remove the line"
        )
        refuse(fault, on_bad)


def read_json_list(stream: io.BufferedReader, path: Path, on_bad: OnBad | None) -> Iterator[tuple[int, Row]]:
    """Pairs of (item number from 1, object) of a list, decoded in a sliding window over the text."""
    with io.TextIOWrapper(stream, encoding="utf-8-sig") as text:
        for number, value in enumerate(_decode_items(text, path), start=1):
            if isinstance(value, dict):
                yield number, value
            else:
                refuse(_list_fault(f"{path}:{number}", type(value).__name__), on_bad)


def _list_fault(where: str, received: str) -> DataError:
    return DataError(
        where,
        "must be a JSON list of objects",
        received=received,
        remedy="wrap the rows in [...], or use one object a line and the suffix .jsonl",
    )


def _decode_items(text: io.TextIOWrapper, path: Path) -> Iterator[object]:
    """The items of the list. A fault in the text ends the reading: where the next item starts is not known."""
    decoder = json.JSONDecoder()
    window, at, size, number = "", 0, CHUNK_BYTES, 0
    try:
        window = text.read(size)
        at = _skip_blank(window, 0)
        if window[at : at + 1] != "[":
            raise _list_fault(str(path), f"a text that starts with {window[at : at + 20]!r}")
        at = _skip_blank(window, at + 1)
        while True:
            if window[at : at + 1] == "]":
                return _check_end(window[at + 1 :] + text.read(), path)
            after, reason = "", "the text ends"
            try:
                value, end = decoder.raw_decode(window, at)
                end = _skip_blank(window, end)
                after = window[end : end + 1]
            except json.JSONDecodeError as error:
                reason = error.msg
            if after in (",", "]") and after:  # only what follows tells that a number has ended
                number, size = number + 1, CHUNK_BYTES
                at = _skip_blank(window, end + 1) if after == "," else end
                yield value
                continue
            more = "" if after else text.read(size)
            if not more:
                raise _list_fault(f"{path}:{number + 1}", f"{after!r} behind the item" if after else reason)
            window, at, size = window[at:] + more, 0, size * 2  # doubling: a long item is not decoded too often
            at = _skip_blank(window, 0)
    except (UnicodeDecodeError, RecursionError) as error:
        raise _list_fault(f"{path}:{number + 1}", str(error)) from None


def _skip_blank(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at


def _check_end(rest: str, path: Path) -> None:
    if rest.strip():
        raise _list_fault(str(path), f"{rest.strip()[:20]!r} behind the list")
