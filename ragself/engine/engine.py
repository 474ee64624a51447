"""The open parts of a knowledge base, and the locks for changing them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ragself.config import Config, load
from ragself.corpus.journal import LEXICAL, Journal
from ragself.corpus.journal_reader import JournalReader
from ragself.encoders.cache import VectorCache
from ragself.encoders.encoder import Encoder
from ragself.encoders.light import LazyEncoder
from ragself.encoders.vectors import BaseVectors
from ragself.engine import base_version
from ragself.engine.version_store import VersionStore
from ragself.errors import StoreError, StoreLocked
from ragself.index.adopted_collection import AdoptedCollection
from ragself.index.hybrid_search import HybridSearch
from ragself.index.snapshot import Snapshot
from ragself.lexical.index import LexicalIndex
from ragself.monitoring.traffic import Traffic
from ragself.versions.lock import ProcessLock, Turn
from ragself.versions.registry import Registry

_AT_CLOSE = 200  # minimum number of unpublished lexical changes for which closing publishes the index
_PATIENCE = 2.0  # seconds to wait for another write of this process if the caller can do without it


class Engine:
    """The parts of a knowledge base, independent of the live version and of the objects that use them.

    Attributes:
        path: Folder of the knowledge base.
        store: Documents, vectors, versions and their collections.
        hybrid: Hybrid search over the documents.
        adopted: The collection that the knowledge base follows, if any.
        traffic: Records of searches and queries.
        writer: Lock of the process that changes documents.
        training: Lock of the process that trains.
        light: Whether to encode a few texts without torch, in a process that does nothing else.
        closed: Whether `close` was called.
    """

    def __init__(self, path: Path, config: Config | None, *, create: bool) -> None:
        """Open the parts, and create the knowledge base if there is none.

        Args:
            path: Absolute path of the folder.
            config: Settings; None reads them from the folder and the environment.
            create: Whether the knowledge base may be created.

        Raises:
            StoreError: There is none and `create` is False, or it is damaged or too new.
            ConfigError: A setting is unknown or out of range.
            EncoderError: The embedding model cannot be loaded, or is not that of the existing knowledge base.
        """
        self.path, registry = path, Registry(path)
        if not create:
            registry.manifest()
        if not registry.exists:
            base_version.check_folder(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"Cannot use {path} as a knowledge base: {error}. Choose another folder.") from error
        self.config = config or load(path)
        self.writer, self.training = ProcessLock(path), ProcessLock(path, "pass")
        self.closed = self.light = False
        self.traffic = Traffic(path, self.config.queries)
        if not registry.exists:
            self._create(registry)
        manifest = registry.manifest()
        base_version.check_named(manifest, self.config.encoder, str(path))
        journal, cache = Journal(path / "corpus.db"), VectorCache(path / "cache.db")
        base = BaseVectors(self._encoder, manifest.fingerprint, manifest.dimension, cache)
        server = manifest.place(self.config.chroma)
        registry.name = lambda number: manifest.collection(number, server)
        lexical = LexicalIndex(path / "lexical", path / "corpus.db", manifest.id, base.key, base.named)
        turn = Turn.of(path)
        self.store = VersionStore(path, manifest, registry, journal, cache, base, turn, server, lexical)
        self.adopted = AdoptedCollection(path, registry, journal, base)
        self._reader = JournalReader(path / "corpus.db")
        self.hybrid = HybridSearch(lexical, base, self._reader)

    def check_open(self) -> None:
        """Raise StoreError if the knowledge base was closed."""
        if self.closed:
            raise StoreError(f"{self.path} was closed. Open it again: KnowledgeBase({str(self.path)!r}).")

    def snapshot(self, number: int) -> Snapshot:
        """Open a version for searching; the caller closes it. Errors as for `VersionStore.snapshot`."""
        return self.store.snapshot(number, self.writer.generation)

    def record(self, event: str, reason: str, started: str) -> None:
        """Record an event of the live version in the history."""
        registry = self.store.registry
        registry.record(event, registry.live(), reason, started=started)

    @contextmanager
    def as_writer(self, *, wait: bool = True) -> Iterator[None]:
        """Exclude other threads that change documents, and, without a server, other processes. Searches continue.

        Args:
            wait: Wait for another thread of this process without limit.

        Raises:
            StoreLocked: Another process is writing, or, without `wait`, another thread.
            StoreError: The knowledge base was closed.
        """
        threads = self.store.turn.threads
        if not threads.acquire(timeout=-1 if wait else _PATIENCE):
            raise StoreLocked(
                f"Another thread of this program is writing to {self.path}. Wait for it; searching is possible."
            )
        try:
            self.check_open()
            if not self.store.server:
                self.writer.acquire()
            yield
        finally:
            threads.release()

    @contextmanager
    def as_trainer(self) -> Iterator[None]:
        """Exclude other threads and processes that train.

        Raises:
            StoreLocked: Another process is training.
            StoreError: The knowledge base was closed.
        """
        self.check_open()
        with self.training.threads:
            held = self.training.held
            self.training.acquire()
            try:
                yield
            finally:
                if not held:
                    self.training.release()

    def publish_words(self, least: int | None = None) -> None:
        """Publish the lexical index if this process may write and enough changes are unpublished.

        Args:
            least: Minimum number of unpublished changes; None takes the default of `LexicalIndex.checkpoint`.
        """
        lexical = self.store.lexical
        if not (self.store.server or self.writer.here or self.writer.holder() is None):
            return
        if lexical.checkpoint() if least is None else lexical.checkpoint(least):
            self.store.journal.mark_applied(LEXICAL, lexical.seq)

    def close(self) -> None:
        """Release files and locks. Close the open snapshot first."""
        self.closed = True
        with ExitStack() as parts:  # all are closed, even if one fails; in reverse order
            store = self.store
            for part in (
                self.writer.release, store.cache.close, store.journal.close, self._reader.close, store.lexical.close
            ):  # fmt: skip
                parts.callback(part)
            self.traffic.close()
            with suppress(StoreError):  # the next process reads unpublished changes from the journal
                self.publish_words(_AT_CLOSE)

    def _create(self, registry: Registry) -> None:
        self.writer.acquire()
        try:
            if not registry.exists:  # not created by another process meanwhile
                base_version.make(registry, self.config)
        except BaseException:
            self.writer.release()
            raise
        if self.config.chroma:  # several processes may write
            self.writer.release()

    def _encoder(self) -> Encoder:
        if not self.light:
            return self._full_encoder()
        manifest = self.store.manifest
        return LazyEncoder(lambda: base_version.light(manifest), self._full_encoder, manifest.dimension)

    def _full_encoder(self) -> Encoder:
        return base_version.load(self.store.manifest, self.config.encoder, str(self.path))
