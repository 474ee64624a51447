"""Pool of servers that share work: a free one takes the next batch, an unreachable one is retried for some time.

The work of a failed server goes to the others. The calling thread makes all decisions; the connection threads only
wait for responses.
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

WARM_UP = 300.0  # seconds for the first request, during which vLLM compiles
_FIRST = 8  # items of the first requests
_LARGEST = 64
_LOOK = 2.0  # target seconds of a request: long enough for low overhead, short enough to lose little
_PAUSE = 10.0  # maximum seconds between two attempts to reach a server
_LEAST = 30.0  # minimum timeout of a request in seconds
_REFUSED = 20  # consecutive rejected texts after which the server itself is suspected


class Server:
    """A server, its connections, and its state."""

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
        self._pace: float | None = None  # recent maximum of seconds per item
        self._stretch = 1.0
        self._left = self._next_try = self._pause = 0.0
        self._threads = Threads(connections, f"ragself {endpoint.url}")

    def ensure(self, check: Callable[[Server], None]) -> None:
        """Check the server once before its first work and after each absence, on the first connection that needs it."""
        with self._checking:
            if not self.checked:
                check(self)
                self.checked = True

    def take(self, job: _Job) -> None:
        """Submit a batch."""
        self.flying += 1
        self._threads.give(job.run)

    def wants(self) -> bool:
        """Whether the server can take another batch; one batch may wait for a free connection."""
        if self.dropped:
            return False
        if not self.here:  # one attempt at a time
            return self.flying == 0 and time.monotonic() >= self._next_try
        return self.flying <= self._connections

    def timeout(self, items: int) -> float:
        """Timeout in seconds for a request of `items` items: ten times its expected duration."""
        expected = WARM_UP / 10 if self._pace is None else self._pace * items
        return max(_LEAST, 10 * expected) * self._stretch

    def succeeded(self, items: int, seconds: float) -> None:
        """Adapt batch size and timeout after a response."""
        pace = seconds / items
        self._pace = pace if self._pace is None else max(pace, 0.8 * self._pace)
        self.returned()
        if items >= self.size // 2:  # a short last batch is no evidence for a batch size
            self.size = int(np.clip(_LOOK / max(pace, 1e-6), max(self.size // 2, 1), min(2 * self.size, _LARGEST)))

    def slowed(self, seconds: float, patience: float) -> bool:
        """Use smaller batches and a longer timeout; False if a single item has exceeded the patience."""
        if self.size == 1 and seconds >= patience:
            return False
        self.size = max(self.size // 2, 1)
        self._stretch *= 2
        return True

    def left(self, reason: str) -> None:
        """Mark the server as unreachable and pause, longer after each attempt."""
        now = time.monotonic()
        if self.here:
            logger.warning("%s is unreachable: %s", self.endpoint.url, reason)
            self._left, self._pause = now, 0.5
        elif not self.flying:  # a separate attempt, not one of several requests that failed together
            self._pause = min(2 * self._pause, _PAUSE)
        self.here, self.reason, self.checked = False, reason, False
        self._next_try = now + self._pause

    def returned(self) -> None:
        """Mark the server as reachable."""
        if not self.here:
            logger.warning("%s is reachable again", self.endpoint.url)
        self.here = True

    @property
    def away(self) -> float:
        """Seconds since the server became unreachable; 0 if it is reachable."""
        return 0.0 if self.here else time.monotonic() - self._left

    def close(self) -> None:
        """Close the connections as soon as no request is in flight, without waiting."""
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
        except Exception as error:  # the calling thread handles it
            self.error = error
        self.done.put(self)


class Fleet:
    """Servers of one model."""

    def __init__(self, servers: Sequence[Server], patience: float) -> None:
        """Set the servers, at least one, and the seconds to wait for an unreachable one."""
        self.servers = tuple(servers)
        self._patience = patience

    def share(
        self,
        work: Callable[[Server, list[Item], float], list[Answer | None]],
        items: Iterable[Item],
        check: Callable[[Server], None],
    ) -> Iterator[list[tuple[int, Answer | None]]]:
        """Distribute work in batches to free servers.

        Args:
            work: Called with a server, items and a timeout in seconds; returns the answers. Raises the errors of
                `Endpoint`.
            items: Consumed lazily.
            check: Checks a server before its first work and after each absence. Raises the errors of `Endpoint`.

        Returns:
            Batches in order of completion: position of each item and its answer, None if the item was rejected.

        Raises:
            GeneratorError: No server is left, or the servers reject every item.
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
            if job is None:  # wakes regularly while a server is unreachable
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
        """Error for the case that no server is left."""
        urls = ", ".join(server.endpoint.url for server in self.servers)
        return GeneratorError(
            f"The generator at {urls} is lost: {reason}. Scores so far are kept; start it again and run the same "
            "command."
        )

    def close(self) -> None:
        """Close all connections, each server's as soon as it has no request in flight, without waiting."""
        for server in self.servers:
            server.close()

    def _failed(self, job: _Job) -> list[Batch]:
        """Update the server after a failed job and return the batches to retry."""
        server, error, batch = job.server, job.error, job.batch
        halves = [batch[: len(batch) // 2], batch[len(batch) // 2 :]] if len(batch) > 1 else [batch]
        if isinstance(error, Refused):  # split the batch to find the rejected text
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
        elif error is not None:  # a bug in ragself
            raise error
        return [batch]

    def _note_refusal(self, job: _Job, refused: int, taken: int) -> None:
        url, reason = job.server.endpoint.url, str(job.error)
        logger.warning("%s rejects a text: %s", url, reason)
        if refused >= _REFUSED and not taken:
            raise GeneratorError(f"{url} rejects every text: {explain(reason)}.")
        if refused % _REFUSED == 0:  # find out whether the server or the texts are at fault
            job.server.checked = False

    def _lose_patience(self) -> None:
        for server in self.servers:
            if not server.dropped and server.away > self._patience:
                self._drop(server, f"unreachable for {server.away:.0f} s ({server.reason})", None)

    def _drop(self, server: Server, reason: str, error: GeneratorError | None) -> None:
        if server.dropped:
            return
        server.dropped, server.here = True, True  # nothing waits for it any more
        if all(other.dropped for other in self.servers):
            raise error or self.lost(reason)
        logger.warning("%s is dropped, its work goes to the others: %s", server.endpoint.url, reason)


def explain(refusal: str) -> str:
    """The server's message, with advice where it is known."""
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
