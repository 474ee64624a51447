"""The knowledge base: everything a user does, on one folder."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ragself import cycle
from ragself.config import Config, load
from ragself.corpus.cache import VectorCache
from ragself.corpus.check import check, encodable
from ragself.corpus.files import find, read
from ragself.corpus.journal import Journal
from ragself.corpus.split import split
from ragself.errors import EncoderError, InputError, StoreError
from ragself.forecast import forecast
from ragself.models.embedder import CANARIES, check_canary
from ragself.models.encoder import Encoder
from ragself.models.saved import fingerprint
from ragself.models.vectors import BaseVectors
from ragself.progress import Progress, silent
from ragself.schema import Added, Chunk, Forecast, Hit, Report, Skipped, Status, Version
from ragself.serve.chroma import Chroma
from ragself.serve.collect import collect
from ragself.serve.export import export
from ragself.serve.live import Live
from ragself.serve.lock import WriterLock
from ragself.serve.registry import FORMAT, Manifest, Registry, now
from ragself.serve.reindex import follow
from ragself.serve.status import read_status
from ragself.serve.store import Store


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
        self.path = Path(path)
        self._registry = Registry(self.path)
        if not create:
            self._registry.manifest()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"Cannot use {self.path} as a knowledge base: {error}. Choose another folder.") from error
        self.config = config or load(self.path)
        self._lock = WriterLock(self.path)
        self._closed = False
        self._write = threading.RLock()  # one writing call at a time in this process
        if not self._registry.exists:
            self._create()
        self._manifest = self._registry.manifest()
        named = "model" in self.config.encoder.model_fields_set
        if named and self.config.encoder.model != self._manifest.encoder:
            raise EncoderError(
                f"{self.path} was made with the encoder {self._manifest.encoder!r}, but the settings name "
                f"{self.config.encoder.model!r}. Remove that setting, or make a new knowledge base for the other model."
            )
        self._journal = Journal(self.path / "corpus.db")
        self._cache = VectorCache(self.path / "cache.db")
        self._base = BaseVectors(self._load_encoder, self._manifest.fingerprint, self._manifest.dimension, self._cache)
        self._live = Live(
            self.path, self._registry, self._journal, self._lock, lambda n: self.store().snapshot(n), self._mend
        )

    # documents ------------------------------------------------------------------------------------

    def add(self, chunks: Iterable[Chunk], progress: Progress = silent) -> Added:
        """Add chunks; one whose id exists is replaced, one that is there word for word costs nothing.

        When this returns, the chunks are stored durably and `search` finds them.

        Raises:
            InputError: Duplicate ids, empty texts or metadata that Chroma cannot hold. Nothing was written.
            StoreLocked: Another process is writing.
        """
        batch = check(list(chunks))
        with self._writing():
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
            return replace(self._put(check(chunks), sources, progress), skipped=tuple(skipped))

    def delete(self, ids: Sequence[str]) -> int:
        """Delete chunks by id; ids that are not there are passed over. Returns how many were deleted."""
        with self._writing():
            count = self._journal.delete(ids)
            self._follow_live(silent)
            return count

    def _put(self, chunks: list[Chunk], replacing: Sequence[str], progress: Progress) -> Added:
        # Encode before anything is acknowledged: if the model fails, nothing was written.
        self._base.documents([chunk.text for chunk in chunks], progress)
        added, unchanged, removed = self._journal.put(chunks, replacing)
        self._follow_live(progress)
        truncated = self._base.encoder.truncated([chunk.text for chunk in chunks]) if added else []
        return Added(added, unchanged, removed, tuple(chunks[row].id for row in truncated))

    # search ---------------------------------------------------------------------------------------

    def search(self, query: str, k: int = 10, where: Mapping[str, Any] | None = None) -> list[Hit]:
        """The `k` chunks nearest to `query` in the live version, nearest first. Safe from several threads.

        Args:
            query: What to look for.
            k: At most this many hits.
            where: Chroma's metadata filter such as ``{"source": "a.md"}``; None searches everything.

        Raises:
            InputError: An empty query, `k` below 1, or a filter that Chroma does not understand.
        """
        if not query.strip():
            raise InputError("The query is empty. Give at least one word.")
        if not encodable(query):
            raise InputError("The query holds lone surrogates, which are no Unicode characters.")
        if k < 1:
            raise InputError(f"k is {k}, expected 1 or more.")
        self._check_open()
        with self._live.pinned() as snapshot:
            return snapshot.search(query, k, where)

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
        config = self._supervised_by(generator)
        with self._writing():
            self._follow_live(progress)
            report = cycle.run(self.store(), list(queries), config, progress)
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
        self._check_open()
        return forecast(self.store(), list(queries), config, progress)

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
            encoder = Encoder(self.config.encoder)
            mark = fingerprint(encoder.fingerprint, None)
            base = Version(0, "base", "ragself-v0000", mark, encoder.dimension, now())
            chroma = Chroma(self.path / "chroma")
            chroma.create(base.collection, mark)
            chroma.close()
            canary = [[float(x) for x in row] for row in encoder.documents(CANARIES)]
            name, revision = self.config.encoder.model, encoder.revision
            manifest = Manifest(FORMAT, name, revision, encoder.fingerprint, encoder.dimension, canary, now())
            self._registry.create(manifest, base)
        except BaseException:
            self._lock.release()
            raise

    def _load_encoder(self) -> Encoder:
        made_with = {"model": self._manifest.encoder, "revision": self._manifest.revision}
        settings = self.config.encoder.model_copy(update=made_with)
        encoder = Encoder(settings)
        if encoder.fingerprint != self._manifest.fingerprint:
            raise EncoderError(
                f"{self._manifest.encoder!r} now has fingerprint {encoder.fingerprint}, but {self.path} was built with "
                f"{self._manifest.fingerprint} (revision {self._manifest.revision}): the model has changed. "
                "Put the old model back, or make a new knowledge base."
            )
        check_canary(encoder.documents(CANARIES), np.array(self._manifest.canary, np.float32), encoder.name)
        return encoder

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
    def _writing(self) -> Iterator[None]:
        with self._write:
            self._check_open()
            first = not self._lock.held
            self._lock.acquire()
            if first:  # whatever another process wrote before is read afresh
                self._live.reconnect()
            torn = self._journal.unsettled()
            if torn:
                with self._live.paused():
                    self.store().mend(torn)
            yield

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

    def _check_open(self) -> None:
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
