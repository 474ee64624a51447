"""The knowledge base: everything a user does, on one folder."""

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
from ragself.index.adopt import verify_origin
from ragself.index.origin import Origin
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
        self.path = Path(path).expanduser().absolute()  # also where the program changes its folder
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
        with span("ragself.add"), self.engine.as_writer():
            return self._put(batch, (), progress)

    def add_files(self, paths: Iterable[str | Path], progress: Progress = silent) -> Added:
        """Read files and folders, split them into chunks and add those.

        A file that changed replaces its earlier chunks. What cannot be read is skipped and named.

        Raises:
            InputError: A path does not exist. Nothing was written.
            StoreLocked: Another process is writing.
        """
        from ragself.corpus.files import find, read  # parsers of files take as long to load as a search
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
        """Delete the chunks of files below some folders. Returns how many were deleted.

        Args:
            folders: Files and folders, which need not exist any more.
            keep: Files whose chunks stay.
            away: Files and folders below which all chunks stay.

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
        """Delete chunks by id; ids that are not there are passed over. Returns how many were deleted.

        Raises:
            InputError: They are no list, or belong to the collection that is followed. Nothing was deleted.
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
        """Ids of the chunks that a metadata filter of Chroma's finds. Raises InputError where it refuses the filter."""
        self.engine.check_open()
        return self._live.ask(lambda snapshot: snapshot.index.find(where))

    def _put(self, chunks: list[Chunk], replacing: Sequence[str], progress: Progress) -> Added:
        self.engine.adopted.refuse([chunk.id for chunk in chunks])
        # Encode before anything is acknowledged: if the model fails nothing was written, and nobody waits for it.
        self._store.base.documents([chunk.text for chunk in chunks], progress)
        with self._live.writing():
            added, unchanged, removed = self._store.journal.put(chunks, replacing)
            self._live.update(progress)
        truncated = self._store.base.encoder.truncated([chunk.text for chunk in chunks]) if added else []
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
                logger.warning("%s is served as it is, without what is new in the collection: %s", path, error)
            except BaseException:
                kb.close()
                raise
            return kb

    @property
    def followed(self) -> Followed | None:
        """The collection that is followed, or None."""
        return self.engine.adopted.followed

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
        """The best `k` chunks for `query` in the live version, best first. Safe from several threads.

        Mode ``hybrid`` takes the nearest chunks by vector and the best by words, 100 of each or `k` where that is more,
        and ranks their union by cosine plus two lexical scores, a document language model and BM25:
        `ragself.lexical.law`. Mode ``vector`` is one plain vector query, ranked by cosine alone.

        Args:
            query: What to look for. Of several texts the middle of their vectors counts, and the mean of their lexical
                scores.
            k: At most this many hits.
            where: Chroma's metadata filter such as ``{"source": "a.md"}``; None searches everything.
            mode: ``hybrid`` or ``vector``.
            embedding: What `embed` made of the query; where another version is live meanwhile, `query` is encoded.
                Words are those of `query` in any case.

        Raises:
            InputError: An empty query, `k` below 1, another mode, or a filter that Chroma does not understand.
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
        """See at once what another process has made live; without this it takes a second."""
        self.engine.check_open()
        with self._live.pinned(newest=True):
            pass

    def embed(self, query: str | Sequence[str]) -> Embedding:
        """Where `query` lies in the space of the live version, to be searched with several times.

        Raises:
            InputError: An empty query.
        """
        self.engine.check_open()
        with self._live.pinned() as snapshot:
            return snapshot.embed(query)

    # learning -------------------------------------------------------------------------------------

    def adapt(
        self,
        queries: Iterable[str] | Mapping[str, int] = (),
        progress: Progress = silent,
        *,
        generator: str | Sequence[str] | None = None,
        objective: ObjectiveName | None = None,
        started: str = "python",
    ) -> Report:
        """One pass: train on the documents and the queries, judge on held-out probes, switch if better.

        Documents may be added and deleted meanwhile, by this process or another. A pass that was killed goes on where
        it was when it is called again with the same documents and queries.

        Args:
            queries: What users asked; texts only, no labels.
            progress: Told of each stage.
            generator: The causal language model that supervises: URL of a vLLM server, or several of one model, or
                name or path of a model to load; None takes the settings, and with none there words are counted.
            objective: What is lowered in training: ``distill``, or, with a language model that is loaded here,
                ``dream`` or ``revela``; None takes the settings.
            started: Who or what started it, for the history.

        Returns:
            What was done and decided, with all figures.

        Raises:
            ConfigError: The objective needs a language model in this process, and none is named.
            GeneratorError: The language model cannot be loaded or reached, or the objective cannot be learned with it.
                What it has said is kept.
            StoreLocked: Another process is learning.
            VerificationError: The new index failed its checks; the live version was not touched.
        """
        from ragself import cycle  # what only a pass needs takes a second to load

        config = with_objective(with_generator(self.config, generator), objective)
        given, account = count_queries(queries), Account()
        with (
            self.engine.as_trainer(),
            spending(self.path, account) as note,
            shown_progress(self.path, started, progress, note) as told,
            span("ragself.adapt"),
        ):
            notes, remembered = {"started": started, "seen": inputs(self.engine, given, config)}, self.asked()
            try:
                asked = given + Counter(remembered)
                report = cycle.run(self._store, asked, config, told, notes, account)
            finally:  # what was forgotten meanwhile may have been encoded after that
                self._store.base.forget(
                    [query for query in remembered.keys() - self.asked().keys() if query not in given]
                )
        passes.add(1, {"decision": report.decision})
        self._live.renew()
        release_memory()
        return report

    def asked(self) -> dict[str, int]:
        """The queries of `search` that are remembered, and how often each was asked; none unless `queries.log`."""
        self.engine.check_open()
        return self.engine.traffic.asked()

    def forget(self, *, matching: str | None = None, before: float | None = None) -> int:
        """Forget queries that are remembered, and their vectors. Nothing of them is left on disk.

        Args:
            matching: Those that contain this text, whatever its case; None is no condition.
            before: Those last asked before this time, seconds since 1970; None is no condition.

        Returns:
            How many were forgotten.

        Raises:
            StoreError: Another process keeps on reading them, so that something is left on disk until this is repeated.
        """
        self.engine.check_open()
        gone: list[str] = []

        def first(queries: list[str]) -> None:  # were it last, a kill would leave vectors that nobody can name
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
        """What `adapt` with the same arguments would cost at most, without doing it.

        A language model that never scored here is timed on a few texts, whose scores are kept.

        Raises:
            ConfigError: The objective needs a language model in this process, and none is named.
            GeneratorError: The language model cannot be loaded or reached.
        """
        from ragself.estimate import forecast

        config = with_objective(with_generator(self.config, generator), objective)
        self.engine.check_open()
        return forecast(self._store, count_queries(queries) + Counter(self.asked()), config, progress)

    def start_adapting(
        self,
        queries: Queries = (),
        every: float | None = None,
        generator: str | Sequence[str] | None = None,
    ) -> None:
        """Train in the background, in a process of its own, whenever enough is new.

        It ends with `stop_adapting`, with `close` and with the program.

        Args:
            queries: What users asked, no answers, no labels: texts, or the `pathlib.Path` of a file with one a line, or
                a function; file and function are read whenever a pass may be due. Queries that `queries.log` remembers
                are added.
            every: Seconds after which a pass begins where anything is new; None takes `watch.every`, a day.
            generator: URL of a vLLM server, or name or path of a causal language model; None counts words.

        Raises:
            InputError: The queries are no strings, or `every` is not above 0.
            StoreError: The knowledge base is closed.
        """
        from ragself.background.runner import BackgroundAdaptation

        if self._background is not None and self._background.goes_on:
            logger.warning("%s is training already, with its first arguments. Call stop_adapting() first.", self.path)
            return
        self._background = BackgroundAdaptation(self, queries, every=every, generator=generator)
        self._background.start()

    def stop_adapting(self, timeout: float | None = None) -> bool:
        """Stop training in the background at its next step; what is done so far is kept.

        Args:
            timeout: Seconds to wait; None waits until it has ended.

        Returns:
            Whether it has ended.
        """
        return self._background is None or self._background.stop(timeout)

    def adapting(self) -> BackgroundStatus:
        """Progress of training in the background."""
        from ragself.background.runner import BackgroundStatus

        return BackgroundStatus() if self._background is None else self._background.status()

    def rollback(self, to: int | None = None, *, started: str = "python", reason: str = "") -> Version:
        """Make an earlier version live again; also while another process writes, or searches.

        Args:
            to: Its number; None means the one that was live before.
            started: Who or what started it, for the history.
            reason: Why, for the history.

        Raises:
            InputError: There is no such version.
        """
        self.engine.check_open()
        return roll_back(self.engine, self._live, to, started, reason)

    def pin(self, number: int | None = None, *, started: str = "python", reason: str = "") -> Version:
        """Keep a version live whatever later passes find. They go on, and say what they would have done.

        Args:
            number: Of the version, which is rolled back to; None pins the live one.
            started: Who or what started it, for the history.
            reason: Why, for the history.

        Raises:
            InputError: There is no such version.
        """
        if number is not None and number != self._store.registry.live():
            self.rollback(number, started=started, reason=reason)
        self._pin(True, started, reason or "passes may not replace it")
        return self._store.registry.version(self._store.registry.live())

    def unpin(self, *, started: str = "python", reason: str = "") -> Version:
        """Let passes replace the live version again."""
        self._pin(False, started, reason or "passes may replace it")
        return self._store.registry.version(self._store.registry.live())

    def _pin(self, pinned: bool, started: str, reason: str) -> None:
        self.engine.check_open()
        with self._store.turn.taken():
            if self._store.registry.pinned != pinned:
                self._store.registry.pin(pinned, reason, started=started)

    def export(self, directory: str | Path, *, merged: bool = False) -> list[Path]:
        """Write the live version so that others can use it: adapter, word weights, model card, how to load it.

        Args:
            directory: A new or empty folder.
            merged: Write encoder and adapter as one sentence-transformers model, to be loaded without ragself. Word
                weights are not part of it.

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
        """Whether no pass may replace the live version."""
        return self._store.registry.pinned

    @property
    def base(self) -> Version:
        """Version 0: the base model as it is."""
        return self._store.registry.version(0)

    # keeping house --------------------------------------------------------------------------------

    def status(self) -> Status:
        """What is here: documents, versions, the last decision, sizes."""
        return read_status(self.path, self.config)

    def history(self) -> list[Mapping[str, Any]]:
        """Every decision with its reason and figures, oldest first."""
        return self._store.registry.history()

    def gc(self, progress: Progress = silent, *, started: str = "python") -> list[str]:
        """Remove what is no longer needed: old versions, unfinished builds, queries that are too old, their vectors.

        Version 0, the live one, the one before it and the newest ``keep_versions`` others stay. Collections that are
        missing are built again from the documents.

        Args:
            progress: Told of what is built again.
            started: Who or what started it, for the history.

        Returns:
            What was done, one line each.
        """
        done = self._collect(progress)
        release_memory()
        if done:
            self._store.registry.record("gc", self._store.registry.live(), "; ".join(done), started=started)
        return done

    def _collect(self, progress: Progress) -> list[str]:
        self.engine.check_open()
        self.engine.traffic.purge(self._store.base.forget)
        learning = self.engine.training.holder() is not None
        with nullcontext() if learning else self.engine.as_trainer(), self._store.turn.taken():
            if self._store.built(self._store.registry.version(self._store.registry.live())):
                return collect_garbage(self._store, self.config, self.asked(), progress, learning=learning)
            if not self._store.server:
                self.engine.writer.acquire()
            with self._live.paused():
                self.engine.writer.begin_generation()
                return collect_garbage(self._store, self.config, self.asked(), progress, learning=learning)

    def close(self) -> None:
        """Stop training in the background, release files and the writer's lock. Safe to call twice."""
        self.stop_adapting()
        with self.engine.training.threads, self._store.turn.threads:  # a pass of another thread comes to its end
            if not self.engine.closed:
                self.engine.closed = True
                with ExitStack() as parts:  # all are closed, whatever happens to one
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
