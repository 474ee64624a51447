"""The knowledge base: everything a user does, on one folder."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from ragself import cycle
from ragself.config import Config, load
from ragself.corpus.cache import VectorCache
from ragself.corpus.check import check, check_asked
from ragself.corpus.files import find, read
from ragself.corpus.journal import Journal
from ragself.corpus.split import split
from ragself.errors import InputError, StoreError, StoreLocked
from ragself.forecast import forecast
from ragself.models.encoder import Encoder
from ragself.models.vectors import BaseVectors
from ragself.progress import Progress, silent
from ragself.schema import Added, Chunk, Embedding, Followed, Forecast, Hit, Report, Skipped, Status, Version
from ragself.serve import base
from ragself.serve.adopt import follow_origin, verify_origin
from ragself.serve.collect import collect
from ragself.serve.export import export
from ragself.serve.live import Live
from ragself.serve.lock import WriterLock
from ragself.serve.origin import Origin
from ragself.serve.registry import Registry
from ragself.serve.reindex import follow
from ragself.serve.status import read_status
from ragself.serve.store import Store

logger = logging.getLogger(__name__)

_PATIENCE = 2.0  # seconds to wait for another write of this program where there is something better to do


class KnowledgeBase:
    """Documents, their index and its versions, in one folder. Open it once and share it between threads.

    >>> kb = KnowledgeBase("my-kb")                                  # doctest: +SKIP
    >>> kb.add([Chunk("1", "Limits are 5 requests a second.")])      # doctest: +SKIP
    >>> kb.search("how fast may I call?", k=3)                       # doctest: +SKIP
    """

    def __init__(self, path: str | Path, *, create: bool = True, config: Config | None = None) -> None:
        """Open the knowledge base at `path`.

        Args:
            path: Its folder.
            create: Make it where there is none.
            config: Settings; None reads ``ragself.toml`` in the folder and ``RAGSELF_*``.

        Raises:
            StoreError: There is none and `create` is False, or it is damaged or too new.
            ConfigError: A setting is unknown or out of range.
            EncoderError: A new one is made and the embedding model cannot be loaded, or the settings
                name another model than it was made with.
        """
        self.path = Path(path).expanduser().absolute()  # wherever the program goes
        self._registry = Registry(self.path)
        if not create:
            self._registry.manifest()
        if not self._registry.exists:
            base.check_folder(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"Cannot use {self.path} as a knowledge base: {error}. Choose another folder.") from error
        self.config = config or load(self.path)
        self._lock = WriterLock(self.path)
        self._closed = False
        self.last_sync = Added()  # what the last look at the collection that is followed found
        self._followed: Any = None  # it, open: it may be in memory only, or its server may want a token
        self._write = self._lock.turn
        if not self._registry.exists:
            self._create()
        self._manifest = self._registry.manifest()
        base.check_named(self._manifest, self.config.encoder, str(self.path))
        self._journal = Journal(self.path / "corpus.db")
        self._cache = VectorCache(self.path / "cache.db")
        self._base = BaseVectors(self._encoder, self._manifest.fingerprint, self._manifest.dimension, self._cache)
        self._live = Live(
            self.path, self._registry, self._journal, self._lock, lambda n: self.store().snapshot(n), self._mend
        )

    # documents ------------------------------------------------------------------------------------

    @classmethod
    def from_chunks(
        cls,
        path: str | Path,
        chunks: Iterable[Chunk],
        *,
        config: Config | None = None,
        progress: Progress = silent,
    ) -> KnowledgeBase:
        """The knowledge base at `path`, made where there is none, with these chunks added. Raises what `add` does."""
        batch = check(list(chunks))  # before anything is made
        kb = cls(path, config=config)
        try:
            kb.add(batch, progress)
        except BaseException:
            kb.close()
            raise
        return kb

    def add(self, chunks: Iterable[Chunk], progress: Progress = silent) -> Added:
        """Add chunks; one whose id exists is replaced, one that is there word for word costs nothing.

        When this returns, the chunks are stored durably and `search` finds them.

        Raises:
            InputError: Duplicate ids, empty texts or metadata that Chroma cannot hold. Nothing was written.
            StoreLocked: Another process is writing.
        """
        batch = check(list(chunks))
        with self._writing():
            self._refuse_adopted([chunk.id for chunk in batch])
            return self._put(batch, (), progress)

    def add_files(self, paths: Iterable[str | Path], progress: Progress = silent) -> Added:
        """Read files and folders, split them into chunks and add those.

        A file that changed replaces its earlier chunks. What cannot be read is skipped and named.

        Raises:
            InputError: A path does not exist. Nothing was written.
            StoreLocked: Another process is writing.
        """
        files = find([Path(path) for path in paths])
        with self._writing():
            encoder = self._base.encoder
            skipped: list[Skipped] = []
            chunks: list[Chunk] = []
            sources: list[str] = []
            for done, file in enumerate(files):
                progress("read files", done, len(files))
                document = read(file)
                if isinstance(document, Skipped):
                    skipped.append(document)
                    continue
                sources.append(document.source)
                chunks += split(document, encoder.tokenizer, encoder.max_tokens)
            progress("read files", len(files), len(files))
            self._refuse_adopted([chunk.id for chunk in chunks])
            return replace(self._put(check(chunks), sources, progress), skipped=tuple(skipped))

    def delete(self, ids: Sequence[str]) -> int:
        """Delete chunks by id; ids that are not there are passed over. Returns how many were deleted.

        Raises:
            InputError: They are no list, or belong to the collection that is followed. Nothing was deleted.
            StoreLocked: Another process is writing.
        """
        if isinstance(ids, str) or not all(isinstance(id, str) for id in ids):
            raise InputError(f"The ids are {ids!r:.60}, expected a list of strings. Nothing was deleted.")
        with self._writing():
            self._refuse_adopted(ids)
            count = self._journal.delete(ids)
            self._follow_live(silent)
            return count

    def ids(self, where: Mapping[str, Any]) -> list[str]:
        """Ids of the chunks that a metadata filter of Chroma's finds. Raises InputError where it refuses the filter."""
        self.check_open()
        with self._live.pinned() as snapshot:
            return snapshot.index.find(where)

    def _put(self, chunks: list[Chunk], replacing: Sequence[str], progress: Progress) -> Added:
        # Encode before anything is acknowledged: if the model fails, nothing was written.
        self._base.documents([chunk.text for chunk in chunks], progress)
        added, unchanged, removed = self._journal.put(chunks, replacing)
        self._follow_live(progress)
        truncated = self._base.encoder.truncated([chunk.text for chunk in chunks]) if added else []
        return Added(added, unchanged, removed, tuple(chunks[row].id for row in truncated))

    # somebody else's collection -------------------------------------------------------------------

    @classmethod
    def adopt(
        cls,
        path: str | Path,
        collection: Any,
        *,
        chroma: str | Path | None = None,
        config: Config | None = None,
        progress: Progress = silent,
    ) -> KnowledgeBase:
        """A knowledge base that follows a Chroma collection which was built without ragself, and never writes to it.

        What LlamaIndex, LangChain or chromadb embedded there is found out from the rows. Vectors that the base model
        reproduces are taken over, so that a collection of any size is served within minutes.

        Args:
            path: Folder of the knowledge base. Where there is one that follows this collection, it is brought up to
                date.
            collection: A `chromadb.Collection`, or the name of one in `chroma`.
            chroma: Folder or server URL of the database, where `collection` is a name.
            config: Settings. The encoder must be the model that the collection was built with.
            progress: Told of each stage.

        Raises:
            InputError: The collection is empty, holds no text, or was built with another model. Nothing was made.
            StoreError: The collection is missing, or the knowledge base follows another.
        """
        path = Path(path).expanduser().absolute()
        with closing(Origin.of(collection, chroma)) as origin:
            verified = None
            if not Registry(path).exists:
                base.check_folder(path)
                verified = verify_origin(origin, Encoder((config or load(path)).encoder), progress)
            kb = cls(path, config=config)
            kb._followed = None if isinstance(collection, str) else collection
            try:
                kb._sync(origin, progress, verified, wait=False)
            except StoreLocked as error:
                if kb.followed is None:
                    kb.close()
                    raise
                logger.warning("%s is served as it is, without what is new in the collection: %s", path, error)
            except BaseException:
                kb.close()
                raise
            return kb

    @property
    def followed(self) -> Followed | None:
        """The collection that is followed, or None."""
        return self._registry.origin()

    def sync(self, collection: Any = None, progress: Progress = silent) -> Added:
        """Take over what was added to, changed in and deleted from the collection that is followed.

        Args:
            collection: The open `chromadb.Collection`; None takes the one that was passed last, or opens it where it
                was adopted from.
            progress: Told of each stage.

        Raises:
            InputError: It is empty now, or its vectors are of another model. Nothing was changed.
            StoreError: No collection is followed, or it is missing, or another one.
            StoreLocked: Another process is writing.
        """
        with closing(self._origin(collection)) as origin:
            added = self._sync(origin, progress)
        self._followed = self._followed if collection is None else collection
        return added

    def _origin(self, collection: Any) -> Origin:
        if collection is not None:
            return Origin.of(collection)
        if self._followed is not None:
            return Origin.again(self._followed)
        followed = self._registry.origin()
        if followed is None or followed.place is None:
            found = "follows no collection" if followed is None else "follows a collection in a program's memory"
            raise StoreError(f"{self.path} {found}. Pass the collection: KnowledgeBase.adopt(PATH, COLLECTION).")
        return Origin.open(followed.place, followed.collection, followed.tenant, followed.database)

    def _sync(self, origin: Origin, progress: Progress, verified: bool | None = None, *, wait: bool = True) -> Added:
        followed = self._registry.origin()
        if followed is not None and not _same(followed, origin.place):
            raise StoreError(
                f"{self.path} follows the collection {followed.collection!r} in {followed.place}, not "
                f"{origin.place.collection!r} in {origin.place.place}. Adopt that one into a knowledge base of its own."
            )
        with self._writing(wait=wait):
            if followed is not None and followed.id == origin.place.id:
                flattened = followed.flattened
            else:
                flattened = verify_origin(origin, self._base.encoder, progress) if verified is None else verified
            origin.place = replace(origin.place, flattened=flattened)
            self._registry.follow(origin.place)
            added = follow_origin(origin, self._journal, self._base, progress)
            self._registry.record_sync(added)
            self._follow_live(progress)
            self.last_sync = added
            if added.skipped:
                first = added.skipped[0]
                logger.warning(
                    "%d rows of the collection %s are left out, such as %s: %s",
                    len(added.skipped), origin.place.collection, first.name, first.reason,
                )  # fmt: skip
            return added

    def _refuse_adopted(self, ids: Sequence[str]) -> None:
        adopted, followed = sorted(self._journal.adopted(ids)), self._registry.origin()
        if adopted and followed:
            raise InputError(
                f"{len(adopted)} chunks, such as {adopted[0]!r}, belong to the collection {followed.collection!r}, "
                f"which {self.path} follows. Change them there, then call sync()."
            )

    # search ---------------------------------------------------------------------------------------

    def search(
        self,
        query: str | Sequence[str],
        k: int = 10,
        where: Mapping[str, Any] | None = None,
        *,
        embedding: Embedding | None = None,
    ) -> list[Hit]:
        """The `k` chunks nearest to `query` in the live version, nearest first. Safe from several threads.

        Args:
            query: What to look for; of several texts the middle of their vectors.
            k: At most this many hits.
            where: Chroma's metadata filter such as ``{"source": "a.md"}``; None searches everything.
            embedding: What `embed` made of the query; where another version is live meanwhile, `query` is encoded.

        Raises:
            InputError: An empty query, `k` below 1, or a filter that Chroma does not understand.
        """
        if not isinstance(k, int) or k < 1:
            raise InputError(f"k is {k!r}, expected a whole number, 1 or more.")
        if where is not None and not isinstance(where, Mapping):
            raise InputError(f'The filter is {where!r:.60}, expected a dict such as {{"source": "a.md"}}.')
        self.check_open()
        with self._live.pinned() as snapshot:
            return snapshot.search(query, k, where, embedding)

    def embed(self, query: str | Sequence[str]) -> Embedding:
        """Where `query` lies in the space of the live version, to be searched with several times.

        Raises:
            InputError: An empty query.
        """
        self.check_open()
        with self._live.pinned() as snapshot:
            return snapshot.embed(query)

    # learning -------------------------------------------------------------------------------------

    def adapt(
        self, queries: Iterable[str] = (), progress: Progress = silent, *, generator: str | Sequence[str] | None = None
    ) -> Report:
        """One pass: train on the documents and the queries, judge on held-out probes, switch if better.

        A pass that was killed goes on where it was when it is called again with the same queries.

        Args:
            queries: What users asked; texts only, no labels.
            progress: Told of each stage.
            generator: The causal language model that supervises: URL of a vLLM server, or several of one model, or
                name or path of a model to load; None takes the settings, and with none there words are counted.

        Returns:
            What was done and decided, with all figures.

        Raises:
            GeneratorError: The language model cannot be loaded or reached. What it has said is kept.
            StoreLocked: Another process is writing.
            VerificationError: The new index failed its checks; the live version was not touched.
        """
        config, asked = self._supervised_by(generator), check_asked(queries)
        with self._writing():
            self._follow_live(progress)
            report = cycle.run(self.store(), asked, config, progress)
            self._live.forget()
            return report

    def forecast(
        self, queries: Iterable[str] = (), progress: Progress = silent, *, generator: str | Sequence[str] | None = None
    ) -> Forecast:
        """What `adapt` with the same arguments would cost at most, without doing it.

        A language model that never scored here is timed on a few texts, whose scores are kept.

        Raises:
            GeneratorError: The language model cannot be loaded or reached.
        """
        config = self._supervised_by(generator)
        self.check_open()
        return forecast(self.store(), check_asked(queries), config, progress)

    def rollback(self, to: int | None = None) -> Version:
        """Make an earlier version live again.

        Args:
            to: Its number; None means the one that was live before.

        Raises:
            InputError: There is no such version.
        """
        with self._writing():
            live = self._registry.live()
            target = self._registry.version(self._before(live) if to is None else to)
            if target.number == live:
                raise InputError(f"Version {live} is live already. Versions here: {self._numbers()}.")
            snapshot = self.store().snapshot(target.number)
            follow(self._journal, target.collection, snapshot.index, self._base, snapshot.embedder.adapter)
            self._registry.point(target.number, "rollback", f"from version {live}")
            self._live.forget()
            return target

    def export(self, directory: str | Path) -> list[Path]:
        """Write the live version so that others can use it: adapter, model card, how to load it.

        Args:
            directory: A new or empty folder.

        Returns:
            The files written.

        Raises:
            InputError: The folder is not empty.
        """
        store = self.store()
        return export(store, self._registry.version(self._registry.live()), Path(directory))

    @property
    def encoder(self) -> str:
        """Name of the embedding model."""
        return self._manifest.encoder

    @property
    def base(self) -> Version:
        """Version 0: the base model as it is."""
        return self._registry.version(0)

    # keeping house --------------------------------------------------------------------------------

    def status(self) -> Status:
        """What is here: documents, versions, the last decision, sizes."""
        return read_status(self.path)

    def history(self) -> list[Mapping[str, Any]]:
        """Every decision with its reason and figures, oldest first."""
        return self._registry.history()

    def gc(self, progress: Progress = silent) -> list[str]:
        """Remove what is no longer needed: old versions, unfinished builds, folders that Chroma left behind.

        Version 0, the live one and the newest ``keep_versions`` others stay. Collections that are missing
        are built again from the documents.

        Returns:
            What was done, one line each.
        """
        with self._writing():
            return collect(self.store(), self.config, progress)

    def close(self) -> None:
        """Release files and the writer's lock. Safe to call twice."""
        with self._write:
            if self._closed:
                return
            self._closed = True
            self._live.reconnect()
            self._journal.close()
            self._cache.close()
            self._lock.release()

    def __enter__(self) -> KnowledgeBase:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    # inside ---------------------------------------------------------------------------------------

    def _create(self) -> None:
        self._lock.acquire()
        try:
            base.make(self._registry, self.config.encoder)
        except BaseException:
            self._lock.release()
            raise

    def _encoder(self) -> Encoder:
        return base.load(self._manifest, self.config.encoder, str(self.path))

    def store(self) -> Store:
        """The open parts, for tools that measure; nothing here is stable API."""
        return Store(
            self.path, self._manifest, self._registry, self._journal, self._cache, self._base, self._live.chroma()
        )

    def _supervised_by(self, generator: str | Sequence[str] | None) -> Config:
        if generator is None:
            return self.config
        places = [generator] if isinstance(generator, str) else list(generator)
        return self.config.model_copy(update={"generator": self.config.generator.at(*places)})

    @contextmanager
    def _writing(self, *, wait: bool = True) -> Iterator[None]:
        if not self._write.acquire(timeout=-1 if wait else _PATIENCE):
            raise StoreLocked(f"This program itself is writing to {self.path}. Wait for it; searching is possible.")
        try:
            self.check_open()
            first = not self._lock.held
            self._lock.acquire()
            if first:  # whatever another process wrote before is read afresh
                self._live.reconnect()
            torn = self._journal.unsettled()
            if torn:
                with self._live.paused():
                    self.store().mend(torn)
            yield
        finally:
            self._write.release()

    def _mend(self) -> None:
        """Do what a writer that died has left undone. Raises StoreLocked where another process writes."""
        if not self._write.acquire(blocking=False):  # another thread is about to
            return
        try:
            with self._writing():
                pass
        finally:
            self._lock.release()
            self._write.release()

    def check_open(self) -> None:
        """Raise StoreError where this was closed."""
        if self._closed:
            raise StoreError(f"{self.path} was closed. Open it again: KnowledgeBase({str(self.path)!r}).")

    def _follow_live(self, progress: Progress) -> None:
        with self._live.pinned() as live:
            follow(self._journal, live.version.collection, live.index, self._base, live.embedder.adapter, progress)

    def _before(self, live: int) -> int:
        before = self._registry.before()
        if before is None:
            raise InputError(f"Version {live} has nothing before it. Versions here: {self._numbers()}.")
        return before

    def _numbers(self) -> str:
        return ", ".join(str(version.number) for version in self._registry.versions())


def _same(followed: Followed, place: Followed) -> bool:
    """Whether this is the collection that is followed: it may have been made anew in its place, or moved as it is."""
    if followed.collection != place.collection:
        return False
    at, there = ((one.place, one.tenant, one.database) for one in (followed, place))
    return followed.id == place.id or at == there
