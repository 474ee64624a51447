"""The collection that a knowledge base follows, if it follows one: which it is, and taking over what changed there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ragself.corpus.journal import Journal
from ragself.encoders.vectors import BaseVectors
from ragself.errors import InputError, StoreError
from ragself.index.adopt import follow_origin, verify_origin
from ragself.index.origin import Origin
from ragself.progress import Progress
from ragself.schema import Added, Followed
from ragself.versions.registry import Registry

logger = logging.getLogger(__name__)


class AdoptedCollection:
    """Follows one collection of somebody else's.

    Attributes:
        last: What the last look at it found.
        open: The open `chromadb.Collection`, or None where it is to be opened by its place: it may be in memory only,
            or its server may want a token.
    """

    def __init__(self, path: Path, registry: Registry, journal: Journal, base: BaseVectors) -> None:
        """Name the parts of the knowledge base at `path`."""
        self._path, self._registry, self._journal, self._base = path, registry, journal, base
        self.last = Added()
        self.open: Any = None

    @property
    def followed(self) -> Followed | None:
        """Which it is, or None."""
        return self._registry.origin()

    def origin(self, collection: Any) -> Origin:
        """Open it: the one that is passed, that was passed last, or that is in its place.

        Raises:
            StoreError: None is followed, or it is missing.
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
        """Raise StoreError where another collection is followed than this."""
        followed = self.followed
        if followed is not None and not _same(followed, origin.place):
            raise StoreError(
                f"{self._path} follows the collection {followed.collection!r} in {followed.place}, not "
                f"{origin.place.collection!r} in {origin.place.place}. Adopt that one into a knowledge base of its own."
            )

    def take_over(self, origin: Origin, progress: Progress, verified: bool | None = None) -> Added:
        """Take over what is new in it, in the journal only.

        Args:
            origin: It, open.
            progress: Told of each stage.
            verified: What `verify_origin` has said of it, None where it was not asked yet.

        Raises:
            InputError: It is empty now, or its vectors are of another model. Nothing was changed.
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
                "%d rows of the collection %s are left out, such as %s: %s",
                len(self.last.skipped), origin.place.collection, first.name, first.reason,
            )  # fmt: skip
        return self.last

    def refuse(self, ids: Sequence[str]) -> None:
        """Raise InputError where chunks belong to the collection: they are changed there."""
        adopted, followed = sorted(self._journal.adopted(ids)), self.followed
        if adopted and followed:
            raise InputError(
                f"{len(adopted)} chunks, such as {adopted[0]!r}, belong to the collection {followed.collection!r}, "
                f"which {self._path} follows. Change them there, then call sync()."
            )


def _same(followed: Followed, place: Followed) -> bool:
    """Whether this is the collection that is followed: it may have been made anew in its place, or moved as it is."""
    if followed.collection != place.collection:
        return False
    at, there = ((one.place, one.tenant, one.database) for one in (followed, place))
    return followed.id == place.id or at == there
