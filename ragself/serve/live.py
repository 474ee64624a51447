"""The live snapshot of a knowledge base, shared by the threads of a process and kept up to date."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ragself.corpus.journal import Journal
from ragself.serve.chroma import Chroma
from ragself.serve.lock import WriterLock
from ragself.serve.registry import Registry
from ragself.serve.snapshot import Snapshot

_LOOK = 1.0  # seconds between two looks for what other processes wrote


class Live:
    """Lends the live snapshot, and notices when it has changed: a switch at once, other processes within a second."""

    def __init__(
        self, directory: Path, registry: Registry, journal: Journal, lock: WriterLock, open: Callable[[int], Snapshot]
    ) -> None:
        """Name the parts; `open` makes the snapshot of a version when it is first needed."""
        self._directory = directory
        self._registry = registry
        self._journal = journal
        self._lock = lock
        self._open = open
        self._chroma: Chroma | None = None
        self._snapshot: Snapshot | None = None
        self._stamp: tuple[int, int] | None = None
        self._looked = 0.0
        self._turn = threading.Condition(threading.RLock())
        self._readers = 0
        self._reopening = False

    def chroma(self) -> Chroma:
        """The connection to Chroma, opened on first use."""
        with self._turn:
            if self._chroma is None:
                self._chroma = Chroma(self._directory / "chroma")
            return self._chroma

    @contextmanager
    def pinned(self) -> Iterator[Snapshot]:
        """Lend the live snapshot; it stays whole, and its connection open, until this ends."""
        self._refresh()
        with self._turn:
            self._turn.wait_for(lambda: not self._reopening)
            if self._snapshot is None:
                self._snapshot = self._open(self._registry.live())
            snapshot = self._snapshot
            self._readers += 1
        try:
            yield snapshot
        finally:
            with self._turn:
                self._readers -= 1
                self._turn.notify_all()

    def forget(self) -> None:
        """Open the snapshot anew for the next query; queries in flight keep theirs."""
        with self._turn:
            self._snapshot = None

    def reconnect(self, *, writing: bool = True) -> None:
        """Open Chroma anew: it shows what other processes wrote only then. Waits for queries in flight.

        Args:
            writing: False keeps the connection if another thread has begun to write through it meanwhile.
        """
        with self._turn:
            self._turn.wait_for(lambda: not self._reopening)
            self._reopening = True  # later queries wait, so that those in flight come to an end
            try:
                self._turn.wait_for(lambda: self._readers == 0)
                self._snapshot = None
                if self._chroma is not None and (writing or not self._lock.held):
                    self._chroma.close()
                    self._chroma = None
            finally:
                self._reopening = False
                self._turn.notify_all()

    def _refresh(self) -> None:
        stamp = self._registry.stamp()
        switched = self._stamp is not None and stamp != self._stamp
        foreign = False
        if not self._lock.held and time.monotonic() - self._looked > _LOOK:
            self._looked = time.monotonic()
            foreign = self._journal.changed_elsewhere()
        self._stamp = stamp
        if foreign or (switched and not self._lock.held):
            self.reconnect(writing=False)
        elif switched:
            self.forget()
