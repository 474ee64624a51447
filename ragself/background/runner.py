"""Learning in the background: a thread that looks for something to learn, and has it learned in another process."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ragself.background import process as isolate
from ragself.background.folders import Folders
from ragself.background.guard import Guard
from ragself.background.triggers import due, left
from ragself.corpus.query_file import read_queries
from ragself.corpus.validate import check_asked
from ragself.errors import InputError, RagselfError
from ragself.memory import release_memory
from ragself.progress import Progress
from ragself.schema import Report
from ragself.telemetry import passes, span

if TYPE_CHECKING:  # which starts this
    from ragself.knowledge_base import KnowledgeBase

logger = logging.getLogger(__name__)

_LEAVE = 60.0  # seconds that the end of a program waits for the next step of a pass
_AGAIN = 60.0  # seconds after a pass that failed until the next; doubled each time, up to `every`
_MANY = 50  # chunks or files, of which progress is told
_FOLDERS, _PASS, _AFTER = "the folders are not looked at", "the pass failed", "nothing is cleaned up after the pass"
_DAY = 86_400.0  # seconds
_SYNC = 3600.0  # seconds between two looks at a collection that is followed

Queries: TypeAlias = Callable[[], Iterable[str]] | Path | Iterable[str]


@dataclass(frozen=True, slots=True)
class BackgroundStatus:
    """How far learning in the background is.

    Attributes:
        running: Whether there is a thread.
        stage: What the pass is doing, or None between two passes.
        done: Steps of the stage that are done.
        total: Steps of the stage.
        passes: How many have ended.
        report: Of the last pass that ended well.
        error: Of the last pass, or of following the collection, which keeps no pass from beginning; None where all
            ended well.
        waiting: Why there is no pass now; None during one.
    """

    running: bool = False
    stage: str | None = None
    done: int = 0
    total: int = 0
    passes: int = 0
    report: Report | None = None
    error: Exception | None = None
    waiting: str | None = None


class BackgroundAdaptation:
    """Adapts a knowledge base whenever that can pay, until it is stopped; its history tells what each pass found."""

    def __init__(
        self,
        kb: KnowledgeBase,
        queries: Queries = (),
        *,
        every: float | None = None,
        generator: str | Sequence[str] | None = None,
        folders: Sequence[Path] = (),
        name: str = "in the background",
        told: Progress | None = None,
    ) -> None:
        """Name what is to be learned from; nothing is started yet. The settings are `watch` of the knowledge base.

        Args:
            kb: The knowledge base, which others may use and change meanwhile.
            queries: What users asked, beside what is remembered; a file with one a line, or a function, is read
                whenever a pass may be due.
            every: Seconds after which a pass begins where anything is new; None takes the settings.
            generator: As for `KnowledgeBase.adapt`.
            folders: Files and folders that the documents are in: what changes there is taken over.
            name: For the history.
            told: Of each stage of a pass.

        Raises:
            InputError: `every` is not above 0, the queries are no strings, or a folder does not exist.
        """
        if every is not None and not every > 0:
            raise InputError(f"every is {every} seconds, expected more than 0.")
        self._kb, self._generator, self._name, self._told = kb, generator, name, told
        watch = kb.config.watch
        every = watch.every if every is None else every
        self._watch = watch.model_copy(update={"every": every, "poll": min(watch.poll, every)})
        self._queries = queries if callable(queries) or isinstance(queries, Path) else check_asked(queries)
        self._folders = Folders(kb, folders)
        self._guard = Guard(kb, generator, self._bounds, lambda: self._look_meanwhile(self._stopping))
        self._status = BackgroundStatus()
        self._failed = 0
        self._held: str | None = None  # what keeps a pass that is due from beginning
        self._wrong: dict[str, Exception | None] = {}  # what went wrong when each was last tried
        self._looking: threading.Thread | None = None
        self._not_before = self._synced = self._looked = 0.0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._turn = threading.Lock()

    def start(self) -> None:
        """Begin to look, in a thread of its own. Does nothing where there is one that was not told to stop.

        Raises:
            StoreError: The knowledge base is closed.
        """
        self._kb.check_open()
        with self._turn:
            if self.goes_on:
                return
            before = self._thread
            self._stopping = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(self._stopping, before), daemon=True, name="ragself adapts"
            )
            self._status = replace(self._status, running=True)
            self._thread.start()

    def stop(self, timeout: float | None = None) -> bool:
        """End it at the next step of the pass, of which what was done is kept. Safe to call twice.

        Args:
            timeout: Seconds to wait for that; None waits as long as it takes.

        Returns:
            Whether it has ended.
        """
        with self._turn:
            self._stopping.set()
            if self._thread is None:
                return True
            self._thread.join(timeout)
            return not self._thread.is_alive()

    def once(self, stopping: threading.Event) -> BackgroundStatus:
        """Look once, in this thread, and learn where anything is new, however long ago the last pass was.

        Args:
            stopping: Set by whoever wants it to end.
        """
        self._watch, self._stopping = self._watch.model_copy(update={"every": 1e-9, "rest": 0.0}), stopping
        self._look(stopping)
        return self._status

    @property
    def goes_on(self) -> bool:
        """Whether there is a thread that was not told to stop."""
        return self._thread is not None and self._thread.is_alive() and not self._stopping.is_set()

    def status(self) -> BackgroundStatus:
        """How far it is."""
        return self._status

    # inside ---------------------------------------------------------------------------------------

    def _run(self, stopping: threading.Event, before: threading.Thread | None) -> None:
        def leave() -> None:
            self.stop(_LEAVE)

        atexit.register(leave)
        try:
            if before is not None:
                before.join()
            self._status = replace(self._status, running=True)
            logger.info("watching %s", ", ".join(map(str, [self._kb.path, *self._folders.paths])))
            while not stopping.is_set():
                try:
                    self._look(stopping)
                except BaseException as error:  # a panic in Chroma is no Exception; a thread that ends tells nobody
                    logger.critical("looking goes on after %r", error, exc_info=error)
                release_memory()
                stopping.wait(self._watch.poll)
            logger.info("stopped")
        finally:
            self._join_look()
            self._status = replace(self._status, running=False, stage=None)
            atexit.unregister(leave)

    def _look(self, stopping: threading.Event) -> None:
        """Take over what is new, and learn where that is due."""
        self._join_look()
        self._look_at_folders(stopping)
        try:
            self._sync()
            self._guard.look(stopping)
            asked = self._asked()
            why, waiting = self._due(asked)
            self._status = replace(self._status, waiting=waiting)
        except Exception as error:  # the application goes on; the next look may succeed
            self._complain("nothing is learned", error)
            return
        self._complain("nothing is learned", None)
        if why is not None and not stopping.is_set():
            self._pass(why, asked, stopping)

    def _due(self, asked: list[str]) -> tuple[str | None, str | None]:
        """Why a pass is due, or why not."""
        news, last = self._kb.news(asked, generator=self._generator)
        why = due(self._watch, news, last, time.time())
        if why is None:
            return None, "nothing is new" if not news else f"{news.chunks} chunks and {news.queries} queries are new"
        before, self._held = self._held, self._hindrance()
        if self._held is None:
            return why, None
        if self._held != before:
            logger.info("a pass is due, %s, but %s", why, self._held)
        return None, self._held

    def _hindrance(self) -> str | None:
        """Why there can be no pass now, or None."""
        if time.monotonic() < self._not_before:
            return "the last pass failed"
        if self._kb.pinned:
            return "the live version is pinned"
        bounds = self._bounds()
        return self._kb.blocked_reason() or (bounds if isinstance(bounds, str) else None)

    def _bounds(self) -> isolate.Bounds | str:
        """What a job may take now, or why there may be none."""
        watch, seconds, limit = self._watch, self._watch.minutes * 60, "watch.minutes"
        rest = left(watch.hours, datetime.now().astimezone())
        if rest == 0.0:
            begin, _, end = str(watch.hours).partition("-")
            return f"it is not between {begin} and {end}"
        if rest is not None and rest < seconds:
            seconds, limit = rest, "watch.hours"
        cpu, tokens = self._kb.spent(_DAY)
        left_tokens = None if watch.tokens is None else watch.tokens - tokens
        left_cpu = None if watch.cpu_minutes is None else watch.cpu_minutes * 60 - cpu
        if (left_tokens is not None and left_tokens <= 0) or (left_cpu is not None and left_cpu <= 0):
            return "what may be spent within 24 hours is spent"
        return isolate.Bounds(left_tokens, seconds, left_cpu, limit)

    def _pass(self, why: str, asked: list[str], stopping: threading.Event) -> None:
        def told(stage: str, done: int, total: int) -> None:
            self._status = replace(self._status, stage=stage, done=done, total=total)
            if self._told is not None:
                self._told(stage, done, total)

        started = f"{self._name}: {why}"
        try:
            bounds = self._bounds()
            if isinstance(bounds, str):
                return
            job = isolate.Job("adapt", self._kb.path, self._kb.config, Counter(asked), self._generator, started, bounds)
            told("begin", 0, 1)
            with span("ragself.adapt"):
                report = Report(**(isolate.run(job, stopping, told, lambda: self._look_meanwhile(stopping)) or {}))
        except isolate.Stopped:
            passes.add(1, {"decision": "stop"})
            return
        except Exception as error:
            passes.add(1, {"decision": "fail"})
            with suppress(RagselfError):  # a full disk
                self._kb.record("fail", str(error), started)
            self._back_off(error)
        else:
            passes.add(1, {"decision": report.decision})
            self._failed = 0
            self._complain(_PASS, None)
            self._status = replace(self._status, report=report)
            logger.info("%s, version %d is live: %s", report.decision, report.version, report.reason)
            if report.decision == "promote":
                self._turn_to_it()
        self._status = replace(self._status, stage=None, passes=self._status.passes + 1)

    def _turn_to_it(self) -> None:
        """Answer with the new version and remove what is superfluous now; the pass went well, whatever comes of it."""
        try:
            self._kb.refresh()
            self._kb.gc(started=self._name)
        except Exception as error:
            self._complain(_AFTER, error)
        else:
            self._complain(_AFTER, None)

    def _look_meanwhile(self, stopping: threading.Event) -> None:
        """Look at the folders during a pass, which may take hours, in a thread: the pass has its limits to be kept."""
        if time.monotonic() < self._looked + self._watch.poll or (self._looking and self._looking.is_alive()):
            return
        self._looking = threading.Thread(
            target=self._look_at_folders, args=(stopping,), daemon=True, name="ragself looks at folders"
        )
        self._looking.start()

    def _join_look(self) -> None:
        if self._looking is not None:
            self._looking.join()

    def _look_at_folders(self, stopping: threading.Event) -> None:
        def told(stage: str, done: int, total: int) -> None:
            if stopping.is_set():
                raise isolate.Stopped
            if self._told is not None and total > _MANY:
                self._told(stage, done, total)

        self._looked = time.monotonic()
        try:
            self._folders.look(told)
            self._complain(_FOLDERS, None)
        except isolate.Stopped:
            pass
        except Exception as error:  # the next look may succeed; learning goes on with what is here
            self._complain(_FOLDERS, error)

    def _complain(self, what: str, error: Exception | None, *, again: bool = False) -> None:
        """Remember how something went; log what goes wrong, once as long as it stays the same unless `again`."""
        before, self._wrong[what] = self._wrong.get(what), error
        if what != _FOLDERS:  # looked at in another thread, too
            wrong = (found for tried, found in list(self._wrong.items()) if found is not None and tried != _FOLDERS)
            self._status = replace(self._status, error=next(wrong, None))
        if error is None or (str(error) == str(before) and not again):
            return
        expected = isinstance(error, RagselfError)
        level = logging.WARNING if expected else logging.ERROR
        logger.log(level, "%s: %s", what, error, exc_info=None if expected else error)

    def _back_off(self, error: Exception) -> None:
        wait = min(_AGAIN * 2 ** min(self._failed, 16), self._watch.every)
        self._failed += 1
        self._not_before = time.monotonic() + wait
        self._complain(_PASS, error, again=True)
        logger.warning("the next pass is in %.0f s at the earliest", wait)

    def _asked(self) -> list[str]:
        if isinstance(self._queries, Path):
            return read_queries(self._queries, or_none=True)
        return check_asked(self._queries()) if callable(self._queries) else list(self._queries)

    def _sync(self) -> None:
        """Follow the collection; where that fails, learning goes on with what is here."""
        if self._kb.followed is None or time.monotonic() < self._synced:
            return
        self._synced = time.monotonic() + min(_SYNC, self._watch.every)
        try:
            self._kb.sync()
        except RagselfError as error:
            self._complain("the collection is not followed before this pass", error)
        else:
            self._complain("the collection is not followed before this pass", None)
