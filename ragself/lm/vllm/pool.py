"""Servers that share work: who is free takes the next batch, who is away gets time, who fails leaves it to the others.

All decisions are taken by the thread that asks; the threads of the connections only wait for answers.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import numpy as np

from ragself.errors import GeneratorError
from ragself.lm.vllm.client import Away, Endpoint, Refused, Served, Slow
from ragself.lm.vllm.threads import Threads

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Batch: TypeAlias = list[tuple[int, Any]]

WARM_UP = 300.0  # seconds for the first request, in which vLLM compiles
_FIRST = 8  # items of the first requests
_LARGEST = 64
_LOOK = 2.0  # seconds that a request should take: long enough to cost little, short enough to lose little
_PAUSE = 10.0  # seconds between two attempts at a server that is away, at most
_LEAST = 30.0  # seconds to wait for any answer
_REFUSED = 20  # texts refused one after the other, after which the fault may not be in the texts


class Server:
    """A server, its connections, and how it has been doing."""

    def __init__(self, endpoint: Endpoint, served: Served, connections: int) -> None:
        """Start a thread for each connection."""
        self.endpoint, self.served = endpoint, served
        self.dropped = False
        self.here = True
        self.reason = ""
        self.size = _FIRST
        self.flying = 0
        self.checked = False
        self._checking = threading.Lock()
        self._connections = connections
        self._pace: float | None = None  # seconds an item, the slowest of late
        self._stretch = 1.0
        self._left = self._next_try = self._pause = 0.0
        self._threads = Threads(connections, f"ragself {endpoint.url}")

    def ensure(self, check: Callable[[Server], None]) -> None:
        """Check it before its first work and after it was away; once, whichever connection comes first."""
        with self._checking:
            if not self.checked:
                check(self)
                self.checked = True

    def take(self, job: _Job) -> None:
        """Give it a batch."""
        self.flying += 1
        self._threads.give(job.run)

    def wants(self) -> bool:
        """Whether it can be given more: one batch waits in line for whichever connection is free first."""
        if self.dropped:
            return False
        if not self.here:  # one attempt at a time
            return self.flying == 0 and time.monotonic() >= self._next_try
        return self.flying <= self._connections

    def timeout(self, items: int) -> float:
        """Seconds to wait for an answer to so many items: ten times what it should take."""
        expected = WARM_UP / 10 if self._pace is None else self._pace * items
        return max(_LEAST, 10 * expected) * self._stretch

    def succeeded(self, items: int, seconds: float) -> None:
        """Learn from an answer how much to ask for at once, and how long to wait."""
        pace = seconds / items
        self._pace = pace if self._pace is None else max(pace, 0.8 * self._pace)
        self.returned()
        if items >= self.size // 2:  # a short last batch says nothing about the size
            self.size = int(np.clip(_LOOK / max(pace, 1e-6), max(self.size // 2, 1), min(2 * self.size, _LARGEST)))

    def slowed(self, seconds: float, patience: float) -> bool:
        """Ask for less and wait longer; False where it was waited long enough for a single item."""
        if self.size == 1 and seconds >= patience:
            return False
        self.size = max(self.size // 2, 1)
        self._stretch *= 2
        return True

    def left(self, reason: str) -> None:
        """It cannot be reached: pause, and longer each time."""
        now = time.monotonic()
        if self.here:
            logger.warning("%s is away: %s", self.endpoint.url, reason)
            self._left, self._pause = now, 0.5
        elif not self.flying:  # an attempt of its own, not one of several requests that failed at once
            self._pause = min(2 * self._pause, _PAUSE)
        self.here, self.reason, self.checked = False, reason, False
        self._next_try = now + self._pause

    def returned(self) -> None:
        """It answers."""
        if not self.here:
            logger.warning("%s is back", self.endpoint.url)
        self.here = True

    @property
    def away(self) -> float:
        """Seconds since it left; 0 where it is here."""
        return 0.0 if self.here else time.monotonic() - self._left

    def close(self) -> None:
        """Close its connections as soon as no request is in flight; nobody waits for that."""
        self._threads.close(self.endpoint.close)


@dataclass(slots=True)
class _Job:
    server: Server
    batch: Batch
    work: Callable[[Server, list[Any], float], list[Any]]
    check: Callable[[Server], None]
    done: queue.SimpleQueue[_Job]
    answers: list[Any] = field(default_factory=list)
    error: Exception | None = None
    seconds: float = 0.0

    def run(self) -> None:
        try:
            self.server.ensure(self.check)
            began = time.monotonic()
            timeout = self.server.timeout(len(self.batch))
            try:
                self.answers = self.work(self.server, [item for _, item in self.batch], timeout)
            finally:
                self.seconds = time.monotonic() - began
        except Exception as error:  # whatever it is, it is told to the thread that asked
            self.error = error
        self.done.put(self)


class Fleet:
    """Servers of one model."""

    def __init__(self, servers: Sequence[Server], patience: float) -> None:
        """Name the servers, at least one, and how many seconds to wait for one that is away."""
        self.servers = tuple(servers)
        self._patience = patience

    def share(
        self,
        work: Callable[[Server, list[Item], float], list[Answer | None]],
        items: Iterable[Item],
        check: Callable[[Server], None],
    ) -> Iterator[list[tuple[int, Answer | None]]]:
        """Do work in batches, by whoever is free.

        Args:
            work: Asks a server for the answers to items, waiting at most so many seconds. Raises as `Endpoint` does.
            items: Taken as they are needed.
            check: Makes sure of a server before its first work, and after it was away. Raises as `Endpoint` does.

        Returns:
            Batches as they are done: position of the item and the answer, None where an item was refused.

        Raises:
            GeneratorError: No server is left, or all they do is refuse.
        """
        done: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        fresh = enumerate(items)
        again: deque[Batch] = deque()
        flying = taken = refused = 0
        while True:
            for server in self.servers:
                while server.wants() and (batch := _next(again, fresh, server.size)):
                    server.take(_Job(server, batch, work, check, done))
                    flying += 1
            if not flying and not again:
                return
            job = _wait(done, None if all(server.here for server in self.servers) else 0.25)
            if job is None:  # woken now and then while someone is away
                self._lose_patience()
                continue
            flying -= 1
            job.server.flying -= 1
            if job.error is None:
                taken, refused = taken + 1, 0
                job.server.succeeded(len(job.batch), job.seconds)
                yield [(position, answer) for (position, _), answer in zip(job.batch, job.answers, strict=True)]
            elif isinstance(job.error, Refused) and len(job.batch) == 1:
                refused += 1
                self._note_refusal(job, refused, taken)
                yield [(job.batch[0][0], None)]
            else:
                again.extend(self._failed(job))

    def lost(self, reason: str) -> GeneratorError:
        """The error that says that no server is left."""
        urls = ", ".join(server.endpoint.url for server in self.servers)
        return GeneratorError(
            f"The generator at {urls} is lost: {reason}. Scores so far are kept; start it again and run the same "
            "command."
        )

    def close(self) -> None:
        """Close all connections, each server's as soon as no request is in flight; nobody waits for that."""
        for server in self.servers:
            server.close()

    def _failed(self, job: _Job) -> list[Batch]:
        """Draw the consequence for the server; return the work to give again."""
        server, error, batch = job.server, job.error, job.batch
        halves = [batch[: len(batch) // 2], batch[len(batch) // 2 :]] if len(batch) > 1 else [batch]
        if isinstance(error, Refused):  # one text spoils a batch: find it
            return halves
        if isinstance(error, Slow):
            if server.slowed(job.seconds, self._patience):
                return halves
            self._drop(server, f"{error}, for a single text", None)
        elif isinstance(error, Away):
            server.left(str(error))
            self._lose_patience()
        elif isinstance(error, GeneratorError):
            self._drop(server, str(error), error)
        elif error is not None:  # a slip of ours
            raise error
        return [batch]

    def _note_refusal(self, job: _Job, refused: int, taken: int) -> None:
        url, reason = job.server.endpoint.url, str(job.error)
        logger.warning("%s refuses a text: %s", url, reason)
        if refused >= _REFUSED and not taken:
            raise GeneratorError(f"{url} refuses every text: {explain(reason)}.")
        if refused % _REFUSED == 0:  # it, or all these texts?
            job.server.checked = False

    def _lose_patience(self) -> None:
        for server in self.servers:
            if not server.dropped and server.away > self._patience:
                self._drop(server, f"away for {server.away:.0f} s ({server.reason})", None)

    def _drop(self, server: Server, reason: str, error: GeneratorError | None) -> None:
        if server.dropped:
            return
        server.dropped, server.here = True, True  # nobody waits for it any more
        if all(other.dropped for other in self.servers):
            raise error or self.lost(reason)
        logger.warning("%s is dropped, its work goes to the others: %s", server.endpoint.url, reason)


def explain(refusal: str) -> str:
    """What a server said, and what to do where that is known."""
    if "JSON compliant" in refusal:
        return f"{refusal} (its likelihoods are NaN; try another number format: vllm serve --dtype float32)"
    return refusal


def _wait(done: queue.SimpleQueue[_Job], seconds: float | None) -> _Job | None:
    try:
        return done.get(timeout=seconds)
    except queue.Empty:
        return None


def _next(again: deque[Batch], fresh: Iterator[tuple[int, Any]], size: int) -> Batch:
    if again:
        return again.popleft()
    batch = []
    for item in fresh:
        batch.append(item)
        if len(batch) == size:
            break
    return batch
