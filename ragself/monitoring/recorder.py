"""Records searches in a separate thread, so that recording neither delays a search nor makes it fail."""

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

_EVERY = 2.0  # seconds between two writes; a kill loses at most this much
_ROOM = 10_000  # searches that may wait in the queue
_Noted = tuple[Sequence[str], int | None, float | None]


class Recorder:
    """Counter of searches, which also records their queries if there is a query log."""

    def __init__(
        self, signals: Callable[[], SignalLog], log: Callable[[], QueryLog] | None, redact: Redact | None = None
    ) -> None:
        """Set the destinations. The first search opens the files and starts the thread.

        Args:
            signals: Opens the log of counts. The recorder closes it.
            log: Opens the query log. The recorder does not close it. None records no queries.
            redact: Returns what may be recorded of a query; None records the query as it is.
        """
        self._open_signals, self._open_log, self._redact = signals, log, redact
        self._inbox: queue.Queue[_Noted | threading.Event] = queue.Queue(_ROOM)
        self._thread: threading.Thread | None = None
        self._turn = threading.Lock()
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._told: set[str] = set()

    def note(self, queries: Sequence[str], version: int | None, seconds: float | None) -> None:
        """Record one search.

        Args:
            queries: Texts that were searched for.
            version: Number of the version that answered or should have answered; None does not count the search.
            seconds: Duration of the search; None if it failed.
        """
        if self._thread is None:
            self._start()
        with suppress(queue.Full):  # losing a record is better than a slow search
            self._inbox.put_nowait((queries if self._open_log else (), version, seconds))
        if self._inbox.qsize() > _ROOM / 2:
            self._wake.set()

    def flush(self, timeout: float = 10.0) -> None:
        """Wait until all searches up to now are written, or the timeout has passed."""
        if self._thread is not None and self._thread.is_alive():
            written = threading.Event()
            with suppress(queue.Full):
                self._inbox.put(written, timeout=timeout)
                self._wake.set()
                written.wait(timeout)

    def close(self) -> None:
        """Write what is pending and stop the thread. Safe to call twice."""
        self.flush()
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(10.0)
        atexit.unregister(self.close)

    def _start(self) -> None:
        with self._turn:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._run, daemon=True, name="ragself search recorder")
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
                except StoreError as error:  # such as a full disk, which does not affect searches
                    self._tell(f"searches are not recorded: {error}")
                except Exception as error:  # its message may quote a query
                    self._tell(f"searches are not recorded: {type(error).__name__}")
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
        except Exception as error:  # from the user's function; its message may quote the query
            self._tell(f"a query is not recorded: redacting it raised {type(error).__name__}")
            return None
        if kept is not None and not isinstance(kept, str):
            self._tell(f"a query is not recorded: redacting it gave a {type(kept).__name__}, expected a str or None")
            return None
        return kept if kept is None or encodable(kept) else None

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            logger.warning("%s", message)
