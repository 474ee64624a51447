"""The live snapshot of a knowledge base, shared by the threads of a process and kept up to date."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from ragself.corpus.journal import Journal
from ragself.errors import RagselfError, StoreError, StoreLocked
from ragself.index.snapshot import Snapshot
from ragself.memory import release_memory
from ragself.versions.lock import ProcessLock, Turn
from ragself.versions.registry import Registry

logger = logging.getLogger(__name__)

_WAIT = 0.1  # seconds between two attempts to open what another process writes to
_LOOK = 0.25  # seconds between two looks at the pointer, of which queries know nothing
_LISTEN = 1.0  # seconds between two looks for what other processes wrote
_LATE = 1.0  # seconds without a look after which queries wait for what is new, at most as long again

Answer = TypeVar("Answer")


class Live:
    """Lends the live snapshot, and follows the pointer: what is open goes on answering until the next is warm.

    A switch by this process is seen at once, those of others, and what they write, within a second or two. Who asks
    all the time waits for none of it; who asks now and then waits until what is new is open.
    """

    def __init__(
        self,
        registry: Registry,
        journal: Journal,
        role: ProcessLock,
        turn: Turn,
        open: Callable[[int], Snapshot],
        repair: Callable[[], None],
        *,
        shared: bool,
    ) -> None:
        """Name the parts.

        Args:
            registry: Has the pointer.
            journal: Knows which collections are being written to.
            role: The writer's.
            turn: Of whoever changes what is served.
            open: Makes the snapshot of a version.
            mend: Does what a writer that died left undone. Raises StoreLocked where another process is to.
            shared: The vectors are on a server, where everybody sees everything.
        """
        self._registry, self._journal, self._role, self._turn = registry, journal, role, turn
        self._open, self._repair, self._shared = open, repair, shared
        self._snapshot: Snapshot | None = None
        self._seen: tuple[object, ...] = ()
        self._readers: Counter[int] = Counter()
        self._state = threading.Condition()
        self._opening = threading.RLock()
        self._beginning = threading.Lock()
        self._retired: list[Snapshot] = []  # to be closed by whoever gives them back last
        self._renewal: threading.Thread | None = None
        self._late = False  # what is open was not looked at for so long that queries wait for the renewal
        self._looked = self._listened = 0.0
        self._told = ""
        self._stale = False  # another process has written what is not seen yet
        self._closing = False

    def ask(self, question: Callable[[Snapshot], Answer]) -> Answer:
        """Put a question to the live snapshot; once more, to one opened afresh, where its database was replaced."""
        with self.pinned() as snapshot:
            try:
                return question(snapshot)
            except StoreError as error:
                logger.debug("opening the index afresh: %s", error)
        self._drop(snapshot)
        with self.pinned() as snapshot:
            return question(snapshot)

    @contextmanager
    def pinned(self, *, newest: bool = False) -> Iterator[Snapshot]:
        """Lend the live snapshot; it stays whole, and its connection open, until this ends.

        Args:
            newest: Look at the pointer first; else it may be one that was live a moment ago.
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
        """Number of the version that answers, -1 while none does."""
        snapshot = self._snapshot
        return -1 if snapshot is None else snapshot.version.number

    def renew(self) -> None:
        """Open what is live now; until it is warm what is open goes on answering. Nothing where nothing is open."""
        if self._snapshot is not None:
            self._replace()

    @contextmanager
    def prepared(self, number: int) -> Iterator[Snapshot]:
        """A version that is not live, warm; closed at the end unless `switch` has made it the live one."""
        snapshot = self._open(number)
        try:
            snapshot.warm()
            yield snapshot
        finally:
            with self._state:
                needed = snapshot is self._snapshot or snapshot in self._retired
            if not needed:
                snapshot.close()

    def switch(self, snapshot: Snapshot) -> None:
        """Answer with a version that was prepared, and to which the pointer was just moved; wait for no query."""
        with self._opening:
            self._seen = self._state_of_things()
            self._retire(snapshot)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let queries in flight come to an end; later ones wait until this ends, and open the snapshot anew."""
        with self._opening:
            self._retire(None)
            with self._state:
                self._state.wait_for(lambda: not self._retired)
            yield

    def close(self) -> None:
        """Close what is open, once the queries in flight have ended."""
        self._closing = True
        if self._renewal is not None:
            self._renewal.join()
        with self.paused():
            pass

    # inside ---------------------------------------------------------------------------------------

    def _take(self, newest: bool) -> Snapshot:
        self._look(newest)
        while True:
            with self._state:
                if self._snapshot is not None:
                    self._readers[id(self._snapshot)] += 1
                    return self._snapshot
            if self._closing:
                raise StoreError("The knowledge base was closed meanwhile. Open it again.")
            self._replace(only_missing=True)

    def _look(self, newest: bool) -> None:
        now = time.monotonic()
        if self._snapshot is not None and (newest or now - self._looked > _LOOK):
            self._look_now(now, newest)
        renewal = self._renewal
        if self._late and renewal is not None and renewal is not threading.current_thread() and not self._turn.mine:
            renewal.join(_LATE)

    def _look_now(self, now: float, newest: bool) -> None:
        late, self._looked = now - self._looked > _LATE, now
        if newest:
            if self._state_of_things() != self._seen:
                self._replace()
        elif self._state_of_things() != self._seen or self._heard(now):
            with self._beginning:
                if not self._renewing():
                    renewal = threading.Thread(target=self._renew_meanwhile, name="ragself opens the new index")
                    renewal.start()  # before anybody can wait for it
                    self._renewal, self._late = renewal, late

    def _state_of_things(self) -> tuple[object, ...]:
        """What the open snapshot depends on: the pointer, and whether Chroma's folder is this process's own."""
        return self._registry.stamp(), not self._shared and self._role.generation

    def _heard(self, now: float) -> bool:
        """Whether another process has written what is not seen through what is open."""
        if now - self._listened < _LISTEN:
            return self._stale
        self._listened = now
        if not self._shared:
            self._stale |= not self._role.here and self._journal.changed_elsewhere()
            return self._stale
        if self._torn():  # by a writer that died, or by one that writes at this moment
            with self._turn.watched(0) as nobody_writes:
                return nobody_writes and self._torn()
        return False

    def _renewing(self) -> bool:
        return self._renewal is not None and self._renewal.is_alive()

    def _renew_meanwhile(self) -> None:
        try:
            self._replace(patient=False)
        except RagselfError as error:  # who asks for it is told; the others have what is open
            if str(error) != self._told:
                logger.warning("version %s goes on answering: %s", self._snapshot and self._snapshot.version, error)
            self._told = str(error)
        release_memory()

    def _replace(self, *, only_missing: bool = False, patient: bool = True) -> None:
        """Open what is live, warm it, and put it in the place of what is open; wait where it is being written to.

        Args:
            only_missing: Nothing is done where anything is open.
            patient: Without, nothing is waited for: what is open goes on answering until the next attempt.
        """
        told = repaired = False
        while True:
            if not repaired and not self._turn.mine and self._lagging():
                repaired = True
                with suppress(StoreLocked):  # another process writes, and will follow when it writes next
                    self._repair()
            with self._turn.watched(_WAIT) as nobody_writes, self._opening:  # as `switch`, which has the turn by then
                if only_missing and self._snapshot is not None:
                    return
                if self._may_open(nobody_writes):
                    self._retire(self._opened())
                    return
            if nobody_writes:
                with suppress(StoreLocked):
                    self._repair()
            if not patient or self._closing:
                self._stale = True
                return
            time.sleep(_WAIT)
            if not told and self._snapshot is None:
                logger.warning("Waiting to open the index: %s writes to it", self._role.holder() or "another process")
            told = True

    def _may_open(self, nobody_writes: bool) -> bool:
        if self._shared and not nobody_writes:  # the server answers, whoever writes, unless it is all built anew
            return not self._journal.rebuilding(self._registry.version(self._registry.live()).collection)
        return (nobody_writes or self._role.here) and not self._torn()

    def _opened(self) -> Snapshot:
        seen, self._stale = self._state_of_things(), False
        snapshot = None
        try:
            snapshot = self._open(self._registry.live())
            snapshot.warm()
        except BaseException:
            self._stale = True
            if snapshot is not None:
                snapshot.close()
            raise
        self._seen = seen
        return snapshot

    def _torn(self) -> bool:
        torn = self._journal.unsettled()
        return bool(torn) and self._registry.version(self._registry.live()).collection in torn

    def _lagging(self) -> bool:
        """Whether what is live has not followed all documents, though nobody is at it."""
        live = self._registry.version(self._registry.live())
        if not self._journal.pending(self._journal.applied(live.collection)):
            return False
        with self._turn.watched(0) as nobody_writes:
            return nobody_writes

    def _drop(self, snapshot: Snapshot) -> None:
        """Have the next question put to a snapshot opened afresh; who is at this one, as a long addition, goes on."""
        with self._opening:
            if self._snapshot is snapshot:
                self._retire(None)

    def _retire(self, successor: Snapshot | None) -> None:
        """Put a successor in the place of the open snapshot, which is closed when its last query has ended."""
        with self._state:
            before, self._snapshot = self._snapshot, successor
            if before is None:
                return
            self._retired.append(before)
            if self._readers[id(before)]:
                return
        self._close(before)

    def _close(self, snapshot: Snapshot) -> None:
        """Close a retired snapshot that nobody has any more."""
        try:
            snapshot.close()
        finally:
            with self._state:
                self._retired.remove(snapshot)
                del self._readers[id(snapshot)]
                self._state.notify_all()
