"""The open parts of a knowledge base that building, switching and cleaning work on."""

from __future__ import annotations

import logging
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from ragself.corpus.cache import VectorCache
from ragself.corpus.journal import Journal
from ragself.errors import StoreError
from ragself.models.adapter import Adapter
from ragself.models.embedder import Embedder
from ragself.models.saved import fingerprint
from ragself.models.saved import load as load_adapter
from ragself.models.saved import save as save_adapter
from ragself.models.vectors import BaseVectors
from ragself.progress import Progress, silent
from ragself.schema import Version
from ragself.serve.chroma import Chroma
from ragself.serve.index import Index
from ragself.serve.registry import Manifest, Registry
from ragself.serve.reindex import follow
from ragself.serve.snapshot import Snapshot

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Store:
    """What `KnowledgeBase` opens; the caller holds the writer's lock where anything is written.

    Attributes:
        directory: Folder of the knowledge base.
        manifest: What it is.
        registry: Its versions.
        journal: Its documents.
        cache: Vectors by content.
        base: Base vectors.
        chroma: Its collections.
    """

    directory: Path
    manifest: Manifest
    registry: Registry
    journal: Journal
    cache: VectorCache
    base: BaseVectors
    chroma: Chroma

    def adapter(self, version: Version) -> Adapter | None:
        """Read a version's adapter, None for the plain base model.

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
        return adapter

    def snapshot(self, number: int) -> Snapshot:
        """Open a version for searching. Raises what `adapter` and `Chroma.open` raise."""
        version = self.registry.version(number)
        adapter = self.adapter(version)
        index = self.chroma.open(version.collection, version.fingerprint)
        return Snapshot(version, Embedder(self.base.encoder, adapter), index)

    def build(self, version: Version) -> Index:
        """The collection of a version to fill: as far as it is, or a new one that has followed nothing yet."""
        try:
            return self.chroma.open(version.collection, version.fingerprint)
        except StoreError:
            self.journal.mark_applied(version.collection, 0)
            return self.chroma.create(version.collection, version.fingerprint)

    def rebuild(self, version: Version, progress: Progress = silent) -> int:
        """Build the collection of a version anew from the journal. Returns how many chunks it has."""
        name, adapter = version.collection, self.adapter(version)
        with self.journal.writing(name):  # also while it is empty, and no reader must take it for the whole
            self.chroma.delete(name)
            return follow(self.journal, name, self.build(version), self.base, adapter, progress, "rebuild")

    def mend(self, torn: Set[str]) -> None:
        """Replace collections to which writing broke off: what Chroma has left of them cannot be trusted."""
        versions = [version for version in self.registry.versions() if version.collection in torn]
        for version in versions:
            logger.warning(
                "Writing to the index of version %d broke off; building it again from the documents", version.number
            )
            self.rebuild(version)
        for name in torn - {version.collection for version in versions}:  # of a build, which begins anew
            self.discard(name)

    def discard(self, collection: str) -> None:
        """Delete a collection that no version is to have."""
        self.chroma.delete(collection)
        self.journal.forget(collection)

    def save(self, adapter: Adapter, path: Path) -> None:
        """Write an adapter with what it was trained on top of. Raises StoreError where the disk is full."""
        save_adapter(adapter, path, self.manifest.fingerprint, self.manifest.encoder, self.manifest.revision)
