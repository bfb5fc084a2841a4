"""What Ctrl-C and the like do to a sweep: the first one asks it to stop, the second one ends it at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """The user stopped the sweep; its jobs are already stopped."""


@contextmanager
def stop_requests(kill_all: Callable[[], None]) -> Iterator[connection.Connection]:
    """A connection that becomes readable at the first stop signal; the second one calls `kill_all`."""
    reader, writer = connection.Pipe(duplex=False)
    count = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count == 1:
            writer.send_bytes(b"stop")
        else:
            kill_all()

    # What is ignored stays ignored: SIGHUP under nohup, SIGINT of a shell's background job.
    heeded = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, note) for number in heeded}
    try:
        yield reader
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        writer.close()
        reader.close()
