"""Notes what searches do, in a thread of its own: a search waits for nothing here and fails for nothing."""

from __future__ import annotations

import atexit
import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

from ragself.corpus.query_log import QueryLog, Redact
from ragself.corpus.validate import encodable
from ragself.errors import StoreError
from ragself.monitoring.search_log import SignalLog, bucket

logger = logging.getLogger(__name__)

_EVERY = 2.0  # seconds between two writes: what a kill can cost
_ROOM = 10_000  # searches that may wait to be noted
_Noted = tuple[Sequence[str], int | None, float | None]


class Recorder:
    """Counts searches, and keeps their queries where there is a log for them."""

    def __init__(
        self, signals: Callable[[], SignalLog], log: Callable[[], QueryLog] | None, redact: Redact | None = None
    ) -> None:
        """Name where things go; neither file nor thread is there before the first search.

        Args:
            signals: Opens the counts, which are closed in the end.
            log: Opens the queries, which are not; None keeps none.
            redact: What may be kept of a query; None keeps it as it is.
        """
        self._open_signals, self._open_log, self._redact = signals, log, redact
        self._inbox: queue.Queue[_Noted | threading.Event] = queue.Queue(_ROOM)
        self._thread: threading.Thread | None = None
        self._turn = threading.Lock()
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._told: set[str] = set()

    def note(self, queries: Sequence[str], version: int | None, seconds: float | None) -> None:
        """Note one search.

        Args:
            queries: What was looked for.
            version: That answered, or should have; None keeps it out of the counts.
            seconds: How long it took; None where it failed.
        """
        if self._thread is None:
            self._start()
        with suppress(queue.Full):  # rather unnoted than slow
            self._inbox.put_nowait((queries if self._open_log else (), version, seconds))
        if self._inbox.qsize() > _ROOM / 2:
            self._wake.set()

    def flush(self, timeout: float = 10.0) -> None:
        """Wait until everything up to now is written."""
        if self._thread is not None and self._thread.is_alive():
            written = threading.Event()
            with suppress(queue.Full):
                self._inbox.put(written, timeout=timeout)
                self._wake.set()
                written.wait(timeout)

    def close(self) -> None:
        """Write what is left. Safe to call twice."""
        self.flush()
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(10.0)
        atexit.unregister(self.close)

    def _start(self) -> None:
        with self._turn:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._run, daemon=True, name="ragself notes searches")
                self._thread.start()
                atexit.register(self.close)

    def _run(self) -> None:
        signals: SignalLog | None = None
        try:
            while not (self._closing.is_set() and self._inbox.empty()):
                self._wake.wait(_EVERY)
                self._wake.clear()
                searches, queries, waiting = self._collect()
                try:
                    if searches:
                        signals = signals or self._open_signals()
                        signals.add(searches)
                    if queries and self._open_log:
                        self._open_log().add(queries)
                except StoreError as error:  # a full disk: nothing that searching depends on
                    self._tell(f"searches are not noted: {error}")
                except Exception as error:  # its message may quote a query
                    self._tell(f"searches are not noted: {type(error).__name__}")
                for event in waiting:
                    event.set()
        finally:
            if signals is not None:
                signals.close()

    def _collect(self) -> tuple[Counter[tuple[int, int | None]], Counter[str], list[threading.Event]]:
        searches: Counter[tuple[int, int | None]] = Counter()
        queries: Counter[str] = Counter()
        waiting = []
        for _ in range(_ROOM):
            try:
                item = self._inbox.get_nowait()
            except queue.Empty:
                break
            if isinstance(item, threading.Event):
                waiting.append(item)
                continue
            texts, version, seconds = item
            if version is not None:
                searches[version, None if seconds is None else bucket(seconds)] += 1
            queries.update(kept for text in texts if (kept := self._kept(text)))
        return searches, queries, waiting

    def _kept(self, text: str) -> str | None:
        try:
            kept = text if self._redact is None else self._redact(text)
        except Exception as error:  # the user's own function; its message may quote the query
            self._tell(f"a query is not remembered, as redacting it raised {type(error).__name__}")
            return None
        if kept is not None and not isinstance(kept, str):
            self._tell(f"a query is not remembered, as redacting it gave a {type(kept).__name__}, expected a str")
            return None
        return kept if kept is None or encodable(kept) else None

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            logger.warning("%s", message)
