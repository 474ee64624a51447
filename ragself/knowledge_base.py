"""Knowledge base in one folder: documents, search, training and versions."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from pathlib import Path, PurePath
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ragself.background.pending import inputs
from ragself.config import Config, ObjectiveName, load, with_generator, with_objective
from ragself.corpus.validate import check, count_queries
from ragself.encoders.encoder import Encoder
from ragself.engine import base_version
from ragself.engine.engine import Engine
from ragself.engine.export import export
from ragself.engine.gc import collect_garbage
from ragself.engine.live import Live
from ragself.engine.rollback import roll_back
from ragself.engine.status import read_status
from ragself.engine.upgrade import upgrade
from ragself.engine.version_store import VersionStore
from ragself.errors import InputError, StoreLocked
from ragself.index.origin import Origin
from ragself.index.origin_sync import verify_origin
from ragself.index.snapshot import Snapshot
from ragself.memory import release_memory
from ragself.monitoring.progress_file import shown_progress
from ragself.monitoring.usage import spending
from ragself.progress import Progress, silent
from ragself.schema import (
    Account,
    Added,
    Chunk,
    Embedding,
    Followed,
    Forecast,
    Hit,
    Mode,
    Report,
    Skipped,
    Status,
    Version,
)
from ragself.telemetry import passes, span
from ragself.versions.registry import Registry

if TYPE_CHECKING:
    from ragself.background.runner import BackgroundAdaptation, BackgroundStatus, Queries

logger = logging.getLogger(__name__)


class KnowledgeBase:
    """Documents, their index and its versions, in one folder. Threads may share one object.

    >>> kb = KnowledgeBase("my-kb")                                  # doctest: +SKIP
    >>> kb.add([Chunk("1", "Limits are 5 requests a second.")])      # doctest: +SKIP
    >>> kb.search("how fast may I call?", k=3)                       # doctest: +SKIP
    """

    def __init__(self, path: str | Path, *, create: bool = True, config: Config | None = None) -> None:
        """Open the knowledge base at `path`.

        Args:
            path: Folder of the knowledge base.
            create: Create it if there is none.
            config: Settings; None reads ``ragself.toml`` in the folder and ``RAGSELF_*``.

        Raises:
            StoreError: There is none and `create` is False, or it is damaged or too new.
            ConfigError: A setting is unknown or out of range.
            EncoderError: The embedding model of a new knowledge base cannot be loaded, or the settings name
                another model than that of an existing one.
        """
        self.path = Path(path).expanduser().absolute()  # stays valid if the working directory changes
        self.engine = Engine(self.path, config, create=create)
        self.config = self.engine.config
        self._background: BackgroundAdaptation | None = None
        self._live = Live(self.engine)
        upgrade(self.engine)

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
        """Open or create the knowledge base at `path`, and add chunks. Errors as of `KnowledgeBase` and `add`."""
        batch = check(list(chunks))  # before anything is created
        kb = cls(path, config=config)
        try:
            kb.add(batch, progress)
        except BaseException:
            kb.close()
            raise
        return kb

    def add(self, chunks: Iterable[Chunk], progress: Progress = silent) -> Added:
        """Add chunks. A chunk replaces the stored one with its id; if both are identical, nothing is done.

        When this returns, the chunks are stored durably and `search` finds them.

        Raises:
            InputError: Duplicate ids, empty texts or metadata that Chroma cannot hold. Nothing was written.
            StoreLocked: Another process is writing.
        """
        batch = check(list(chunks))
        with span("ragself.add"), self.engine.as_writer():
            return self._put(batch, (), progress)

    def add_files(self, paths: Iterable[str | Path], progress: Progress = silent) -> Added:
        """Read files and folders, split them into chunks and add these.

        The chunks of a changed file are replaced. Files that cannot be read are skipped and listed in the result.

        Raises:
            InputError: A path does not exist. Nothing was written.
            StoreLocked: Another process is writing.
        """
        from ragself.corpus.files import find, read  # loading the parsers takes as long as a search
        from ragself.corpus.split import split

        files = find([Path(path) for path in paths])
        with span("ragself.add"), self.engine.as_writer():
            encoder = self._store.base.encoder
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

    def delete_files(self, folders: Iterable[str | Path], keep: Iterable[Path] = (), away: Iterable[Path] = ()) -> int:
        """Delete the chunks of files in some folders. Returns the number of deleted chunks.

        Args:
            folders: Files and folders, which need not exist any more.
            keep: Files whose chunks are kept.
            away: Files and folders of which all chunks are kept.

        Raises:
            StoreLocked: Another process is writing.
        """
        from ragself.corpus.files import source_of

        above, spared = ({PurePath(source_of(Path(path))) for path in paths} for paths in (folders, away))
        kept = {source_of(path) for path in keep}
        with self._live.writing():
            gone = []
            for source in set(self._store.journal.own_sources()) - kept:
                places = {PurePath(source), *PurePath(source).parents}
                if places & above and not places & spared:
                    gone.append(source)
            *_, removed = self._store.journal.put([], gone)
            self._live.update()
            return removed

    def delete(self, ids: Sequence[str]) -> int:
        """Delete chunks by id and ignore unknown ids. Returns the number of deleted chunks.

        Raises:
            InputError: `ids` is not a list of strings, or some belong to the followed collection. Nothing was deleted.
            StoreLocked: Another process is writing.
        """
        if isinstance(ids, str) or not all(isinstance(id, str) for id in ids):
            raise InputError(f"The ids are {ids!r:.60}, expected a list of strings. Nothing was deleted.")
        with self._live.writing():
            self.engine.adopted.refuse(ids)
            count = self._store.journal.delete(ids)
            self._live.update()
            return count

    def ids(self, where: Mapping[str, Any]) -> list[str]:
        """Ids of the chunks that match a Chroma metadata filter. Raises InputError if Chroma refuses the filter."""
        self.engine.check_open()
        return self._live.ask(lambda snapshot: snapshot.index.find(where))

    def _put(self, chunks: list[Chunk], replacing: Sequence[str], progress: Progress) -> Added:
        self.engine.adopted.refuse([chunk.id for chunk in chunks])
        # Encode before taking the turn: if the model fails nothing was written, and no search waits for the encoding.
        self._store.base.documents([chunk.text for chunk in chunks], progress)
        with self._live.writing():
            added, unchanged, removed = self._store.journal.put(chunks, replacing)
            self._live.update(progress)
        truncated = self._store.base.encoder.truncated([chunk.text for chunk in chunks]) if added else []
        return Added(added, unchanged, removed, tuple(chunks[row].id for row in truncated))

    # adopted collection ---------------------------------------------------------------------------

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
        """Open or create a knowledge base that follows a Chroma collection built without ragself.

        ragself never writes to that collection. Its rows show which texts LlamaIndex, LangChain or chromadb embedded.
        Vectors that the base model reproduces are reused, so that a collection of any size is served within minutes.

        Args:
            path: Folder of the knowledge base. If it exists and follows this collection, it is synced.
            collection: A `chromadb.Collection`, or the name of one in `chroma`.
            chroma: Folder or server URL of the database, if `collection` is a name.
            config: Settings. The encoder must be the model that the collection was built with.
            progress: Called with each stage, steps done and total.

        Raises:
            InputError: The collection is empty, holds no text, or was built with another model. Nothing was created.
            StoreError: The collection is missing, or the knowledge base follows another one.
        """
        path = Path(path).expanduser().absolute()
        with closing(Origin.of(collection, chroma)) as origin:
            verified = None
            if not Registry(path).exists:
                base_version.check_folder(path)
                verified = verify_origin(origin, Encoder((config or load(path)).encoder), progress)
            kb = cls(path, config=config)
            kb.engine.adopted.open = None if isinstance(collection, str) else collection
            try:
                kb._sync(origin, progress, verified, wait=False)
            except StoreLocked as error:
                if kb.followed is None:
                    kb.close()
                    raise
                logger.warning("%s is served without the latest changes of the collection: %s", path, error)
            except BaseException:
                kb.close()
                raise
            return kb

    @property
    def followed(self) -> Followed | None:
        """The followed collection, or None."""
        return self.engine.adopted.followed

    def sync(self, collection: Any = None, progress: Progress = silent) -> Added:
        """Apply the changes of the followed collection: added, changed and deleted rows.

        Args:
            collection: The open `chromadb.Collection`; None takes the one that was passed last, or opens it at the
                place it was adopted from.
            progress: Called with each stage, steps done and total.

        Raises:
            InputError: The collection is empty now, or its vectors are from another model. Nothing was changed.
            StoreError: No collection is followed, it is missing, or another one was passed.
            StoreLocked: Another process is writing.
        """
        with closing(self.engine.adopted.origin(collection)) as origin:
            added = self._sync(origin, progress)
        if collection is not None:
            self.engine.adopted.open = collection
        return added

    def _sync(self, origin: Origin, progress: Progress, verified: bool | None = None, *, wait: bool = True) -> Added:
        self.engine.adopted.check(origin)
        with self._live.writing(wait=wait):
            added = self.engine.adopted.take_over(origin, progress, verified)
            self._live.update(progress)
            return added

    # search ---------------------------------------------------------------------------------------

    def search(
        self,
        query: str | Sequence[str],
        k: int = 10,
        where: Mapping[str, Any] | None = None,
        *,
        mode: Mode = "hybrid",
        embedding: Embedding | None = None,
    ) -> list[Hit]:
        """The best `k` chunks for `query` in the live version, best first. Thread-safe.

        Mode ``hybrid`` takes the nearest chunks by vector and the best by words, 100 of each or `k` if that is more,
        and ranks their union by cosine plus two lexical scores, a document language model and BM25:
        `ragself.lexical.hybrid_score`. Mode ``vector`` is one plain vector query, ranked by cosine alone.

        Args:
            query: Text to search for. For several texts, their vectors and their lexical scores are averaged.
            k: Maximum number of hits.
            where: Chroma's metadata filter such as ``{"source": "a.md"}``; None searches all chunks.
            mode: ``hybrid`` or ``vector``.
            embedding: Result of `embed` for the query. If another version is live by now, `query` is encoded instead.
                The words are always those of `query`.

        Raises:
            InputError: The query is empty, `k` is below 1, the mode is unknown, or Chroma does not understand the
                filter.
        """
        if not isinstance(k, int) or k < 1:
            raise InputError(f"k is {k!r}, expected a whole number, 1 or more.")
        if where is not None and not isinstance(where, Mapping):
            raise InputError(f'The filter is {where!r:.60}, expected a dict such as {{"source": "a.md"}}.')
        if mode not in ("hybrid", "vector"):
            raise InputError(f"The mode is {mode!r:.60}, expected 'hybrid' or 'vector'.")
        search = self.engine.hybrid.search if mode == "hybrid" else Snapshot.search
        self.engine.check_open()
        queries = [query] if isinstance(query, str) else query
        with self.engine.traffic.asking(queries, lambda: self._live.number, self._store.registry.live) as answered:
            version, hits = self._live.ask(
                lambda snapshot: (snapshot.version.number, search(snapshot, query, k, where, embedding))
            )
            answered(version)
        return hits

    def refresh(self) -> None:
        """Serve at once what another process has made live; without this call it takes a second."""
        self.engine.check_open()
        with self._live.borrowed(newest=True):
            pass

    def embed(self, query: str | Sequence[str]) -> Embedding:
        """Vector of `query` in the space of the live version, for several searches.

        Raises:
            InputError: The query is empty.
        """
        self.engine.check_open()
        with self._live.borrowed() as snapshot:
            return snapshot.embed(query)

    # training -------------------------------------------------------------------------------------

    def adapt(
        self,
        queries: Iterable[str] | Mapping[str, int] = (),
        progress: Progress = silent,
        *,
        generator: str | Sequence[str] | None = None,
        objective: ObjectiveName | None = None,
        started: str = "python",
    ) -> Report:
        """Run one pass: train on documents and queries, evaluate on held-out probes, switch if the result is better.

        Documents may be added and deleted meanwhile, by this process or another. After a kill, the next call with the
        same documents and queries resumes the pass.

        Args:
            queries: Texts that users searched for, or texts with their counts. No labels.
            progress: Called with each stage, steps done and total.
            generator: Causal language model that supervises: URL of a vLLM server, several URLs of servers of one
                model, or name or path of a model to load. None takes the settings; without a model there, word counts
                are used.
            objective: Training loss: ``distill``, or, with a language model loaded in this process, ``dream`` or
                ``revela``; None takes the settings.
            started: Person or program that started the pass, for the history.

        Returns:
            Decision and metrics of the pass.

        Raises:
            ConfigError: The objective needs a language model in this process, and none is named.
            GeneratorError: The language model cannot be loaded or reached, or the objective cannot be trained with it.
                Its scores so far are kept.
            StoreLocked: Another process is training.
            VerificationError: The new index failed its checks; the live version was not changed.
        """
        from ragself import cycle  # its imports take a second, and only a pass needs them

        config = with_objective(with_generator(self.config, generator), objective)
        given, account = count_queries(queries), Account()
        with (
            self.engine.as_trainer(),
            spending(self.path, account) as note,
            shown_progress(self.path, started, progress, note) as report_progress,
            span("ragself.adapt"),
        ):
            notes, remembered = (
                {"started": started, "seen": inputs(self.engine, given, config)},
                self.recorded_queries(),
            )
            try:
                counts = given + Counter(remembered)
                report = cycle.run(self._store, counts, config, report_progress, notes, account)
            finally:  # queries that were forgotten meanwhile may have been encoded after that
                self._store.base.forget(
                    [query for query in remembered.keys() - self.recorded_queries().keys() if query not in given]
                )
        passes.add(1, {"decision": report.decision})
        self._live.renew()
        release_memory()
        return report

    def recorded_queries(self) -> dict[str, int]:
        """Number of searches for each stored query. Queries are stored only if the setting `queries.log` is on."""
        self.engine.check_open()
        return self.engine.traffic.asked()

    def forget(self, *, matching: str | None = None, before: float | None = None) -> int:
        """Delete stored queries and their vectors. No trace of them is left on disk.

        Args:
            matching: Delete only queries that contain this text, in any case; None is no condition.
            before: Seconds since 1970. Delete only queries last searched before this time; None is no condition.

        Returns:
            Number of deleted queries.

        Raises:
            StoreError: Another process keeps reading the queries: traces are left on disk until this is repeated.
        """
        self.engine.check_open()
        gone: list[str] = []

        def first(queries: list[str]) -> None:  # if it came last, a kill could leave vectors whose queries are gone
            self._store.base.forget(queries)
            gone.extend(queries)

        try:
            self.engine.traffic.forget(matching, before, first)
        finally:
            if gone:
                self.engine.record("forget", f"{len(gone)} queries", "")
        return len(gone)

    def forecast(
        self,
        queries: Iterable[str] | Mapping[str, int] = (),
        progress: Progress = silent,
        *,
        generator: str | Sequence[str] | None = None,
        objective: ObjectiveName | None = None,
    ) -> Forecast:
        """Estimated maximum cost of `adapt` with the same arguments, without running it.

        A language model that has not scored here before is timed on a few texts; their scores are kept.

        Raises:
            ConfigError: The objective needs a language model in this process, and none is named.
            GeneratorError: The language model cannot be loaded or reached.
        """
        from ragself.estimate import forecast

        config = with_objective(with_generator(self.config, generator), objective)
        self.engine.check_open()
        return forecast(self._store, count_queries(queries) + Counter(self.recorded_queries()), config, progress)

    def start_adapting(
        self,
        queries: Queries = (),
        every: float | None = None,
        generator: str | Sequence[str] | None = None,
    ) -> None:
        """Train in the background, in another process, whenever enough is new.

        Training ends with `stop_adapting`, with `close` and with the program.

        Args:
            queries: Texts that users searched for, without answers or labels; or the `pathlib.Path` of a file with one
                query a line; or a function that returns texts. File and function are read whenever a pass may be due.
                Queries stored by `queries.log` are added.
            every: Seconds after which a pass begins if anything is new; None takes `watch.every`, by default a day.
            generator: As for `adapt`.

        Raises:
            InputError: The queries are not strings, or `every` is not above 0.
            StoreError: The knowledge base is closed.
        """
        from ragself.background.runner import BackgroundAdaptation

        if self._background is not None and self._background.active:
            logger.warning("%s is training already, with earlier arguments. Call stop_adapting() first.", self.path)
            return
        self._background = BackgroundAdaptation(self, queries, every=every, generator=generator)
        self._background.start()

    def stop_adapting(self, timeout: float | None = None) -> bool:
        """Stop background training at its next step; what the pass has done is kept.

        Args:
            timeout: Maximum seconds to wait; None waits without limit.

        Returns:
            Whether training has ended.
        """
        return self._background is None or self._background.stop(timeout)

    def adapting(self) -> BackgroundStatus:
        """Progress of background training."""
        from ragself.background.runner import BackgroundStatus

        return BackgroundStatus() if self._background is None else self._background.status()

    def rollback(self, to: int | None = None, *, started: str = "python", reason: str = "") -> Version:
        """Make an earlier version live again. Other processes may write and search meanwhile.

        Args:
            to: Number of the version; None means the one that was live before.
            started: Person or program that started the rollback, for the history.
            reason: Reason, for the history.

        Raises:
            InputError: There is no such version, or it is live.
        """
        self.engine.check_open()
        return roll_back(self.engine, self._live, to, started, reason)

    def pin(self, number: int | None = None, *, started: str = "python", reason: str = "") -> Version:
        """Keep a version live, whatever the results of later passes are. Passes still report what they would have done.

        Args:
            number: Number of the version, which is made live first; None pins the live one.
            started: Person or program that pinned it, for the history.
            reason: Reason, for the history.

        Raises:
            InputError: There is no such version.
        """
        if number is not None and number != self._store.registry.live():
            self.rollback(number, started=started, reason=reason)
        self._pin(True, started, reason or "passes may not replace it")
        return self._store.registry.version(self._store.registry.live())

    def unpin(self, *, started: str = "python", reason: str = "") -> Version:
        """Allow passes to replace the live version again."""
        self._pin(False, started, reason or "passes may replace it")
        return self._store.registry.version(self._store.registry.live())

    def _pin(self, pinned: bool, started: str, reason: str) -> None:
        self.engine.check_open()
        with self._store.turn.taken():
            if self._store.registry.pinned != pinned:
                self._store.registry.pin(pinned, reason, started=started)

    def export(self, directory: str | Path, *, merged: bool = False) -> list[Path]:
        """Export the live version: adapter, word weights, and a model card with loading code.

        Args:
            directory: A new or empty folder.
            merged: Write encoder and adapter as one sentence-transformers model, which loads without ragself. It has
                no word weights.

        Returns:
            The files written.

        Raises:
            InputError: The folder is not empty, or the version cannot be merged.
        """
        store = self._store
        return export(store, self._store.registry.version(self._store.registry.live()), Path(directory), merged=merged)

    @property
    def encoder(self) -> str:
        """Name of the embedding model."""
        return self._store.manifest.encoder

    @property
    def pinned(self) -> bool:
        """Whether passes are kept from replacing the live version."""
        return self._store.registry.pinned

    @property
    def base(self) -> Version:
        """Version 0: the plain base model."""
        return self._store.registry.version(0)

    # maintenance ----------------------------------------------------------------------------------

    def status(self) -> Status:
        """Status: number of documents, versions, last decision, sizes."""
        return read_status(self.path, self.config)

    def history(self) -> list[Mapping[str, Any]]:
        """All decisions with reasons and metrics, oldest first."""
        return self._store.registry.history()

    def gc(self, progress: Progress = silent, *, started: str = "python") -> list[str]:
        """Remove unneeded data: old versions, unfinished builds, queries that are too old, and their vectors.

        Version 0, the live version, the one before it and the newest ``keep_versions`` others are kept. Missing
        collections are rebuilt from the documents.

        Args:
            progress: Called with the stage, steps done and total while a collection is rebuilt.
            started: Person or program that started the clean-up, for the history.

        Returns:
            A line for each thing that was done.
        """
        done = self._collect(progress)
        release_memory()
        if done:
            self.engine.record("gc", "; ".join(done), started)
        return done

    def _collect(self, progress: Progress) -> list[str]:
        self.engine.check_open()
        self.engine.traffic.purge(self._store.base.forget)
        learning = self.engine.training.holder() is not None
        with nullcontext() if learning else self.engine.as_trainer(), self._store.turn.taken():
            if self._store.built(self._store.registry.version(self._store.registry.live())):
                return collect_garbage(self._store, self.config, self.recorded_queries(), progress, learning=learning)
            if not self._store.server:
                self.engine.writer.acquire()
            with self._live.paused():
                self.engine.writer.begin_generation()
                return collect_garbage(self._store, self.config, self.recorded_queries(), progress, learning=learning)

    def close(self) -> None:
        """Stop background training, and release files and the writer's lock. Safe to call twice."""
        self.stop_adapting()
        with self.engine.training.threads, self._store.turn.threads:  # waits for a pass of another thread
            if not self.engine.closed:
                self.engine.closed = True
                with ExitStack() as parts:  # all are closed, even if one fails
                    parts.callback(self.engine.close)
                    self._live.close()

    def __enter__(self) -> KnowledgeBase:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    # inside ---------------------------------------------------------------------------------------

    @property
    def _store(self) -> VersionStore:
        return self.engine.store
