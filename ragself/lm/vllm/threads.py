"""Pool of daemon threads. Unlike `concurrent.futures`, it does not keep an interrupted program from exiting."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Threads:
    """A fixed number of threads that run submitted work."""

    def __init__(self, count: int, name: str) -> None:
        """Start the threads."""
        self._count = self._left = count
        self._closed = False
        self._leaving = threading.Lock()
        self._after: Callable[[], None] = lambda: None
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        for _ in range(count):
            threading.Thread(target=self._serve, daemon=True, name=name).start()

    def give(self, work: Callable[[], None]) -> None:
        """Run `work` on the next free thread. It must not raise."""
        self._inbox.put(work)

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Results in the order of the items. The first error is raised immediately."""
        done: queue.SimpleQueue[tuple[int, Result | Exception]] = queue.SimpleQueue()

        def work(row: int, item: Item) -> None:
            try:
                done.put((row, function(item)))
            except Exception as error:  # raised in the calling thread
                done.put((row, error))

        for row, item in enumerate(items):
            self.give(lambda row=row, item=item: work(row, item))  # type: ignore[misc]
        results: dict[int, Result] = {}
        while len(results) < len(items):
            row, result = done.get()
            if isinstance(result, Exception):
                raise result
            results[row] = result
        return [results[row] for row in range(len(items))]

    def close(self, after: Callable[[], None]) -> None:
        """Stop each thread after its current work, without waiting; the last one calls `after`."""
        self._after, self._closed = after, True
        for _ in range(self._count):
            self._inbox.put(None)

    def _serve(self) -> None:
        while (work := self._inbox.get()) is not None:
            if not self._closed:
                work()
        with self._leaving:
            self._left -= 1
            last = not self._left
        if last:
            self._after()
