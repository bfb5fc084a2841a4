"""Training loops that take turns, one step each: their times are interleaved although none of them gives up control."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

Pause = Callable[[], None]


class Relay:
    """Each loop runs in a thread of its own, and only while it holds the baton; it calls `pause()` after every step.

    `seconds[name]` are its times between two pauses: everything that a step costs, the next batch and the loop's own
    book-keeping included. What happens before the first pause, the set-up and the first step, is not among them.
    """

    def __init__(self, loops: Mapping[str, Callable[[Pause], None]], threads: int) -> None:
        self.seconds: dict[str, list[float]] = {name: [] for name in loops}
        self._loops = loops
        self._torch_threads = threads
        self._may_run = {name: threading.Semaphore(0) for name in loops}
        self._paused = threading.Semaphore(0)
        self._failure: list[BaseException] = []

    def run(self, rounds: int) -> None:
        """Give each loop the baton `rounds` + 1 times in turn; loops must pause at least so often."""
        workers = [threading.Thread(target=self._work, args=(name,), daemon=True) for name in self._loops]
        for worker in workers:
            worker.start()
        for number in range(rounds + 1):
            for name in self._loops:
                start = time.perf_counter()
                self._may_run[name].release()
                self._paused.acquire()
                if self._failure:
                    raise self._failure[0]
                if number:
                    self.seconds[name].append(time.perf_counter() - start)

    def _work(self, name: str) -> None:
        import torch

        def pause() -> None:
            self._paused.release()
            self._may_run[name].acquire()

        self._may_run[name].acquire()
        torch.set_num_threads(self._torch_threads)  # counted by thread
        try:
            self._loops[name](pause)
        except BaseException as error:
            self._failure.append(error)
        self._paused.release()
