"""The judge's view of objects that live in the candidate's process."""

from __future__ import annotations

import builtins
import pickle
from collections.abc import Callable
from typing import Any

from .wire import decode, encode, read_frame, write_frame


class Lost(BaseException):
    """The candidate's process went away; a BaseException, so that no `except Exception` of a test hides it."""


class Session:
    """One conversation with a candidate."""

    def __init__(self, channel: int) -> None:
        self.channel = channel
        self.functions: list[Any] = []
        self.lost = False

    def name_of(self, value: Any) -> object:
        """Name what crosses to the candidate: its own object, or one of our functions, which it may only call."""
        if isinstance(value, Remote):
            return ("candidate", object.__getattribute__(value, "_number"))
        self.functions.append(value)
        return ("judge", len(self.functions) - 1)

    def find(self, name: Any) -> Any:
        """Make the handle of a candidate's object."""
        if name[0] == "judge":
            return self.functions[name[1]]
        return Remote(self, int(name[1]), is_class=bool(name[2]))

    def send(self, message: object) -> None:
        """Send a message.

        Raises:
            Lost: the candidate is gone.
        """
        try:
            write_frame(self.channel, encode(message, self.name_of))
        except OSError:
            self.lost = True
            raise Lost from None

    def request(self, verb: str, *rest: Any) -> Any:
        """Ask, and return the answered value."""
        self.send((verb, *rest))
        return self.receive(rest)

    def receive(self, rest: tuple[Any, ...] = ()) -> Any:
        """Wait for an answer, serving calls back meanwhile, and apply what a call did to its arguments."""
        while True:
            try:
                frame = read_frame(self.channel)
            except OSError:
                frame = None
            if frame is None:
                self.lost = True
                raise Lost
            try:
                kind, *body = decode(frame, self.find)
            except (
                pickle.UnpicklingError,
                TypeError,
                ValueError,
                KeyError,
                IndexError,
                EOFError,
                AttributeError,
            ) as error:
                raise RuntimeError(f"the program's answer is not plain data: {error}") from None
            if kind == "callback":
                self._call_back(*body)
            elif kind == "raised":
                raise _exception(str(body[0]), str(body[1]))
            elif kind == "value":
                value, left = body
                return _restore(value, rest[1:], left) if left is not None and rest else value
            else:
                raise RuntimeError("the program answered out of turn")

    def _call_back(self, number: int, args: tuple[Any, ...]) -> None:
        try:
            value = self.functions[number](*args)
        except Exception as error:
            self.send(("threw", type(error).__name__, str(error)[:500]))
        else:
            self.send(("returned", value))


def _exception(name: str, text: str) -> BaseException:
    found = getattr(builtins, name, None)
    if (
        isinstance(found, type)
        and issubclass(found, Exception)
        and name not in ("UnicodeDecodeError", "UnicodeEncodeError")
    ):
        try:
            error = found(text)
        except TypeError:  # a builtin whose constructor wants more
            return RuntimeError(f"{name}: {text}")
        return error if isinstance(error, BaseException) else RuntimeError(text)
    return RuntimeError(f"{name}: {text}")  # SystemExit and its like must not end the judge


def _restore(value: Any, sent: tuple[Any, ...], left: Any) -> Any:
    """Make our mutable arguments equal to what the call left of them, and keep `return argument` an identity.

    One level deep: an argument that is a list, dict, set or bytearray.
    """
    args, kwargs = sent
    left_args, left_kwargs = left
    for mine, theirs in [*zip(args, left_args, strict=True), *((kwargs[key], left_kwargs.get(key)) for key in kwargs)]:
        if value is theirs:
            value = mine
        if type(mine) is not type(theirs) or mine == theirs:
            continue
        if isinstance(mine, (list, bytearray)):
            mine[:] = theirs
        elif isinstance(mine, (dict, set)):
            mine.clear()
            mine.update(theirs)
    return value


class Remote:
    """An object of the candidate's that is not plain data: a function, a class, an instance, a generator.

    It can be called, iterated and asked for attributes. It never equals plain data, and takes part in arithmetic and
    comparison only with its own kind; when the tests themselves made it by calling a class, also with plain data, if
    that gives an object again: otherwise a candidate could return an object that agrees with everything.
    """

    def __init__(self, session: Session, number: int, *, is_class: bool = False, made: bool = False) -> None:
        for name, value in (("_session", session), ("_number", number), ("_is_class", is_class), ("_made", made)):
            object.__setattr__(self, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        value = self._session.request("call", self, args, kwargs)
        if self._is_class and isinstance(value, Remote):
            object.__setattr__(value, "_made", True)
        return value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__") and name not in ("__name__", "__doc__", "__dict__"):
            raise AttributeError(name)
        return self._session.request("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._session.request("set", self, name, value)

    def __hash__(self) -> int:
        return hash(self._number)

    def __eq__(self, other: object) -> Any:
        if not isinstance(other, Remote):
            return NotImplemented
        return self._number == other._number or self._session.request("special", "__eq__", self, (other,)) is True

    def __instancecheck__(self, value: object) -> bool:
        if not isinstance(value, Remote):
            return False
        return self._session.request("special", "__instancecheck__", self, (value,)) is True

    def __bool__(self) -> bool:
        try:
            return bool(self._session.request("special", "__bool__", self, ()))
        except TypeError:
            try:
                return len(self) > 0
            except TypeError:
                return True


def _forward(method: str) -> Callable[..., Any]:
    def call(self: Remote, *args: Any) -> Any:
        return self._session.request("special", method, self, args)

    return call


def _forward_guarded(method: str) -> Callable[[Remote, Any], Any]:
    def call(self: Remote, other: Any) -> Any:
        if not (self._made or isinstance(other, Remote)):
            return NotImplemented
        value = self._session.request("special", method, self, (other,))
        return value if isinstance(value, Remote) or isinstance(other, Remote) else NotImplemented

    return call


for _name in ("len", "iter", "next", "getitem", "setitem", "delitem", "str", "repr", "enter", "exit"):
    setattr(Remote, f"__{_name}__", _forward(f"__{_name}__"))
for _name in (
    "lt",
    "le",
    "gt",
    "ge",
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and",
    "or",
    "xor",
):
    setattr(Remote, f"__{_name}__", _forward_guarded(f"__{_name}__"))
