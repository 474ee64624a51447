"""The live snapshot of a knowledge base, shared by the threads of a process and kept up to date."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ragself.corpus.journal import Journal
from ragself.errors import StoreLocked
from ragself.serve.chroma import Chroma
from ragself.serve.lock import WriterLock
from ragself.serve.registry import Registry
from ragself.serve.snapshot import Snapshot

logger = logging.getLogger(__name__)

_WAIT = 0.1  # seconds between two attempts to open what another process writes to
_LOOK = 1.0  # seconds between two looks for what other processes wrote


class Live:
    """Lends the live snapshot, and notices when it has changed: a switch at once, other processes within a second."""

    def __init__(
        self,
        directory: Path,
        registry: Registry,
        journal: Journal,
        lock: WriterLock,
        open: Callable[[int], Snapshot],
        mend: Callable[[], None],
    ) -> None:
        """Name the parts; `open` makes the snapshot of a version, `mend` does what a writer that died left undone."""
        self._directory = directory
        self._registry = registry
        self._journal = journal
        self._lock = lock
        self._open = open
        self._mend = mend
        self._chroma: Chroma | None = None
        self._snapshot: Snapshot | None = None
        self._stamp: tuple[int, int] | None = None
        self._looked = 0.0
        self._stale = False
        self._turn = threading.Condition(threading.RLock())
        self._readers = 0
        self._pausing = False

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
            self._turn.wait_for(lambda: not self._pausing)
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

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let queries in flight come to an end; later ones wait until this ends, and open the snapshot anew."""
        with self._turn:
            self._turn.wait_for(lambda: not self._pausing)
            self._pausing = True
            try:
                self._turn.wait_for(lambda: self._readers == 0)
                self._snapshot = None
                yield
            finally:
                self._pausing = False
                self._turn.notify_all()

    def reconnect(self, *, writing: bool = True) -> None:
        """Open Chroma anew: it shows what other processes wrote only then. Waits for queries in flight.

        Args:
            writing: False keeps the connection if another thread has begun to write through it meanwhile.
        """
        with self.paused():
            if self._chroma is not None and (writing or not self._lock.held):
                self._chroma.close()
                self._chroma = None

    def _refresh(self) -> None:
        stamp = self._registry.stamp()
        switched = self._stamp is not None and stamp != self._stamp
        self._stamp = stamp
        if self._lock.held:
            if switched:
                self.forget()
            return
        if time.monotonic() - self._looked > _LOOK:
            self._looked = time.monotonic()
            self._stale |= self._journal.changed_elsewhere()
        self._stale |= switched
        if self._snapshot is None:
            self._settle()
        if self._stale and self._settled():  # meanwhile what is open goes on answering
            self.reconnect(writing=False)
            self._stale = False

    def _settle(self) -> None:
        """Wait while another process writes to the live index: half of a graph is none."""
        told = False
        while not self._lock.held and not self._settled():
            try:
                self._mend()
            except StoreLocked:
                if not told:
                    logger.warning("Waiting to open the index: %s writes to it", self._lock.holder())
                told = True
            time.sleep(_WAIT)

    def _settled(self) -> bool:
        torn = self._journal.unsettled()
        return not torn or self._registry.version(self._registry.live()).collection not in torn
