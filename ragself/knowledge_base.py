"""The knowledge base: everything a user does, on one folder."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path, PurePath
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ragself.config import Config, ObjectiveName, aimed, load
from ragself.corpus.journal import LEXICAL, Journal
from ragself.corpus.journal_reader import JournalReader
from ragself.corpus.validate import check, check_asked
from ragself.encoders.cache import VectorCache
from ragself.encoders.encoder import Encoder
from ragself.encoders.light import LazyEncoder
from ragself.encoders.vectors import BaseVectors
from ragself.engine import base_version as base
from ragself.engine.engine import Store
from ragself.engine.export import export
from ragself.engine.gc import collect_garbage
from ragself.engine.status import read_status
from ragself.errors import InputError, RagselfError, StoreError, StoreLocked
from ragself.index.adopt import verify_origin
from ragself.index.hybrid import HybridSearch
from ragself.index.live import Live
from ragself.index.origin import Origin
from ragself.index.reindex import apply_changes
from ragself.index.snapshot import Snapshot
from ragself.index.sync import Following
from ragself.lexical.index import LexicalIndex
from ragself.memory import gc_paused, release_memory
from ragself.monitoring.progress_file import shown_progress
from ragself.monitoring.search_log import SIGNALS, SignalLog
from ragself.monitoring.traffic import Traffic
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
    Pending,
    Report,
    Review,
    Skipped,
    Status,
    Version,
)
from ragself.telemetry import passes, span
from ragself.versions.lock import ProcessLock, Turn
from ragself.versions.registry import Registry

if TYPE_CHECKING:
    from ragself.background.runner import BackgroundAdaptation, BackgroundStatus, Queries

logger = logging.getLogger(__name__)

_AT_THE_END = 200  # changes that the index of words has not published yet, so that the next process need not read them
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
        self._lock = ProcessLock(self.path)
        self._learning = ProcessLock(self.path, "pass")
        self._turn = Turn.of(self.path)
        self._closed = False
        self._background: BackgroundAdaptation | None = None
        self._light = False  # whether a few texts are encoded without torch, by a process that does nothing else
        self._traffic = Traffic(self.path, self.config.queries)
        if not self._registry.exists:
            self._create()
        self._manifest = self._registry.manifest()
        base.check_named(self._manifest, self.config.encoder, str(self.path))
        self._journal = Journal(self.path / "corpus.db")
        self._cache = VectorCache(self.path / "cache.db")
        self._base = BaseVectors(self._encoder, self._manifest.fingerprint, self._manifest.dimension, self._cache)
        self._following = Following(self.path, self._registry, self._journal, self._base)
        self._server = self._manifest.place(self.config.chroma)
        self._registry.name = lambda number: self._manifest.collection(number, self._server)
        self._lexical = LexicalIndex(
            self.path / "lexical", self.path / "corpus.db", self._manifest.id, self._base.key, self._base.named
        )
        self._reader = JournalReader(self.path / "corpus.db")
        self._hybrid = HybridSearch(self._lexical, self._base, self._reader)
        self._live = Live(
            self._registry, self._journal, self._lock, self._turn, self._open, self._repair, shared=bool(self._server)
        )
        self._bring_up_to_date()

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
        with span("ragself.add"), self._as_writer():
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
        with span("ragself.add"), self._as_writer():
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
        with self._writing():
            gone = []
            for source in set(self._journal.own_sources()) - kept:
                places = {PurePath(source), *PurePath(source).parents}
                if places & above and not places & spared:
                    gone.append(source)
            *_, removed = self._journal.put([], gone)
            self._update_live(silent)
            return removed

    def delete(self, ids: Sequence[str]) -> int:
        """Delete chunks by id; ids that are not there are passed over. Returns how many were deleted.

        Raises:
            InputError: They are no list, or belong to the collection that is followed. Nothing was deleted.
            StoreLocked: Another process is writing.
        """
        if isinstance(ids, str) or not all(isinstance(id, str) for id in ids):
            raise InputError(f"The ids are {ids!r:.60}, expected a list of strings. Nothing was deleted.")
        with self._writing():
            self._following.refuse(ids)
            count = self._journal.delete(ids)
            self._update_live(silent)
            return count

    def ids(self, where: Mapping[str, Any]) -> list[str]:
        """Ids of the chunks that a metadata filter of Chroma's finds. Raises InputError where it refuses the filter."""
        self.check_open()
        return self._live.ask(lambda snapshot: snapshot.index.find(where))

    def _put(self, chunks: list[Chunk], replacing: Sequence[str], progress: Progress) -> Added:
        self._following.refuse([chunk.id for chunk in chunks])
        # Encode before anything is acknowledged: if the model fails nothing was written, and nobody waits for it.
        self._base.documents([chunk.text for chunk in chunks], progress)
        with self._writing():
            added, unchanged, removed = self._journal.put(chunks, replacing)
            self._update_live(progress)
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
            kb._following.open = None if isinstance(collection, str) else collection
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
        return self._following.followed

    @property
    def last_sync(self) -> Added:
        """What the last look at the collection that is followed found."""
        return self._following.last

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
        with closing(self._following.origin(collection)) as origin:
            added = self._sync(origin, progress)
        if collection is not None:
            self._following.open = collection
        return added

    def _sync(self, origin: Origin, progress: Progress, verified: bool | None = None, *, wait: bool = True) -> Added:
        self._following.check(origin)
        with self._writing(wait=wait):
            added = self._following.take_over(origin, progress, verified)
            self._update_live(progress)
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
        search = self._hybrid.search if mode == "hybrid" else Snapshot.search
        self.check_open()
        queries = [query] if isinstance(query, str) else query
        with self._traffic.asking(queries, lambda: self._live.number, self._registry.live) as answered:
            version, hits = self._live.ask(
                lambda snapshot: (snapshot.version.number, search(snapshot, query, k, where, embedding))
            )
            answered(version)
        return hits

    def refresh(self) -> None:
        """See at once what another process has made live; without this it takes a second."""
        self.check_open()
        with self._live.pinned(newest=True):
            pass

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
        self,
        queries: Iterable[str] = (),
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

        config = aimed(self._supervised_by(generator), objective)
        given, account = check_asked(queries), Account()
        with (
            self._alone_in_learning(),
            spending(self.path, account) as note,
            shown_progress(self.path, started, progress, note) as told,
            span("ragself.adapt"),
        ):
            notes, remembered = {"started": started, "seen": self._seen(given, config)}, self.asked()
            try:
                asked = Counter(given) + Counter(remembered)
                report = cycle.run(self.store(), asked, config, told, notes, account)
            finally:  # what was forgotten meanwhile may have been encoded after that
                self._base.forget([query for query in remembered.keys() - self.asked().keys() if query not in given])
        passes.add(1, {"decision": report.decision})
        self._live.renew()
        release_memory()
        return report

    def news(
        self, queries: Iterable[str] = (), *, generator: str | Sequence[str] | None = None
    ) -> tuple[Pending, float | None]:
        """What `adapt` with the same arguments would see that the last pass has not; and when that ended.

        Returns:
            The news, and seconds since 1970, None where there was no pass.
        """
        self.check_open()
        now = self._seen(check_asked(queries), self._supervised_by(generator))
        last = next((event for event in reversed(self._registry.history()) if "seen" in event), None)
        if last is None:
            return Pending(len(self._journal), now["queries"]), None
        seen = last["seen"]
        other = next((f"other {what}" for what in ("settings", "given") if seen[what] != now[what]), "")
        news = Pending(self._journal.pending(seen["head"]), max(now["queries"] - seen["queries"], 0), other)
        return news, datetime.fromisoformat(last["at"]).timestamp()

    def _seen(self, given: Sequence[str], config: Config) -> dict[str, Any]:
        """What a pass sees, for the history."""
        settings = config.model_dump(mode="json", exclude={"watch": True, "queries": True, "generator": {"pairs"}})
        return {
            "head": self._journal.head,
            "queries": self.total_queries(),
            "given": _digest(sorted(given)),
            "settings": _digest(settings),
        }

    def review(self, progress: Progress = silent, *, generator: str | Sequence[str] | None = None) -> Review | None:
        """Compare the live version with the one that it replaced, by remembered queries that were asked since.

        Returns:
            None where the live version was not promoted, the one before it is gone, or too few were asked.

        Raises:
            GeneratorError: The language model cannot be loaded or reached.
        """
        from ragself import review

        event = self._registry.promotion()
        if event is None:
            return None
        queries = self._traffic.asked(datetime.fromisoformat(event["at"]).timestamp())
        try:
            version, before = (self._registry.version(event[key]) for key in ("version", "before"))
        except InputError:  # the one before was removed, or is of an earlier ragself
            return None
        weight, account = float(event["report"]["weight"]["weight"]), Account()
        config = self._supervised_by(generator)
        with spending(self.path, account):
            return review.review(self.store(), version, before, weight, queries, config, progress, account)

    def blocked_reason(self) -> str | None:
        """Why `adapt` would find nothing to learn from, as far as that can be told at once; None where it may."""
        from ragself.cycle import too_few

        self.check_open()
        return too_few(len(self._journal))

    def spent(self, within: float) -> tuple[float, int]:
        """What recent passes have taken, also those that failed, were stopped or died.

        Args:
            within: Seconds up to now.

        Returns:
            Seconds of processor time, and tokens that a language model read.
        """
        self.check_open()
        now = time.time()
        with closing(SignalLog(self.path / SIGNALS)) as log:
            return log.spent(now - within, now)

    def promotion(self) -> Mapping[str, Any] | None:
        """The event of the history that made the live version live, if that was a promotion."""
        return self._registry.promotion()

    def asked(self) -> dict[str, int]:
        """The queries of `search` that are remembered, and how often each was asked; none unless `queries.log`."""
        self.check_open()
        return self._traffic.asked()

    def total_queries(self) -> int:
        """How many queries were ever remembered, each wording once, also those that are forgotten."""
        self.check_open()
        return self._traffic.total

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
        self.check_open()
        gone: list[str] = []

        def first(queries: list[str]) -> None:  # were it last, a kill would leave vectors that nobody can name
            self._base.forget(queries)
            gone.extend(queries)

        try:
            self._traffic.forget(matching, before, first)
        finally:
            if gone:
                self.record("forget", f"{len(gone)} queries", "")
        return len(gone)

    def forecast(
        self,
        queries: Iterable[str] = (),
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

        config = aimed(self._supervised_by(generator), objective)
        self.check_open()
        return forecast(self.store(), Counter(check_asked(queries)) + Counter(self.asked()), config, progress)

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
        self.check_open()
        stamp, live = self._registry.stamp(), self._registry.live()
        target = self._registry.version(self._before(live) if to is None else to)
        if target.number == live:
            raise InputError(f"Version {live} is live already. Versions here: {self._numbers()}.")
        store = self.store()
        store.ranking(target)  # raises where it cannot be read
        with self._turn.taken():  # nobody else writes to it now
            self._prepare(store, target)
        with self._live.prepared(target.number) as snapshot, self._turn.taken(), gc_paused():  # warm by now
            if self._registry.stamp() != stamp:
                raise StoreError(f"Version {self._registry.live()} has become live meanwhile. Try again.")
            apply_changes(self._journal, target.collection, snapshot.index, self._base, snapshot.embedder.adapter)
            why = f"from version {live}" + (f": {reason}" if reason else "")
            self._registry.point(target.number, "rollback", why, started=started)
            self._live.switch(snapshot)
        return target

    def _prepare(self, store: Store, target: Version) -> None:
        """Bring the collection of a version up to the documents; nothing is to be done where the live one has it."""
        shared = store.shares(target, self._registry.pointed())
        if target.collection in self._journal.unsettled() or not store.built(target):  # writing to it broke off
            with self._live.paused() if shared else nullcontext():
                store.repair(target)
                self._lock.begin_generation()
        if shared and not self._journal.pending(self._journal.applied(target.collection)):
            return
        with store.filling(target) as index:
            if apply_changes(self._journal, target.collection, index, self._base, store.adapter(target)):
                self._lock.begin_generation()  # what this process has open of it does not show that

    def pin(self, number: int | None = None, *, started: str = "python", reason: str = "") -> Version:
        """Keep a version live whatever later passes find. They go on, and say what they would have done.

        Args:
            number: Of the version, which is rolled back to; None pins the live one.
            started: Who or what started it, for the history.
            reason: Why, for the history.

        Raises:
            InputError: There is no such version.
        """
        if number is not None and number != self._registry.live():
            self.rollback(number, started=started, reason=reason)
        self._pin(True, started, reason or "passes may not replace it")
        return self._registry.version(self._registry.live())

    def unpin(self, *, started: str = "python", reason: str = "") -> Version:
        """Let passes replace the live version again."""
        self._pin(False, started, reason or "passes may replace it")
        return self._registry.version(self._registry.live())

    def _pin(self, pinned: bool, started: str, reason: str) -> None:
        self.check_open()
        with self._turn.taken():
            if self._registry.pinned != pinned:
                self._registry.pin(pinned, reason, started=started)

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
        store = self.store()
        return export(store, self._registry.version(self._registry.live()), Path(directory), merged=merged)

    @property
    def encoder(self) -> str:
        """Name of the embedding model."""
        return self._manifest.encoder

    @property
    def pinned(self) -> bool:
        """Whether no pass may replace the live version."""
        return self._registry.pinned

    @property
    def base(self) -> Version:
        """Version 0: the base model as it is."""
        return self._registry.version(0)

    # keeping house --------------------------------------------------------------------------------

    def status(self) -> Status:
        """What is here: documents, versions, the last decision, sizes."""
        return read_status(self.path, self.config)

    def history(self) -> list[Mapping[str, Any]]:
        """Every decision with its reason and figures, oldest first."""
        return self._registry.history()

    def record(self, event: str, reason: str, started: str) -> None:
        """Write something into the history that happened to the live version."""
        self._registry.record(event, self._registry.live(), reason, started=started)

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
            self._registry.record("gc", self._registry.live(), "; ".join(done), started=started)
        return done

    def _collect(self, progress: Progress) -> list[str]:
        self.check_open()
        self._traffic.purge(self._base.forget)
        learning = self._learning.holder() is not None
        with nullcontext() if learning else self._alone_in_learning(), self._turn.taken():
            if self.store().built(self._registry.version(self._registry.live())):
                return collect_garbage(self.store(), self.config, self.asked(), progress, learning=learning)
            if not self._server:
                self._lock.acquire()
            with self._live.paused():
                self._lock.begin_generation()
                return collect_garbage(self.store(), self.config, self.asked(), progress, learning=learning)

    def close(self) -> None:
        """Stop training in the background, release files and the writer's lock. Safe to call twice."""
        self.stop_adapting()
        with self._learning.threads, self._turn.threads:  # a pass of another thread comes to its end
            if self._closed:
                return
            self._closed = True
            with ExitStack() as parts:  # each is closed, whatever happens to the others; the last named first
                for part in (
                    self._lock.release, self._cache.close, self._journal.close, self._reader.close,
                    self._lexical.close, self._live.close,
                ):  # fmt: skip
                    parts.callback(part)
                self._traffic.close()
                with suppress(StoreError):  # what is not published is read again
                    self._publish(_AT_THE_END)

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
            if not self._registry.exists:  # not made by another process meanwhile
                base.make(self._registry, self.config)
        except BaseException:
            self._lock.release()
            raise
        if self.config.chroma:  # where all may write
            self._lock.release()

    def _encoder(self) -> Encoder:
        if self._light:
            return LazyEncoder(lambda: base.light(self._manifest), self._full_encoder, self._manifest.dimension)
        return self._full_encoder()

    def _full_encoder(self) -> Encoder:
        return base.load(self._manifest, self.config.encoder, str(self.path))

    def store(self) -> Store:
        """The open parts, for tools that measure; nothing here is stable API."""
        return Store(
            self.path,
            self._manifest,
            self._registry,
            self._journal,
            self._cache,
            self._base,
            self._turn,
            self._server,
            self._lexical,
        )

    def _open(self, number: int) -> Snapshot:
        return self.store().snapshot(number, self._lock.generation)

    def _supervised_by(self, generator: str | Sequence[str] | None) -> Config:
        if generator is None:
            return self.config
        places = [generator] if isinstance(generator, str) else list(generator)
        return self.config.model_copy(update={"generator": self.config.generator.at(*places)})

    @contextmanager
    def _as_writer(self, *, wait: bool = True) -> Iterator[None]:
        """As the one thread, and in a folder of the one process, that changes documents; others may look."""
        if not self._turn.threads.acquire(timeout=-1 if wait else _PATIENCE):
            raise StoreLocked(f"This program itself is writing to {self.path}. Wait for it; searching is possible.")
        try:
            self.check_open()
            if not self._server:
                self._lock.acquire()
            yield
        finally:
            self._turn.threads.release()

    @contextmanager
    def _writing(self, *, wait: bool = True) -> Iterator[None]:
        """Change documents, while nobody else changes anything, or opens what is live."""
        with self._as_writer(wait=wait), self._turn.taken():
            self._repair_live()
            yield
        release_memory()  # what encoding had and freed: milliseconds beside it

    def _repair_live(self) -> None:
        live = self._registry.version(self._registry.live())
        if live.collection in self._journal.unsettled():
            with self._live.paused():
                self.store().repair(live)
                self._lock.begin_generation()
        if self._journal.pending(self._journal.applied(live.collection)):  # a writer broke off before it came to Chroma
            self._update_live(silent)

    def _repair(self) -> None:
        """Do what a writer that died has left undone. Raises StoreLocked where another process writes."""
        if not self._turn.threads.acquire(blocking=False):  # another thread is about to
            return
        held = self._lock.held
        try:
            with self._writing():
                pass
        finally:
            if not held:
                self._lock.release()
            self._turn.threads.release()

    @contextmanager
    def _alone_in_learning(self) -> Iterator[None]:
        """Learn as the one thread of the one process that does."""
        self.check_open()
        with self._learning.threads:
            held = self._learning.held
            self._learning.acquire()
            try:
                yield
            finally:
                if not held:
                    self._learning.release()

    def check_open(self) -> None:
        """Raise StoreError where this was closed."""
        if self._closed:
            raise StoreError(f"{self.path} was closed. Open it again: KnowledgeBase({str(self.path)!r}).")

    def _update_live(self, progress: Progress) -> None:
        with self._live.pinned(newest=True) as live:
            apply_changes(
                self._journal, live.version.collection, live.index, self._base, live.embedder.adapter, progress
            )
        self._lexical.view(progress)
        self._publish()

    def _publish(self, least: int | None = None) -> None:
        """Publish the index of words, where many changes are not published yet and this process may write."""
        if not (self._server or self._lock.here or self._lock.holder() is None):
            return
        if self._lexical.checkpoint() if least is None else self._lexical.checkpoint(least):
            self._journal.mark_applied(LEXICAL, self._lexical.seq)

    def _bring_up_to_date(self) -> None:
        """Do what a knowledge base of an earlier ragself needs, once."""
        with suppress(RagselfError):  # a pointer that is damaged or cannot be written is met when it is needed
            self._retire()
        if self._journal.follows(LEXICAL):
            return
        with suppress(StoreError):  # where nothing can be written the words stay in memory
            if self._journal.head:
                logger.info("%s: indexing the words of %d chunks, once", self.path, len(self._journal))
                self._publish(1)
            self._journal.mark_applied(LEXICAL, self._lexical.seq)

    def _retire(self) -> None:
        """Make version 0 live where the live version is of a kind that is not served any more."""
        if not self._registry.serves(self._registry.pointed()):
            with self._turn.taken():
                retired = self._registry.retire()
            if retired is not None:
                logger.warning(
                    "%s: version %d is of a kind that this ragself does not serve any more (%s). Version 0 is live. "
                    "To learn again: ragself adapt", self.path, retired.number, retired.kind,
                )  # fmt: skip

    def _before(self, live: int) -> int:
        before = self._registry.before()
        if before is None:
            raise InputError(f"Version {live} has nothing before it. Versions here: {self._numbers()}.")
        return before

    def _numbers(self) -> str:
        return ", ".join(str(version.number) for version in self._registry.versions())


def _digest(value: object) -> str:
    return hashlib.blake2b(
        json.dumps(value, sort_keys=True).encode("utf-8", "surrogatepass"), digest_size=8
    ).hexdigest()
