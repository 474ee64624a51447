"""Rankings and collections of versions: reading, building, repairing and deleting them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragself.adapters.embedder import Embedder
from ragself.adapters.protocol import Adapter
from ragself.adapters.ranking import Ranking
from ragself.adapters.ranking_file import fingerprint
from ragself.adapters.ranking_file import load as load_ranking
from ragself.adapters.ranking_file import save as save_ranking
from ragself.corpus.journal import REBUILT, Journal
from ragself.encoders.cache import VectorCache
from ragself.encoders.vectors import BaseVectors
from ragself.errors import StoreError
from ragself.index.collection import ChromaCollection
from ragself.index.database import ChromaDatabase
from ragself.index.reindex import apply_changes
from ragself.index.snapshot import Snapshot
from ragself.lexical.index import LexicalIndex
from ragself.progress import Progress, silent
from ragself.schema import Version
from ragself.versions.lock import Turn
from ragself.versions.registry import Manifest, Registry, home, now

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VersionStore:
    """Versions of a knowledge base, with the documents and base vectors that they are built from.

    Changing what is served needs the turn; only the pointer may be changed without it.

    Attributes:
        directory: Folder of the knowledge base.
        manifest: Manifest of the knowledge base.
        registry: Registry of its versions.
        journal: Journal of its documents.
        cache: Cache of vectors, by content.
        base: Base vectors.
        turn: Turn to change what is served.
        server: URL of the Chroma server that holds the vectors; None if each collection has a folder of its own, so
            that any process can build one while another one is searched.
        lexical: Lexical index of the documents, the same for all versions.
    """

    directory: Path
    manifest: Manifest
    registry: Registry
    journal: Journal
    cache: VectorCache
    base: BaseVectors
    turn: Turn
    server: str | None
    lexical: LexicalIndex

    # rankings -------------------------------------------------------------------------------------

    def ranking(self, version: Version) -> Ranking:
        """Read the ranking of a version, ready to encode texts. No encoder is loaded.

        Raises:
            AdapterError: The file is corrupted, or belongs to another encoder.
            StoreError: Encoder, adapter and weights are not those that the version was built with.
        """
        ranking = Ranking()
        if version.kind != "base":
            ranking = load_ranking(self.registry.adapter_path(version.number), self.manifest.fingerprint)
        found = (fingerprint(self.manifest.fingerprint, ranking.adapter), ranking.weights.digest)
        if found != (version.fingerprint, version.weights):
            raise StoreError(
                f"Version {version.number} was built with fingerprint {version.fingerprint} and weights "
                f"{version.weights!r}, but its encoder, adapter and weights now make {found[0]} and {found[1]!r}. "
                "Roll back to another version: ragself rollback --to NUMBER"
            )
        return ranking.bound(self.base)

    def adapter(self, version: Version) -> Adapter | None:
        """Adapter of a version's vectors; None if they are base vectors. Errors as for `ranking`."""
        return self.ranking(version).adapter

    def save(self, ranking: Ranking, path: Path) -> None:
        """Write a ranking, with the identity of its encoder. Raises StoreError if the disk is full."""
        save_ranking(ranking, path, self.manifest.fingerprint, self.manifest.encoder, self.manifest.revision)

    def snapshot(self, number: int, view: int | None = None) -> Snapshot:
        """Open a version for searching; the caller closes it.

        Args:
            number: Number of the version.
            view: As for `ChromaDatabase`.

        Raises:
            AdapterError, StoreError: As for `ranking` and `ChromaDatabase.open`.
        """
        version = self.registry.version(number)
        ranking = self.ranking(version)
        database = ChromaDatabase(self._place(version), create=False, view=view)
        try:
            index = database.open(version.collection, carried(version))
            embedder = Embedder(self.base.encoder, ranking.adapter)
            return Snapshot(version, embedder, index, database, ranking.weights)
        except BaseException:
            database.close()
            raise

    # collections ----------------------------------------------------------------------------------

    def draft(self, number: int, ranking: Ranking, live: Version, figures: Mapping[str, Any] | None = None) -> Version:
        """Write the ranking of a new version, and return the version, which is not registered yet.

        It uses the live collection if its document vectors are the same, else a collection of its own.

        Args:
            number: Number of the new version.
            ranking: Its ranking.
            live: The live version.
            figures: Metrics of the gate; None if no gate evaluated it.
        """
        documents = fingerprint(self.manifest.fingerprint, ranking.documents)
        same = documents == carried(live)
        path = self.registry.adapter_path(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.save(ranking, path)
        return Version(
            number=number,
            kind=ranking.kind,
            collection=live.collection if same else self.manifest.collection(number, self.server),
            fingerprint=fingerprint(self.manifest.fingerprint, ranking.adapter),
            dimension=self.manifest.dimension,
            created=now(),
            figures=dict(figures or {}),
            documents=documents,
            index=home(live) if same else number,
            weights=ranking.weights.digest,
        )

    def shares(self, version: Version, live: Version) -> bool:
        """Whether two versions have one collection, so that switching between them builds nothing."""
        return home(version) == home(live)

    def used(self, version: Version) -> bool:
        """Whether a registered version other than this one has the collection of this one."""
        others = (other for other in self.registry.versions() if other.number != version.number)
        return any(home(other) == home(version) for other in others)

    @contextmanager
    def filling(self, version: Version) -> Iterator[ChromaCollection]:
        """Open the collection of a version to fill it: an existing one with its content, or a new, empty one.

        If the last write to it was interrupted, it is deleted first. A collection that another registered version
        uses, too, is opened unchanged: another process may be writing to it.
        """
        if self.used(version) or self.shares(version, self.registry.pointed()):
            with closing(ChromaDatabase(self._place(version), create=False)) as database:
                yield database.open(version.collection, carried(version))
            return
        if version.collection in self.journal.unsettled():  # a write to it was interrupted
            self._delete(version)
        with self._made(version) as index:
            yield index

    @contextmanager
    def _made(self, version: Version) -> Iterator[ChromaCollection]:
        """Open the collection of a version; create it if there is none."""
        with closing(ChromaDatabase(self._place(version))) as database:
            try:
                index = database.open(version.collection, carried(version))
            except StoreError:
                self.journal.mark_applied(version.collection, 0)
                index = database.create(version.collection, carried(version))
            yield index

    def rebuild(self, version: Version, progress: Progress = silent) -> int:
        """Rebuild the collection of a version from the journal. Returns the number of changes applied."""
        name, adapter = version.collection, self.adapter(version)
        # The first mark keeps readers from opening an incomplete collection, even one that is still empty.
        with self.journal.writing(name + REBUILT), self.journal.writing(name):
            self._delete(version)
            with self._made(version) as index:
                count = apply_changes(self.journal, name, index, self.base, adapter, progress, "rebuild")
        if self.shares(version, self.registry.version(self.registry.live())):
            self.registry.touch()  # makes processes that have the old one open reopen it
        return count

    def repair(self, version: Version) -> None:
        """Rebuild the collection of a version after an interrupted write, because its content cannot be trusted."""
        if self.server is not None:
            ChromaDatabase(self.server).close()  # raises if the server does not answer; then nothing is deleted
        logger.warning(
            "Writing to the index of version %d was interrupted; rebuilding it from the documents", version.number
        )
        self.rebuild(version)

    def built(self, version: Version) -> bool:
        """Whether the collection of a version exists."""
        if self.server is None:
            return (self._folder(version) / "chroma.sqlite3").exists()
        with closing(ChromaDatabase(self.server)) as database:
            return version.collection in database.names()

    def clear(self, version: Version) -> None:
        """Delete the collection of a version, unless another registered version uses it, too."""
        if not self.used(version):
            self._delete(version)
            if not self.registry.registered(home(version)):  # the folder was kept for its collection only
                shutil.rmtree(self.registry.folder(home(version)), ignore_errors=True)

    def remove(self, version: Version) -> None:
        """Unregister a version and delete its files, and its collection unless another version uses it, too."""
        self.registry.remove(version.number)
        self.clear(version)

    def discard(self, number: int) -> None:
        """Delete a version that was never registered, with any collection of its own."""
        if number in self.registry.homes():
            self.registry.remove(number)
            return
        name = self.manifest.collection(number, self.server)
        if self.server is not None:
            self.drop(name)
        shutil.rmtree(self.registry.folder(number), ignore_errors=True)
        self.journal.forget(name)

    def drop(self, collection: str) -> None:
        """Delete a collection from the server."""
        assert self.server is not None
        with closing(ChromaDatabase(self.server)) as database:
            database.delete(collection)

    def _delete(self, version: Version) -> None:
        """Delete the collection of a version, even if other versions use it."""
        if self.server is None:
            shutil.rmtree(self._folder(version), ignore_errors=True)
        else:
            self.drop(version.collection)
        self.journal.forget(version.collection)

    def _place(self, version: Version) -> Path | str:
        return self.server or self._folder(version)

    def _folder(self, version: Version) -> Path:
        return self.registry.folder(home(version)) / "chroma"


def carried(version: Version) -> str:
    """Fingerprint that is stored with the collection of a version."""
    return version.documents or version.fingerprint
