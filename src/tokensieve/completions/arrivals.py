"""An iterator over what asynchronous work gives, as it arrives."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from anyio.from_thread import start_blocking_portal

_WAKE_SECONDS: Final = 0.5
T = TypeVar("T")


class _End:
    """Follows the last item."""


def iterate_arrivals(produce: Callable[[Callable[[T], None]], Awaitable[None]]) -> Iterator[T]:
    """Run `produce(put)` on an event loop in a thread of its own and yield each item it puts.

    The loop goes on while the caller works on an item. An exception of `produce` is raised after the last item. An
    exception that is raised here (Ctrl-C while waiting, `Generator.throw`) cancels the work; the items that had arrived
    are then yielded before it goes on its way. The thread has ended when the iterator has, closed or exhausted.
    """
    # An item stays here until it has been taken: Ctrl-C may strike between any two operations, and an item that
    # `Queue.get` has just returned would be lost.
    arrived: deque[T | _End] = deque()
    signal: SimpleQueue[None] = SimpleQueue()

    def put(item: T | _End) -> None:
        arrived.append(item)
        signal.put(None)

    def take_until_end() -> Iterator[T]:
        while arrived and not isinstance(item := arrived[0], _End):
            try:
                yield item
            finally:
                arrived.popleft()

    failure: BaseException | None
    try:
        with start_blocking_portal("asyncio") as portal:
            work = portal.start_task_soon(produce, put)
            work.add_done_callback(lambda _: put(_End()))
            while True:
                yield from take_until_end()
                if arrived:
                    break
                _wait(signal)
        failure = work.exception()
    except GeneratorExit:
        raise  # nobody listens
    except BaseException as error:
        failure = error
    yield from take_until_end()
    if failure is not None:
        raise failure


def _wait(signal: SimpleQueue[None]) -> None:
    """Wait for a signal, but not for long: Ctrl-C that another thread was given does not end a wait of this one."""
    try:
        signal.get(timeout=_WAKE_SECONDS)
    except Empty:
        return
