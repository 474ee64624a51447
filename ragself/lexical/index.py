"""Inverted index of a knowledge base. It applies the changes of the journal in RAM and publishes them in segments.

<kb>/lexical/manifest.json     the published segments, and the last change of the journal in them
             segment-…/        the words and base vectors of some chunks, in immutable arrays
             dead-….npy        the rows of a segment that were replaced or deleted since
             lock              held by the process that publishes

All of it is derived from ``corpus.db``, and damaged parts are rebuilt from there. If two processes publish, both
results are right. Tombstones of published changes may be pruned from the journal. A process that finds a new manifest
therefore restarts from it, whatever it has read of the journal.
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
_IN_RAM = 8  # maximum number of segments
_ON_DISK = 6  # maximum number of segments
_GROWTH = 8  # minimum size ratio of a segment to the next: most corpora are one large segment and a few small ones
_DEAD = 0.2  # maximum share of dead rows in a segment
_AT_ONCE = 20_000  # documents per segment that is built
_CHARACTERS = 50_000_000  # characters in them
_ATTEMPTS = 5  # attempts to open files that another process may replace at the same time


@dataclass(frozen=True, eq=False, slots=True)
class _State:
    """State of the index after one change of the journal.

    Attributes:
        view: The parts, those on disk first.
        seq: Sequence number of that change.
        published: Sequence number of the last change in the parts on disk, as in the manifest.
        pending: Number of changes read since then.
        stamp: Stamp of that manifest.
        damaged: Whether the files on disk are unusable.
    """

    view: View
    seq: int
    published: int
    pending: int
    stamp: manifest.Stamp
    damaged: bool = False


class LexicalIndex:
    """Inverted index of the words of all chunks. Threads may share it. Each process may open one on the same folder."""

    def __init__(
        self, directory: Path, corpus: Path, owner: str, key: Callable[[str], bytes], vectors: Vectors
    ) -> None:
        """Open the index of a knowledge base. Nothing is read yet.

        Args:
            directory: Folder of the segments. Created at the first publication.
            corpus: File of the journal, which must exist.
            owner: Id of the knowledge base.
            key: Returns the 16-byte key of the base vector of a text.
            vectors: Returns the base vectors that are written with segments.

        Raises:
            StoreError: The journal cannot be read.
        """
        self._directory, self._owner, self._key, self._vectors = directory, owner, key, vectors
        self._journal = JournalReader(corpus)
        self._lock = threading.Lock()
        self._state: _State | None = None
        self._version: int | None = None  # version of the journal when it was last read to its end
        self._complained = False

    @property
    def seq(self) -> int:
        """Sequence number of the last published change of the journal; 0 if nothing is published."""
        with self._lock:
            state = self._state
        if state is not None and manifest.stamp(self._directory) == state.stamp:
            return state.published
        try:
            return manifest.read(self._directory, self._owner).seq
        except StoreError:
            return 0

    def view(self, progress: Progress = silent) -> View:
        """Current view of all documents. New changes are read first; without changes this takes microseconds.

        Raises:
            StoreError: The journal cannot be read.
        """
        with self._lock:
            return self._follow(progress).view

    def checkpoint(self, least: int = 1000) -> bool:
        """Publish the changes in RAM if there are at least `least` of them.

        Returns:
            Whether they were published. They are not if another process is publishing, or if the disk is full or not
            writable. The latter is logged, and search continues.
        """
        with self._lock:
            state = self._follow(silent)
        return _due(state, least) and self._publish(least, whole=False)

    def merge(self) -> bool:
        """Publish all documents as one segment without dead rows. Returns the same as `checkpoint`."""
        return self._publish(0, whole=True)

    def close(self) -> None:
        """Close the journal. Existing views do not change. Safe to call twice."""
        with self._lock:
            self._journal.close()
            self._state = None

    def _follow(self, progress: Progress) -> _State:
        """Read the changes committed since the last call, if there are any."""
        version = self._journal.version()
        if self._state is None or version != self._version:
            self._state = self._caught_up(self._state or self._load(), progress)
            self._version = version
        return self._state

    def _caught_up(self, state: _State, progress: Progress) -> _State:
        """Return the state after all changes of the journal."""
        reading = _Reading(state.seq)
        done, total = 0, 0
        while True:
            changes = self._journal.after(reading.seq)
            if manifest.stamp(self._directory) != state.stamp:
                # The stamp is read after the journal: tombstones missing from the journal are in this manifest.
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
        """Return the published state, or an empty one if it is unusable."""
        for _ in range(_ATTEMPTS):
            stamp = manifest.stamp(self._directory)
            try:
                found = manifest.read(self._directory, self._owner)
                parts = manifest.parts_of(self._directory, found, self._owner)
            except StoreError as error:
                problem = str(error)
            else:
                head = self._journal.head()  # read after the manifest, so never behind an intact one
                if found.seq <= head:
                    return _State(View(parts), found.seq, found.seq, 0, stamp)
                problem = f"{self._directory} ends at change {found.seq}, but the documents end at change {head}."
            if manifest.stamp(self._directory) == stamp:  # otherwise another process has just replaced the manifest
                break
        logger.warning("The lexical index is unusable: %s It is built again from the documents.", problem)
        return _State(View(()), 0, 0, 0, stamp, damaged=True)

    def _publish(self, least: int, *, whole: bool) -> bool:
        """Publish under the lock of the folder. Returns whether it was published."""
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
                logger.warning("Cannot write %s: %s. The lexical index stays in memory.", self._directory, error)
            self._complained = True
            return False

    def _write(self, least: int, *, whole: bool) -> bool:
        with self._lock:
            if self._state is not None and manifest.stamp(self._directory) != self._state.stamp:
                self._state = None  # another process has published: continue from its segments
            state = self._follow(silent)
        if not _due(state, least) and not (whole and _scattered(state.view.parts)):
            return False
        parts = [part for part in state.view.parts if part.documents]
        groups = [parts] if whole and parts else _grouped(parts, _ON_DISK)
        kept = [self._on_disk(group) for group in groups]
        stamp = manifest.publish(self._directory, self._owner, state.seq, kept)
        with self._lock:
            # The next view reads later changes again, on top of the segments now on disk.
            self._state = _State(View(tuple(kept)), state.seq, state.seq, 0, stamp)
            self._version = None
        self._complained = False
        return True

    def _on_disk(self, group: Sequence[Part]) -> Part:
        """Return one part on disk for neighbouring parts. Raises OSError."""
        only = group[0]
        if len(group) == 1 and only.name is not None and len(only.dead) <= _DEAD * len(only.segment):
            return only
        segment = joined(group).segment
        name = manifest.save(self._directory, segment, self._owner, self._vectors)
        return Part.of(Segment.open(self._directory / name, self._owner), name=name)


class _Reading:
    """Changes that were read but are not applied to the state yet."""

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self._documents: dict[str, Document] = {}
        self._gone: set[str] = set()
        self._read = self._characters = 0

    @property
    def full(self) -> bool:
        """Whether they are enough for a segment."""
        return len(self._documents) >= _AT_ONCE or self._characters >= _CHARACTERS

    def add(self, changes: Sequence[tuple[int, str, str | None]], key: Callable[[str], bytes]) -> None:
        """Add changes. Each replaces an earlier change of its id."""
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
        """Return the state after these changes."""
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
    """Group neighbours to merge. Each group is `_GROWTH` times as large as the next, and at most `most` remain."""
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
