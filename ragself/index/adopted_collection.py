"""The collection that a knowledge base follows, if any: its location, and applying its changes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ragself.corpus.journal import Journal
from ragself.encoders.vectors import BaseVectors
from ragself.errors import InputError, StoreError
from ragself.index.origin import Origin
from ragself.index.origin_sync import follow_origin, verify_origin
from ragself.progress import Progress
from ragself.schema import Added, Followed
from ragself.versions.registry import Registry

logger = logging.getLogger(__name__)


class AdoptedCollection:
    """A collection that another program fills and the knowledge base follows.

    Attributes:
        last: Result of the last sync.
        open: The open `chromadb.Collection`, which may exist only in memory, or on a server that requires a token;
            None: `origin` opens the collection at its place.
    """

    def __init__(self, path: Path, registry: Registry, journal: Journal, base: BaseVectors) -> None:
        """Store the parts of the knowledge base at `path`."""
        self._path, self._registry, self._journal, self._base = path, registry, journal, base
        self.last = Added()
        self.open: Any = None

    @property
    def followed(self) -> Followed | None:
        """Location of the followed collection, or None."""
        return self._registry.origin()

    def origin(self, collection: Any) -> Origin:
        """Open the followed collection.

        Args:
            collection: The open `chromadb.Collection`; None takes `open`, or else the collection at its place.

        Raises:
            StoreError: No collection is followed, or it is missing.
        """
        if collection is not None:
            return Origin.of(collection)
        if self.open is not None:
            return Origin.again(self.open)
        followed = self.followed
        if followed is None or followed.place is None:
            found = "follows no collection" if followed is None else "follows a collection in a program's memory"
            raise StoreError(f"{self._path} {found}. Pass the collection: KnowledgeBase.adopt(PATH, COLLECTION).")
        return Origin.open(followed.place, followed.collection, followed.tenant, followed.database)

    def check(self, origin: Origin) -> None:
        """Raise StoreError if the knowledge base follows another collection than this."""
        followed = self.followed
        if followed is not None and not _same(followed, origin.place):
            raise StoreError(
                f"{self._path} follows the collection {followed.collection!r} in {followed.place}, not "
                f"{origin.place.collection!r} in {origin.place.place}. Adopt that one into a knowledge base of its own."
            )

    def take_over(self, origin: Origin, progress: Progress, verified: bool | None = None) -> Added:
        """Apply the changes of the collection to the journal, and to nothing else.

        Args:
            origin: The open collection.
            progress: Called with each stage, steps done and total.
            verified: Result of `verify_origin` for it; None if that was not called yet.

        Raises:
            InputError: The collection is empty now, or its vectors are from another model. Nothing was changed.
        """
        followed = self.followed
        if followed is not None and followed.id == origin.place.id:
            flattened = followed.flattened
        else:
            flattened = verify_origin(origin, self._base.encoder, progress) if verified is None else verified
        origin.place = replace(origin.place, flattened=flattened)
        self._registry.set_origin(origin.place)
        self.last = follow_origin(origin, self._journal, self._base, progress)
        self._registry.record_sync(self.last)
        if self.last.skipped:
            first = self.last.skipped[0]
            logger.warning(
                "%d rows of the collection %s are skipped, such as %s: %s",
                len(self.last.skipped), origin.place.collection, first.name, first.reason,
            )  # fmt: skip
        return self.last

    def refuse(self, ids: Sequence[str]) -> None:
        """Raise InputError if some chunks belong to the followed collection: these are changed there only."""
        adopted, followed = sorted(self._journal.adopted(ids)), self.followed
        if adopted and followed:
            raise InputError(
                f"{len(adopted)} chunks, such as {adopted[0]!r}, belong to the collection {followed.collection!r}, "
                f"which {self._path} follows. Change them there, then call sync()."
            )


def _same(followed: Followed, place: Followed) -> bool:
    """Whether `place` is the followed collection, even if it was created again in its place, or moved with its id."""
    if followed.collection != place.collection:
        return False
    at, there = ((one.place, one.tenant, one.database) for one in (followed, place))
    return followed.id == place.id or at == there
