"""Frames between processes, and values that may cross from a candidate to its judge.

Plain data (numbers, text, containers, dates, exact types only) crosses as itself. Everything else stays at home and
crosses as a `Remote` handle. The reader refuses any other pickle, so a reply can carry data but never behaviour.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import io
import os
import pickle
import struct
from collections.abc import Callable
from typing import Any

MAX_FRAME_BYTES = 32 * 2**20

_BASES = (int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset)
_DATA = (range, slice, decimal.Decimal, fractions.Fraction, collections.deque, collections.Counter)
_DATES = (datetime.date, datetime.time, datetime.datetime, datetime.timedelta, datetime.timezone)
_CLASSES = (*_BASES, *_DATA, *_DATES, bool, object, collections.OrderedDict, collections.defaultdict)
_SINGLETONS = (None, NotImplemented, ...)
PLAIN_TYPES = frozenset([*(kind for kind in _CLASSES if kind is not object), *map(type, _SINGLETONS)])
_ALLOWED: dict[tuple[str, str], Any] = {(kind.__module__, kind.__qualname__): kind for kind in _CLASSES}
_ALLOWED |= {("builtins", "NotImplemented"): NotImplemented, ("builtins", "Ellipsis"): ...}


def write_frame(fd: int, payload: bytes) -> None:
    """Write a length and `payload`, however many writes it takes."""
    view = memoryview(struct.pack("!I", len(payload)) + payload)
    while view:
        view = view[os.write(fd, view) :]


def read_frame(fd: int, limit: int = MAX_FRAME_BYTES) -> bytes | None:
    """Read one frame; None when the other end is closed, or claims a frame above `limit`."""
    head = read_exactly(fd, 4)
    if head is None:
        return None
    (length,) = struct.unpack("!I", head)
    return read_exactly(fd, length) if length <= limit else None


def read_exactly(fd: int, count: int) -> bytes | None:
    """Read `count` bytes; None when the stream ends before."""
    buffer = bytearray()
    while len(buffer) < count:
        chunk = os.read(fd, min(count - len(buffer), 2**20))
        if not chunk:
            return None
        buffer += chunk
    return bytes(buffer)


class _Pickler(pickle.Pickler):
    """`name_of(value)` names what stays at home; it is asked for every value that is not plain."""

    def __init__(self, file: io.BytesIO, name_of: Callable[[Any], object]) -> None:
        super().__init__(file, protocol=5)
        self._name_of = name_of

    def persistent_id(self, value: Any) -> object:
        kind = type(value)
        if kind in PLAIN_TYPES or (kind is type and value in _CLASSES):
            return None
        # A subclass of plain data (a named tuple, an enum of int) crosses as its data; see `reducer_override`.
        return None if _plain_base(kind) else self._name_of(value)

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        base = None if kind in PLAIN_TYPES or kind is type else _plain_base(kind)
        return NotImplemented if base is None else (base, (_strip(base, value),))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, find: Callable[[Any], Any]) -> None:
        super().__init__(file)
        self._find = find

    def persistent_load(self, name: Any) -> Any:
        return self._find(name)

    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"{module}.{name} is not plain data")
        return found


def _plain_base(kind: type) -> type | None:
    return next((base for base in _BASES if issubclass(kind, base)), None)


def _strip(base: type, value: Any) -> Any:
    """Copy the data of an instance of a subclass of `base`, without asking the subclass."""
    if base is dict:
        return dict(dict.items(value))
    if base in (int, float, complex):
        return base.__add__(value, base(0))  # type: ignore[operator]
    if base is str:
        return str.__str__(value)
    iterate: Any = base.__iter__  # type: ignore[attr-defined]
    return list(iterate(value)) if base in (tuple, list, set, frozenset) else bytes(iterate(value))


def encode(value: object, name_of: Callable[[Any], object]) -> bytes:
    """Pickle `value`; whatever is not plain data is replaced by `name_of(it)`."""
    file = io.BytesIO()
    _Pickler(file, name_of).dump(value)
    return file.getvalue()


def decode(payload: bytes, find: Callable[[Any], Any]) -> Any:
    """Read what `encode` wrote; `find` turns names back into objects.

    >>> decode(encode({"a": [1, 2.5]}, repr), repr)
    {'a': [1, 2.5]}
    """
    return _Unpickler(io.BytesIO(payload), find).load()
