"""Detection of changes that an open snapshot does not show: a moved pointer, and writes of other processes."""

from __future__ import annotations

import time

from ragself.engine.engine import Engine

_PERIOD = 1.0  # seconds between two checks for writes of other processes


class Staleness:
    """Comparison of the current state with the state in which the open snapshot was opened."""

    def __init__(self, engine: Engine) -> None:
        """Store the engine's parts; no snapshot is known yet."""
        self._writer, self._shared = engine.writer, bool(engine.store.server)
        self._registry, self._journal, self._turn = engine.store.registry, engine.store.journal, engine.store.turn
        self._opened: tuple[object, ...] = ()
        self._unseen = False  # whether another process has written anything that the open snapshot does not show
        self._checked = 0.0

    def state(self) -> tuple[object, ...]:
        """State that a snapshot depends on: the pointer and, without a server, the generation of the writer lock."""
        return self._registry.stamp(), not self._shared and self._writer.generation

    def begin(self) -> tuple[object, ...]:
        """Begin to open a snapshot. Returns the state to pass to `opened` when it is open."""
        self._unseen = False
        return self.state()

    def opened(self, state: tuple[object, ...]) -> None:
        """Store the state in which the snapshot was opened."""
        self._opened = state

    def mark(self) -> None:
        """Make the next check report a change, so that the snapshot is reopened."""
        self._unseen = True

    def moved(self) -> bool:
        """Whether the pointer or that generation has changed since the snapshot was opened."""
        return self.state() != self._opened

    def changed(self) -> bool:
        """Whether `moved` is true or another process has written; the latter is checked once a second."""
        return self.moved() or self._written(time.monotonic())

    def torn(self) -> bool:
        """Whether a write to the live collection, other than by this process, has not ended."""
        torn = self._journal.unsettled()
        return bool(torn) and self._registry.version(self._registry.live()).collection in torn

    def lagging(self) -> bool:
        """Whether the live collection lacks changes of the documents that no process is applying."""
        live = self._registry.version(self._registry.live())
        if not self._journal.pending(self._journal.applied(live.collection)):
            return False
        with self._turn.watched(0) as undisturbed:
            return undisturbed

    def may_open(self, undisturbed: bool) -> bool:
        """Whether the live collection can be opened now.

        Args:
            undisturbed: Whether no other process is changing anything at this moment.
        """
        if self._shared and not undisturbed:  # the server answers during a write, unless it rebuilds the collection
            return not self._journal.rebuilding(self._registry.version(self._registry.live()).collection)
        return (undisturbed or self._writer.here) and not self.torn()

    def _written(self, now: float) -> bool:
        """Whether another process has written anything that the open snapshot does not show."""
        if now - self._checked < _PERIOD:
            return self._unseen
        self._checked = now
        if not self._shared:
            self._unseen |= not self._writer.here and self._journal.changed_elsewhere()
            return self._unseen
        if self.torn():  # its writer died, or is writing at this moment
            with self._turn.watched(0) as undisturbed:
                return undisturbed and self.torn()
        return False
