"""The open parts of a knowledge base that building, switching and cleaning work on."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ragself.corpus.cache import VectorCache
from ragself.corpus.journal import REBUILT, Journal
from ragself.errors import StoreError
from ragself.models.adapter import Adapter
from ragself.models.embedder import Embedder
from ragself.models.lora import bound
from ragself.models.saved import fingerprint
from ragself.models.saved import load as load_adapter
from ragself.models.saved import save as save_adapter
from ragself.models.vectors import BaseVectors
from ragself.progress import Progress, silent
from ragself.schema import Version
from ragself.serve.chroma import Chroma
from ragself.serve.index import Index
from ragself.serve.lock import Turn
from ragself.serve.registry import Manifest, Registry
from ragself.serve.reindex import follow
from ragself.serve.snapshot import Snapshot

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Store:
    """What `KnowledgeBase` opens; nothing but the pointer is changed in what is served without the turn.

    Attributes:
        directory: Folder of the knowledge base.
        manifest: What it is.
        registry: Its versions.
        journal: Its documents.
        cache: Vectors by content.
        base: Base vectors.
        turn: To change what is served.
        server: URL of the Chroma server that holds the vectors; None where each version has a folder of its own,
            so that one can be built, by any process, beside one that is being searched.
    """

    directory: Path
    manifest: Manifest
    registry: Registry
    journal: Journal
    cache: VectorCache
    base: BaseVectors
    turn: Turn
    server: str | None

    def adapter(self, version: Version) -> Adapter | None:
        """Read a version's adapter, None for the plain base model. No encoder is loaded.

        Raises:
            AdapterError: It is corrupted or foreign.
            StoreError: Encoder and adapter do not make the fingerprint that the version was built with.
        """
        adapter = None
        if version.kind != "base":
            adapter = load_adapter(self.registry.adapter_path(version.number), self.manifest.fingerprint)
        found = fingerprint(self.manifest.fingerprint, adapter)
        if found != version.fingerprint:
            raise StoreError(
                f"Version {version.number} was built with fingerprint {version.fingerprint}, but its encoder and "
                f"adapter now make {found}. Roll back to another version: ragself rollback --to NUMBER"
            )
        return bound(adapter, self.base)

    def snapshot(self, number: int, view: int | None = None) -> Snapshot:
        """Open a version for searching; who asked for it closes it.

        Args:
            number: Of the version.
            view: As of `Chroma`.

        Raises:
            AdapterError, StoreError: What `adapter` and `Chroma.open` raise.
        """
        version = self.registry.version(number)
        adapter = self.adapter(version)
        database = Chroma(self._place(version), create=False, view=view)
        try:
            index = database.open(version.collection, version.fingerprint)
            return Snapshot(version, Embedder(self.base.encoder, adapter), index, database)
        except BaseException:
            database.close()
            raise

    @contextmanager
    def filling(self, version: Version) -> Iterator[Index]:
        """The collection of a version to fill: as far as it is, or a new one that has followed nothing yet."""
        if version.collection in self.journal.unsettled():  # writing broke off
            self.clear(version)
        with closing(Chroma(self._place(version))) as database:
            try:
                index = database.open(version.collection, version.fingerprint)
            except StoreError:
                self.journal.mark_applied(version.collection, 0)
                index = database.create(version.collection, version.fingerprint, version.space)
            yield index

    def rebuild(self, version: Version, progress: Progress = silent) -> int:
        """Build the collection of a version anew from the journal. Returns how many chunks it has."""
        name, adapter = version.collection, self.adapter(version)
        # Also while it is empty, and no reader must take it for the whole.
        with self.journal.writing(name + REBUILT), self.journal.writing(name):
            self.clear(version)
            with self.filling(version) as index:
                count = follow(self.journal, name, index, self.base, adapter, progress, "rebuild")
        if version.number == self.registry.live():
            self.registry.touch()  # who has the old one open opens the new
        return count

    def mend(self, version: Version) -> None:
        """Replace the collection of a version to which writing broke off: what is left of it cannot be trusted."""
        if self.server is not None:
            Chroma(self.server).close()  # one that is away is told of instead, once by each who asks
        logger.warning(
            "Writing to the index of version %d broke off; building it again from the documents", version.number
        )
        self.rebuild(version)

    def built(self, version: Version) -> bool:
        """Whether there is a collection of a version."""
        if self.server is None:
            return (self.registry.folder(version.number) / "chroma" / "chroma.sqlite3").exists()
        with closing(Chroma(self.server)) as database:
            return version.collection in database.names()

    def clear(self, version: Version) -> None:
        """Delete the collection of a version."""
        if self.server is None:
            shutil.rmtree(self.registry.folder(version.number) / "chroma", ignore_errors=True)
        else:
            self.drop(version.collection)
        self.journal.forget(version.collection)

    def discard(self, number: int) -> None:
        """Remove a version that was never registered, with what there is of its collection."""
        name = self.manifest.collection(number, self.server)
        if self.server is not None:
            self.drop(name)
        shutil.rmtree(self.registry.folder(number), ignore_errors=True)
        self.journal.forget(name)

    def drop(self, collection: str) -> None:
        """Delete a collection from the server."""
        assert self.server is not None
        with closing(Chroma(self.server)) as database:
            database.delete(collection)

    def save(self, adapter: Adapter, path: Path) -> None:
        """Write an adapter with what it was trained on top of. Raises StoreError where the disk is full."""
        save_adapter(adapter, path, self.manifest.fingerprint, self.manifest.encoder, self.manifest.revision)

    def _place(self, version: Version) -> Path | str:
        return self.server or self.registry.folder(version.number) / "chroma"
