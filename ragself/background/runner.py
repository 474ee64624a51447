"""Trains in the background: a thread polls for changes and runs each pass in another process."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ragself.background import process as isolate
from ragself.background.folders import Folders
from ragself.background.guard import Guard
from ragself.background.pending import pending
from ragself.background.triggers import due, left
from ragself.config import with_generator
from ragself.corpus.query_file import read_queries
from ragself.corpus.validate import count_queries
from ragself.cycle import too_few
from ragself.errors import InputError, RagselfError
from ragself.memory import release_memory
from ragself.monitoring.usage import usage
from ragself.progress import Progress
from ragself.schema import Report
from ragself.telemetry import passes, span

if TYPE_CHECKING:  # it imports this package
    from ragself.knowledge_base import KnowledgeBase

logger = logging.getLogger(__name__)

_LEAVE = 60.0  # seconds that the program's exit waits for the next step of a pass
_AGAIN = 60.0  # seconds from a failed pass to the next; doubled after each failure, up to `every`
_MANY = 50  # chunks or files; progress is reported for more than these
_FOLDERS, _PASS, _AFTER = "polling the folders failed", "the pass failed", "switching or cleaning up failed"
_DAY = 86_400.0  # seconds
_SYNC = 3600.0  # seconds between two polls of a followed collection

Texts: TypeAlias = Iterable[str] | Mapping[str, int]
Queries: TypeAlias = Callable[[], Texts] | Path | Texts


@dataclass(frozen=True, slots=True)
class BackgroundStatus:
    """Progress of background training.

    Attributes:
        running: Whether the thread is running.
        stage: Stage of the pass, or None between two passes.
        done: Steps of the stage that are done.
        total: Total steps of the stage.
        passes: Number of passes that have ended.
        report: Report of the last pass that succeeded.
        error: Error of the last pass, or of applying changes of the followed collection, which prevents no pass; None
            if there was none.
        waiting: Reason why no pass runs now; None during one.
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
    """Background training of a knowledge base, until it is stopped; the history records the result of each pass."""

    def __init__(
        self,
        kb: KnowledgeBase,
        queries: Queries = (),
        *,
        every: float | None = None,
        generator: str | Sequence[str] | None = None,
        folders: Sequence[Path] = (),
        name: str = "in the background",
        progress: Progress | None = None,
    ) -> None:
        """Store the arguments; nothing is started yet. The settings are `watch` of the knowledge base.

        Args:
            kb: The knowledge base; other threads and processes may use and change it meanwhile.
            queries: Texts that users searched for, in addition to the stored ones. A file, one query a line, or a
                function is read whenever a pass may be due.
            every: Seconds after which a pass begins if anything is new; None uses the settings.
            generator: As for `KnowledgeBase.adapt`.
            folders: Files and folders that contain the documents; their changes are applied.
            name: Name in the history.
            told: Called with each stage of a pass, steps done and total.

        Raises:
            InputError: `every` is not above 0, the queries are not strings, or a folder does not exist.
        """
        if every is not None and not every > 0:
            raise InputError(f"every is {every} seconds, expected more than 0.")
        self._kb, self._generator, self._name, self._progress = kb, generator, name, progress
        watch = kb.config.watch
        every = watch.every if every is None else every
        self._watch = watch.model_copy(update={"every": every, "poll": min(watch.poll, every)})
        self._queries = queries if callable(queries) or isinstance(queries, Path) else count_queries(queries)
        self._folders = Folders(kb, folders)
        self._guard = Guard(kb, generator, self._bounds, lambda: self._poll_during_pass(self._stopping))
        self._status = BackgroundStatus()
        self._failed = 0
        self._held: str | None = None  # reason why a pass that is due does not begin
        self._wrong: dict[str, Exception | None] = {}  # last result of each activity: its error, or None
        self._polling: threading.Thread | None = None
        self._not_before = self._synced = self._polled = 0.0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._turn = threading.Lock()

    def start(self) -> None:
        """Start the background thread. Does nothing if one is running that was not asked to stop.

        Raises:
            StoreError: The knowledge base is closed.
        """
        self._kb.engine.check_open()
        with self._turn:
            if self.active:
                return
            before = self._thread
            self._stopping = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(self._stopping, before), daemon=True, name="ragself adapts"
            )
            self._status = replace(self._status, running=True)
            self._thread.start()

    def stop(self, timeout: float | None = None) -> bool:
        """End the thread at the next step of the pass; what the pass has done is kept. Safe to call twice.

        Args:
            timeout: Maximum seconds to wait; None waits without limit.

        Returns:
            Whether the thread has ended.
        """
        with self._turn:
            self._stopping.set()
            if self._thread is None:
                return True
            self._thread.join(timeout)
            return not self._thread.is_alive()

    def once(self, stopping: threading.Event) -> BackgroundStatus:
        """Poll once in the calling thread, and train if anything is new, however recent the last pass.

        Args:
            stopping: Ends the poll and the pass when it is set.
        """
        self._watch, self._stopping = self._watch.model_copy(update={"every": 1e-9, "rest": 0.0}), stopping
        self._poll(stopping)
        return self._status

    @property
    def active(self) -> bool:
        """Whether a thread is running that was not asked to stop."""
        return self._thread is not None and self._thread.is_alive() and not self._stopping.is_set()

    def status(self) -> BackgroundStatus:
        """Current progress."""
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
                    self._poll(stopping)
                except BaseException as error:  # a panic in Chroma is no Exception; the thread must not end silently
                    logger.critical("polling continues after %r", error, exc_info=error)
                release_memory()
                stopping.wait(self._watch.poll)
            logger.info("stopped")
        finally:
            self._join_poll()
            self._status = replace(self._status, running=False, stage=None)
            atexit.unregister(leave)

    def _poll(self, stopping: threading.Event) -> None:
        """Apply changes, and run a pass if one is due."""
        self._join_poll()
        self._poll_folders(stopping)
        try:
            self._sync()
            self._guard.poll(stopping)
            queries = self._read_queries()
            why, waiting = self._due(queries)
            self._status = replace(self._status, waiting=waiting)
        except Exception as error:  # the application must continue; the next poll may succeed
            self._record_outcome("training did not start", error)
            return
        self._record_outcome("training did not start", None)
        if why is not None and not stopping.is_set():
            self._pass(why, queries, stopping)

    def _due(self, queries: Counter[str]) -> tuple[str | None, str | None]:
        """Reason why a pass is due, or reason why none is; the other is None."""
        changes, last = pending(self._kb.engine, queries, with_generator(self._kb.config, self._generator))
        why = due(self._watch, changes, last, time.time())
        if why is None:
            new = f"{changes.chunks} chunks and {changes.queries} queries are new"
            return None, new if changes else "nothing is new"
        before, self._held = self._held, self._blocked_reason()
        if self._held is None:
            return why, None
        if self._held != before:
            logger.info("a pass is due, %s, but %s", why, self._held)
        return None, self._held

    def _blocked_reason(self) -> str | None:
        """Reason why no pass can begin now, or None."""
        if time.monotonic() < self._not_before:
            return "the last pass failed"
        if self._kb.pinned:
            return "the live version is pinned"
        bounds = self._bounds()
        return too_few(len(self._kb.engine.store.journal)) or (bounds if isinstance(bounds, str) else None)

    def _bounds(self) -> isolate.Bounds | str:
        """Limits of a job now, or the reason why none may run."""
        watch, seconds, limit = self._watch, self._watch.minutes * 60, "watch.minutes"
        rest = left(watch.hours, datetime.now().astimezone())
        if rest == 0.0:
            begin, _, end = str(watch.hours).partition("-")
            return f"the time is not between {begin} and {end}"
        if rest is not None and rest < seconds:
            seconds, limit = rest, "watch.hours"
        cpu, tokens = usage(self._kb.path, _DAY)
        left_tokens = None if watch.tokens is None else watch.tokens - tokens
        left_cpu = None if watch.cpu_minutes is None else watch.cpu_minutes * 60 - cpu
        if (left_tokens is not None and left_tokens <= 0) or (left_cpu is not None and left_cpu <= 0):
            return "the budget for 24 hours is used up"
        return isolate.Bounds(left_tokens, seconds, left_cpu, limit)

    def _pass(self, why: str, queries: Counter[str], stopping: threading.Event) -> None:
        def progress(stage: str, done: int, total: int) -> None:
            self._status = replace(self._status, stage=stage, done=done, total=total)
            if self._progress is not None:
                self._progress(stage, done, total)

        started = f"{self._name}: {why}"
        try:
            bounds = self._bounds()
            if isinstance(bounds, str):
                return
            config = self._kb.config
            job = isolate.Job("adapt", self._kb.path, config, queries, self._generator, started, bounds)
            progress("begin", 0, 1)
            with span("ragself.adapt"):
                report = Report(
                    **(isolate.run(job, stopping, progress, lambda: self._poll_during_pass(stopping)) or {})
                )
        except isolate.Stopped:
            passes.add(1, {"decision": "stop"})
            return
        except Exception as error:
            passes.add(1, {"decision": "fail"})
            with suppress(RagselfError):  # the disk may be full
                self._kb.engine.record("fail", str(error), started)
            self._back_off(error)
        else:
            passes.add(1, {"decision": report.decision})
            self._failed = 0
            self._record_outcome(_PASS, None)
            self._status = replace(self._status, report=report)
            logger.info("%s, version %d is live: %s", report.decision, report.version, report.reason)
            if report.decision == "promote":
                self._serve_new_version()
        self._status = replace(self._status, stage=None, passes=self._status.passes + 1)

    def _serve_new_version(self) -> None:
        """Open the new version and clean up. An error is only logged: the pass itself has succeeded."""
        try:
            self._kb.refresh()
            self._kb.gc(started=self._name)
        except Exception as error:
            self._record_outcome(_AFTER, error)
        else:
            self._record_outcome(_AFTER, None)

    def _poll_during_pass(self, stopping: threading.Event) -> None:
        """Poll the folders in a thread during a pass. It may take hours, and its limits must be checked meanwhile."""
        if time.monotonic() < self._polled + self._watch.poll or (self._polling and self._polling.is_alive()):
            return
        self._polling = threading.Thread(
            target=self._poll_folders, args=(stopping,), daemon=True, name="ragself looks at folders"
        )
        self._polling.start()

    def _join_poll(self) -> None:
        if self._polling is not None:
            self._polling.join()

    def _poll_folders(self, stopping: threading.Event) -> None:
        def progress(stage: str, done: int, total: int) -> None:
            if stopping.is_set():
                raise isolate.Stopped
            if self._progress is not None and total > _MANY:
                self._progress(stage, done, total)

        self._polled = time.monotonic()
        try:
            self._folders.poll(progress)
            self._record_outcome(_FOLDERS, None)
        except isolate.Stopped:
            pass
        except Exception as error:  # the next poll may succeed; training continues with the documents it has
            self._record_outcome(_FOLDERS, error)

    def _record_outcome(self, what: str, error: Exception | None, *, again: bool = False) -> None:
        """Store the result of an activity. Log its error; an unchanged error is logged only with `again`."""
        before, self._wrong[what] = self._wrong.get(what), error
        if what != _FOLDERS:  # polled in another thread, too
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
        self._record_outcome(_PASS, error, again=True)
        logger.warning("the next pass is in %.0f s at the earliest", wait)

    def _read_queries(self) -> Counter[str]:
        if isinstance(self._queries, Path):
            return Counter(read_queries(self._queries, or_none=True))
        return self._queries if isinstance(self._queries, Counter) else count_queries(self._queries())

    def _sync(self) -> None:
        """Apply changes of the followed collection; if that fails, training continues with the documents it has."""
        if self._kb.followed is None or time.monotonic() < self._synced:
            return
        self._synced = time.monotonic() + min(_SYNC, self._watch.every)
        try:
            self._kb.sync()
        except RagselfError as error:
            self._record_outcome("syncing the collection before this pass failed", error)
        else:
            self._record_outcome("syncing the collection before this pass failed", None)
