"""The inverted index of a knowledge base: it follows the journal, in RAM first, and is published in segments.

<kb>/lexical/manifest.json     what is published, up to which change of the journal
             segment-…/        the words and base vectors of some chunks, in arrays that never change
             dead-….npy        the rows of a segment that were replaced or deleted since
             lock              held by the process that publishes

All of it follows from ``corpus.db``: whatever is damaged is built again from there, and of two processes that
publish either is right. Tombstones of changes that are published may be pruned from the journal. So a process
that finds another manifest than it knows starts from that one, whatever it has read of the journal.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from ragself.corpus.journal_reader import BATCH, JournalReader
from ragself.errors import StoreError
from ragself.lexical import manifest
from ragself.lexical.part import Part, joined
from ragself.lexical.segment import Document, Segment, Vectors
from ragself.lexical.terms import encoded, id_hashes
from ragself.lexical.view import View
from ragself.progress import Progress, silent

logger = logging.getLogger(__name__)

_STAGE = "indexing words"
_IN_RAM = 8  # segments
_ON_DISK = 6  # segments
_GROWTH = 8  # times that a segment is at least larger than the next: most corpora are one, and a few small ones
_DEAD = 0.2  # share of a segment that may be dead
_AT_ONCE = 20_000  # documents in a segment that is built
_CHARACTERS = 50_000_000  # in them
_ATTEMPTS = 5  # to open what another process replaces at the same time


@dataclass(frozen=True, eq=False, slots=True)
class _State:
    """What the index knows up to one change.

    Attributes:
        view: The parts, those on disk first.
        seq: That change.
        published: The change up to which those on disk go, which is what the manifest says.
        pending: How many changes were read since.
        stamp: Of that manifest.
        damaged: What is on disk is not to be used.
    """

    view: View
    seq: int
    published: int
    pending: int
    stamp: manifest.Stamp
    damaged: bool = False


class LexicalIndex:
    """The words of all chunks. Threads may share it, and processes may have one each on the same folder."""

    def __init__(
        self, directory: Path, corpus: Path, owner: str, key: Callable[[str], bytes], vectors: Vectors
    ) -> None:
        """Open the index of a knowledge base; nothing is read yet.

        Args:
            directory: Where segments are; made when there is something to publish.
            corpus: The file of the journal, which must exist.
            owner: Id of the knowledge base.
            key: Gives the 16 bytes that name the base vector of a text.
            vectors: Gives the base vectors that segments are written with.

        Raises:
            StoreError: The journal cannot be read.
        """
        self._directory, self._owner, self._key, self._vectors = directory, owner, key, vectors
        self._journal = JournalReader(corpus)
        self._lock = threading.Lock()
        self._state: _State | None = None
        self._version: int | None = None  # of the journal, when all of it had been read
        self._complained = False

    @property
    def seq(self) -> int:
        """The change of the journal that what is published goes up to, 0 where nothing is."""
        with self._lock:
            state = self._state
        if state is not None and manifest.stamp(self._directory) == state.stamp:
            return state.published
        try:
            return manifest.read(self._directory, self._owner).seq
        except StoreError:
            return 0

    def view(self, progress: Progress = silent) -> View:
        """All documents as of now. What has changed is read first; where nothing has, that takes microseconds.

        Raises:
            StoreError: The journal cannot be read.
        """
        with self._lock:
            return self._follow(progress).view

    def checkpoint(self, least: int = 1000) -> bool:
        """Publish what is in RAM, where at least `least` changes are.

        Returns:
            Whether it was published. It is not where another process is publishing, and where the disk is full or
            cannot be written: then that is logged, and search goes on.
        """
        with self._lock:
            state = self._follow(silent)
        return _due(state, least) and self._publish(least, whole=False)

    def merge(self) -> bool:
        """Publish all documents as one segment without dead rows. Returns as `checkpoint` does."""
        return self._publish(0, whole=True)

    def close(self) -> None:
        """Close the journal. Views stay as they are. Safe to call twice."""
        with self._lock:
            self._journal.close()
            self._state = None

    def _follow(self, progress: Progress) -> _State:
        """Read what was committed since the last look, if anything was."""
        version = self._journal.version()
        if self._state is None or version != self._version:
            self._state = self._caught_up(self._state or self._load(), progress)
            self._version = version
        return self._state

    def _caught_up(self, state: _State, progress: Progress) -> _State:
        """The state after all changes of the journal."""
        reading = _Reading(state.seq)
        done, total = 0, 0
        while True:
            changes = self._journal.after(reading.seq)
            if manifest.stamp(self._directory) != state.stamp:
                # Looked at after the journal was: tombstones missing there are in this manifest.
                state = self._load()
                reading = _Reading(state.seq)
                done = 0
                continue
            if not changes:
                break
            if len(changes) == BATCH and not total:
                total = self._journal.count(reading.seq)
            reading.add(changes, self._key)
            done += len(changes)
            if reading.full:
                state = reading.applied(state)
                reading = _Reading(state.seq)
            if total:
                progress(_STAGE, min(done, total - 1), total)
        state = reading.applied(state)
        if total:
            progress(_STAGE, total, total)
        return state

    def _load(self) -> _State:
        """The state that is published, or the empty one where that cannot be used."""
        for _ in range(_ATTEMPTS):
            stamp = manifest.stamp(self._directory)
            try:
                found = manifest.read(self._directory, self._owner)
                parts = manifest.parts_of(self._directory, found, self._owner)
            except StoreError as error:
                problem = str(error)
            else:
                head = self._journal.head()  # asked after the manifest was read, it is behind in no sound one
                if found.seq <= head:
                    return _State(View(parts), found.seq, found.seq, 0, stamp)
                problem = f"{self._directory} goes up to change {found.seq}, and the documents up to {head}."
            if manifest.stamp(self._directory) == stamp:  # else another process has just replaced it
                break
        logger.warning("The index of words cannot be used: %s It is built again from the documents.", problem)
        return _State(View(()), 0, 0, 0, stamp, damaged=True)

    def _publish(self, least: int, *, whole: bool) -> bool:
        """Publish under the lock of the folder. Returns whether that was done."""
        try:
            self._directory.mkdir(exist_ok=True)
            with FileLock(self._directory / manifest.LOCK, timeout=0):
                try:
                    return self._write(least, whole=whole)
                finally:
                    manifest.sweep(self._directory, self._owner)
        except Timeout:
            return False
        except OSError as error:
            if not self._complained:
                logger.warning("Cannot write %s: %s. The index of words stays in memory.", self._directory, error)
            self._complained = True
            return False

    def _write(self, least: int, *, whole: bool) -> bool:
        with self._lock:
            if self._state is not None and manifest.stamp(self._directory) != self._state.stamp:
                self._state = None  # another process has published: its segments are the ones to go on from
            state = self._follow(silent)
        if not _due(state, least) and not (whole and _scattered(state.view.parts)):
            return False
        parts = [part for part in state.view.parts if part.documents]
        groups = [parts] if whole and parts else _grouped(parts, _ON_DISK)
        kept = [self._on_disk(group) for group in groups]
        stamp = manifest.publish(self._directory, self._owner, state.seq, kept)
        with self._lock:
            # What changed meanwhile is read again: in the next view, on top of what is on disk now.
            self._state = _State(View(tuple(kept)), state.seq, state.seq, 0, stamp)
            self._version = None
        self._complained = False
        return True

    def _on_disk(self, group: Sequence[Part]) -> Part:
        """One part with a name for some that lie side by side. Raises OSError."""
        only = group[0]
        if len(group) == 1 and only.name is not None and len(only.dead) <= _DEAD * len(only.segment):
            return only
        segment = joined(group).segment
        name = manifest.save(self._directory, segment, self._owner, self._vectors)
        return Part.of(Segment.open(self._directory / name, self._owner), name=name)


class _Reading:
    """Changes that were read and are not in the state yet."""

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self._documents: dict[str, Document] = {}
        self._gone: set[str] = set()
        self._read = self._characters = 0

    @property
    def full(self) -> bool:
        """Whether it is time to make a segment of them."""
        return len(self._documents) >= _AT_ONCE or self._characters >= _CHARACTERS

    def add(self, changes: Sequence[tuple[int, str, str | None]], key: Callable[[str], bytes]) -> None:
        """Take over changes, each of which replaces an earlier one of its id."""
        for seq, id, text in changes:
            self._documents.pop(id, None)
            if text is None:
                self._gone.add(id)
            else:
                self._documents[id] = (id, seq, text, key(text))
                self._characters += len(text)
            self.seq = seq
        self._read += len(changes)

    def applied(self, state: _State) -> _State:
        """The state after these changes."""
        if not self._read:
            return state
        parts = [*state.view.parts]
        ids = [*self._gone, *self._documents]
        (blob, bounds), hashes = encoded(ids), id_hashes(ids)
        for number, part in enumerate(parts):
            rows = part.find(blob, bounds, hashes)
            if (rows >= 0).any():
                parts[number] = part.without(rows[rows >= 0])
        fresh = [part for part in parts if part.name is None and part.documents]
        if self._documents:
            fresh.append(Part.of(Segment.build([*self._documents.values()])))
        fresh = [group[0] if len(group) == 1 else joined(group) for group in _grouped(fresh, _IN_RAM)]
        view = View((*(part for part in parts if part.name is not None), *fresh))
        return replace(state, view=view, seq=self.seq, pending=state.pending + self._read)


def _due(state: _State, least: int) -> bool:
    return state.damaged or state.pending >= max(1, least)


def _scattered(parts: Sequence[Part]) -> bool:
    return len(parts) > 1 or any(len(part.dead) for part in parts)


def _grouped(parts: Sequence[Part], most: int) -> list[list[Part]]:
    """Which neighbours to merge, so that each is `_GROWTH` times as large as the next, and there are at most `most`."""
    groups: list[list[Part]] = []
    sizes: list[int] = []
    for part in parts:
        groups.append([part])
        sizes.append(part.documents)
        while len(sizes) > 1 and sizes[-2] < _GROWTH * sizes[-1]:
            _join_last(groups, sizes)
    while len(groups) > most:
        _join_last(groups, sizes)
    return groups


def _join_last(groups: list[list[Part]], sizes: list[int]) -> None:
    groups[-2:] = [groups[-2] + groups[-1]]
    sizes[-2:] = [sizes[-2] + sizes[-1]]
