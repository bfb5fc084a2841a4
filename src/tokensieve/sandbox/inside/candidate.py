"""The candidate's own process: it runs the untrusted source and then answers calls. It never holds a test.

Whatever the source does to this process, it can only change the data that goes back; the judge decides.
"""

from __future__ import annotations

import builtins
import random
import sys
import types
from collections.abc import Callable
from typing import Any

from .wire import decode, encode, read_frame, write_frame


class Server:
    """Objects that stay here, by number, and the requests that reach them."""

    def __init__(self, channel: int) -> None:
        self.channel = channel
        self.objects: dict[int, Any] = {}
        self.numbers: dict[int, int] = {}
        self.namespace: dict[str, Any] = {}

    def name_of(self, value: Any) -> object:
        """Number an object; a function of the judge goes back under its own number."""
        if isinstance(value, Callback):
            return ("judge", value.number)
        number = self.numbers.get(id(value))
        if number is None:
            number = self.numbers[id(value)] = len(self.objects)
            self.objects[number] = value
        return ("candidate", number, isinstance(value, type))

    def find(self, name: Any) -> Any:
        """Turn a name of the judge's into our object, or into a stand-in for the judge's function."""
        return self.objects[name[1]] if name[0] == "candidate" else Callback(self, name[1])

    def reply(self, value: object) -> None:
        """Send one answer; what cannot be sent is reported as an exception."""
        try:
            payload = encode(value, self.name_of)
        except BaseException as error:
            payload = encode(("raised", type(error).__name__, f"the result cannot be read: {error}"[:500]), repr)
        write_frame(self.channel, payload)

    def answer(self, request: Any) -> None:
        """Carry out one request of the judge and reply."""
        verb, *rest = request
        try:
            self.reply(("value", *self.carry_out(verb, rest)))
        except BaseException as error:
            self.reply(("raised", _builtin_name(error), _describe(error)))

    def carry_out(self, verb: str, rest: list[Any]) -> tuple[Any, Any]:
        """Return the result, and the arguments as the call left them (None unless it is a call)."""
        if verb == "name":
            found = self.namespace[rest[0]]
            return ("module", found.__name__) if isinstance(found, types.ModuleType) else ("value", found), None
        if verb == "call":
            target, args, kwargs = rest
            return target(*args, **kwargs), (args, kwargs)
        if verb == "get":
            return getattr(*rest), None
        if verb == "set":
            return setattr(*rest), None  # type: ignore[func-returns-value]
        method, target, args = rest  # verb == "special": a dunder method, looked up on the type as Python does
        found = getattr(type(target), method, None)
        if found is None:
            raise TypeError(f"{type(target).__name__} has no {method}")
        return found(target, *args), None

    def serve(self) -> None:
        """Run the source, report how that went, and answer requests until the judge hangs up."""
        source = read_frame(self.channel)
        if source is None:
            return
        module = types.ModuleType("candidate")
        self.namespace = module.__dict__
        sys.modules["candidate"] = module  # dataclasses and typing look their module up
        random.seed(0)
        try:
            exec(compile(source.decode("utf-8", "surrogatepass"), "<candidate>", "exec"), self.namespace)
        except BaseException as error:
            self.reply(("raised", _builtin_name(error), _describe(error)))
            return
        # A name that hides a builtin counts only where the tests mean it; the judge decides, so it must know.
        self.reply(("value", [name for name in self.namespace if isinstance(name, str)], None))
        while (frame := read_frame(self.channel)) is not None:
            self.answer(decode(frame, self.find))


class Callback:
    """A function of the tests, passed as an argument: it can be called, and nothing else."""

    def __init__(self, server: Server, number: int) -> None:
        self.server = server
        self.number = number

    def __call__(self, *args: Any) -> Any:
        server = self.server
        write_frame(server.channel, encode(("callback", self.number, args), server.name_of))
        while True:
            frame = read_frame(server.channel)
            if frame is None:
                raise SystemExit
            request = decode(frame, server.find)
            if request[0] == "returned":
                return request[1]
            if request[0] == "threw":
                raise _error_type(request[1])(request[2])
            server.answer(request)  # the function itself called us back


def _builtin_name(error: BaseException) -> str:
    """The nearest builtin class of an exception."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")


def _describe(error: BaseException) -> str:
    try:
        known = type(error).__module__ == "builtins"
        return (str(error) if known else f"{type(error).__name__}: {error}")[:500]
    except BaseException:
        return type(error).__name__


def _error_type(name: str) -> Callable[[str], BaseException]:
    found = getattr(builtins, name, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else RuntimeError
