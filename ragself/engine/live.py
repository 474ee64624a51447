"""The live snapshot of a knowledge base, shared by the threads of a process, and writes to its collection."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from ragself.engine.engine import Engine
from ragself.engine.staleness import Staleness
from ragself.errors import RagselfError, StoreError, StoreLocked
from ragself.index.reindex import apply_changes
from ragself.index.snapshot import Snapshot
from ragself.memory import release_memory
from ragself.progress import Progress, silent

logger = logging.getLogger(__name__)

_WAIT = 0.1  # seconds between two attempts to open a collection that another process writes to
_POLL = 0.25  # seconds between two checks for changes; queries trigger them
_LATE = 1.0  # seconds without a check after which queries wait for the new snapshot; also the maximum of that wait

Answer = TypeVar("Answer")


class Live:
    """The open snapshot of the live version. It answers until the next snapshot is open and warm.

    A switch by this process is visible at once; switches and writes of other processes are visible within a second or
    two. Under constant load no query waits for that; after a pause a query waits until the new snapshot is open.
    """

    def __init__(self, engine: Engine) -> None:
        """Store the engine; no snapshot is opened yet."""
        self._engine, self._turn = engine, engine.store.turn
        self._registry, self._journal = engine.store.registry, engine.store.journal
        self._staleness = Staleness(engine)
        self._snapshot: Snapshot | None = None
        self._readers: Counter[int] = Counter()
        self._state = threading.Condition()
        self._opening = threading.RLock()
        self._beginning = threading.Lock()
        self._retired: list[Snapshot] = []  # each is closed when its last reader is done
        self._renewal: threading.Thread | None = None
        self._late = False  # whether queries wait for the renewal, because the last check was long ago
        self._checked = 0.0
        self._reported = ""
        self._closing = False

    # reading --------------------------------------------------------------------------------------

    def ask(self, question: Callable[[Snapshot], Answer]) -> Answer:
        """Apply a function to the live snapshot; after a StoreError to a new one, as the database may be replaced."""
        with self.borrowed() as snapshot:
            try:
                return question(snapshot)
            except StoreError as error:
                logger.debug("opening the index again: %s", error)
        self._drop(snapshot)
        with self.borrowed() as snapshot:
            return question(snapshot)

    @contextmanager
    def borrowed(self, *, newest: bool = False) -> Iterator[Snapshot]:
        """Pin the live snapshot: it stays complete and open until the context ends.

        Args:
            newest: Check the pointer first; otherwise the snapshot may be slightly out of date.
        """
        snapshot = self._take(newest)
        try:
            yield snapshot
        finally:
            with self._state:
                self._readers[id(snapshot)] -= 1
                last = snapshot in self._retired and self._readers[id(snapshot)] == 0
            if last:
                self._close(snapshot)

    @property
    def number(self) -> int:
        """Number of the version that answers, -1 while no snapshot is open."""
        snapshot = self._snapshot
        return -1 if snapshot is None else snapshot.version.number

    def renew(self) -> None:
        """Replace the open snapshot by one of the version that is live now. Does nothing if none is open."""
        if self._snapshot is not None:
            self._replace()

    # switching ------------------------------------------------------------------------------------

    @contextmanager
    def prepared(self, number: int) -> Iterator[Snapshot]:
        """Open and warm a version that is not live. It is closed at the end unless `switch` was called with it."""
        snapshot = self._engine.snapshot(number)
        try:
            snapshot.warm()
            yield snapshot
        finally:
            with self._state:
                needed = snapshot is self._snapshot or snapshot in self._retired
            if not needed:
                snapshot.close()

    def switch(self, snapshot: Snapshot) -> None:
        """Serve a prepared version, to which the pointer was just moved. Waits for no query."""
        with self._opening:
            self._staleness.opened(self._staleness.state())
            self._retire(snapshot)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Wait for the queries in flight. Later queries wait until the context ends, and then open a new snapshot."""
        with self._opening:
            self._retire(None)
            with self._state:
                self._state.wait_for(lambda: not self._retired)
            yield

    def close(self) -> None:
        """Close the open snapshot after the queries in flight."""
        self._closing = True
        if self._renewal is not None:
            self._renewal.join()
        with self.paused():
            pass

    # writing --------------------------------------------------------------------------------------

    @contextmanager
    def writing(self, *, wait: bool = True) -> Iterator[None]:
        """Change documents while no other thread or process changes anything or opens the live version.

        An interrupted write to the live collection is repaired first. Arguments and errors as for `Engine.as_writer`.
        """
        with self._engine.as_writer(wait=wait), self._turn.taken():
            self._finish_interrupted_write()
            yield
        release_memory()  # used for encoding; takes milliseconds

    def update(self, progress: Progress = silent) -> None:
        """Apply new changes of the documents to the live collection and to the lexical index."""
        store = self._engine.store
        with self.borrowed(newest=True) as live:
            name, adapter = live.version.collection, live.embedder.adapter
            apply_changes(store.journal, name, live.index, store.base, adapter, progress)
        store.lexical.view(progress)
        self._engine.publish_words()

    def repair(self) -> None:
        """Finish the write of a process that died. Raises StoreLocked if another process is writing."""
        threads, writer = self._turn.threads, self._engine.writer
        if not threads.acquire(blocking=False):  # another thread is writing, and repairs first
            return
        held = writer.held
        try:
            with self.writing():
                pass
        finally:
            if not held:
                writer.release()
            threads.release()

    def _finish_interrupted_write(self) -> None:
        live = self._registry.version(self._registry.live())
        if live.collection in self._journal.unsettled():
            with self.paused():
                self._engine.store.repair(live)
                self._engine.writer.begin_generation()
        if self._journal.pending(self._journal.applied(live.collection)):  # the writer died before it wrote to Chroma
            self.update()

    # inside ---------------------------------------------------------------------------------------

    def _take(self, newest: bool) -> Snapshot:
        self._check(newest)
        while True:
            with self._state:
                if self._snapshot is not None:
                    self._readers[id(self._snapshot)] += 1
                    return self._snapshot
            if self._closing:
                raise StoreError("The knowledge base was closed meanwhile. Open it again.")
            self._replace(only_missing=True)

    def _check(self, newest: bool) -> None:
        now = time.monotonic()
        if self._snapshot is not None and (newest or now - self._checked > _POLL):
            self._check_now(now, newest)
        renewal = self._renewal
        if self._late and renewal is not None and renewal is not threading.current_thread() and not self._turn.mine:
            renewal.join(_LATE)

    def _check_now(self, now: float, newest: bool) -> None:
        late, self._checked = now - self._checked > _LATE, now
        if newest:
            if self._staleness.moved():
                self._replace()
        elif self._staleness.changed():
            with self._beginning:
                if not self._renewing():
                    renewal = threading.Thread(target=self._renew_in_background, name="ragself opens the new index")
                    renewal.start()  # before any thread can wait for it
                    self._renewal, self._late = renewal, late

    def _renewing(self) -> bool:
        return self._renewal is not None and self._renewal.is_alive()

    def _renew_in_background(self) -> None:
        try:
            self._replace(patient=False)
        except RagselfError as error:  # a query that needs the new snapshot raises it; others use the open one
            if str(error) != self._reported:
                logger.warning("version %s is still served: %s", self._snapshot and self._snapshot.version, error)
            self._reported = str(error)
        release_memory()

    def _replace(self, *, only_missing: bool = False, patient: bool = True) -> None:
        """Open and warm the live version, and replace the open snapshot; wait while its collection is written to.

        Args:
            only_missing: Do nothing if a snapshot is open.
            patient: Wait; otherwise the open snapshot is served until the next attempt.
        """
        reported = repaired = False
        while True:
            if not repaired and not self._turn.mine and self._staleness.lagging():
                repaired = True
                with suppress(StoreLocked):  # another process is writing, and applies the changes with its next write
                    self.repair()
            with self._turn.watched(_WAIT) as undisturbed, self._opening:  # the same order of locks as in `switch`
                if only_missing and self._snapshot is not None:
                    return
                if self._staleness.may_open(undisturbed):
                    self._retire(self._open_live())
                    return
            if undisturbed:
                with suppress(StoreLocked):
                    self.repair()
            if not patient or self._closing:
                self._staleness.mark()
                return
            time.sleep(_WAIT)
            if not reported and self._snapshot is None:
                holder = self._engine.writer.holder() or "another process"
                logger.warning("Waiting to open the index: %s writes to it", holder)
            reported = True

    def _open_live(self) -> Snapshot:
        state = self._staleness.begin()
        snapshot = None
        try:
            snapshot = self._engine.snapshot(self._registry.live())
            snapshot.warm()
        except BaseException:
            self._staleness.mark()
            if snapshot is not None:
                snapshot.close()
            raise
        self._staleness.opened(state)
        return snapshot

    def _drop(self, snapshot: Snapshot) -> None:
        """Drop a snapshot: the next query opens a new one. Readers in flight, such as a long addition, keep it."""
        with self._opening:
            if self._snapshot is snapshot:
                self._retire(None)

    def _retire(self, successor: Snapshot | None) -> None:
        """Replace the open snapshot, and close it after its last query."""
        with self._state:
            before, self._snapshot = self._snapshot, successor
            if before is None:
                return
            self._retired.append(before)
            if self._readers[id(before)]:
                return
        self._close(before)

    def _close(self, snapshot: Snapshot) -> None:
        """Close a retired snapshot without readers."""
        try:
            snapshot.close()
        finally:
            with self._state:
                self._retired.remove(snapshot)
                del self._readers[id(snapshot)]
                self._state.notify_all()
