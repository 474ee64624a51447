"""Learning inside an application: a thread that adapts a knowledge base again and again, and can be stopped."""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ragself.corpus.check import check_asked
from ragself.corpus.queries import read_queries
from ragself.errors import InputError, RagselfError, StoreLocked
from ragself.knowledge import KnowledgeBase
from ragself.progress import Progress
from ragself.schema import Added, Report, Status

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

DAY = 86_400.0
_AGAIN = 60.0  # seconds until it is tried again, where another process was writing
_LEAVE = 60.0  # seconds that the end of a program waits for the next step of a pass

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
        error: Of the last pass, or None where it ended well; that of following the collection did not keep it from
            learning.
        next: Seconds until the next pass, 0 during one, None where there will be none.
    """

    running: bool = False
    stage: str | None = None
    done: int = 0
    total: int = 0
    passes: int = 0
    report: Report | None = None
    error: Exception | None = None
    next: float | None = None


class _Stopped(Exception):  # noqa: N818
    """The pass was asked to end."""


class BackgroundAdaptation:
    """Adapts a knowledge base now and then, until it is stopped; its history tells what each pass found."""

    def __init__(
        self,
        kb: KnowledgeBase,
        queries: Queries = (),
        *,
        every: float = DAY,
        generator: str | Sequence[str] | None = None,
    ) -> None:
        """Name what is to be learned from; nothing is started yet.

        Args:
            kb: The knowledge base, which others may use meanwhile. Additions wait for the end of a pass.
            queries: What users asked; a file with one a line, or a function, is read at the beginning of each pass.
            every: Seconds from the beginning of a pass to that of the next.
            generator: As for `KnowledgeBase.adapt`.

        Raises:
            InputError: `every` is not above 0, or the queries are no strings.
        """
        if not every > 0:
            raise InputError(f"every is {every} seconds, expected more than 0.")
        self._kb, self._every, self._generator = kb, every, generator
        self._queries = queries if callable(queries) or isinstance(queries, Path) else check_asked(queries)
        self._status = BackgroundStatus()
        self._due = 0.0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._turn = threading.Lock()

    def start(self) -> None:
        """Begin the first pass, in a thread of its own. Does nothing where there is one that was not told to stop.

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

    @property
    def goes_on(self) -> bool:
        """Whether there is a thread that was not told to stop."""
        return self._thread is not None and self._thread.is_alive() and not self._stopping.is_set()

    def status(self) -> BackgroundStatus:
        """How far it is."""
        seen = self._status
        if not seen.running:
            return seen
        return replace(seen, next=0.0 if seen.stage is not None else max(self._due - time.monotonic(), 0.0))

    def _run(self, stopping: threading.Event, before: threading.Thread | None) -> None:
        leave = partial(self.stop, _LEAVE)
        atexit.register(leave)  # a thread amid torch or Chroma when Python ends takes the program down with it
        try:
            if before is not None:
                before.join()
            self._status = replace(self._status, running=True)
            while not stopping.is_set():
                self._due = time.monotonic() + self._every
                self._pass(stopping)
                stopping.wait(max(self._due - time.monotonic(), 0.0))
        finally:
            self._status = replace(self._status, running=False, stage=None)
            atexit.unregister(leave)

    def _pass(self, stopping: threading.Event) -> None:
        def told(stage: str, done: int, total: int) -> None:
            if stopping.is_set():
                raise _Stopped
            self._status = replace(self._status, stage=stage, done=done, total=total)

        error: Exception | None = None
        try:
            told("begin", 0, 1)
            error = self._sync(told)
            report = self._kb.adapt(self._asked(), told, generator=self._generator)
            self._status = replace(self._status, report=report)
        except _Stopped:
            return
        except Exception as caught:  # the application goes on; the next pass may succeed
            error = caught
            if isinstance(caught, StoreLocked):
                self._due = min(self._due, time.monotonic() + _AGAIN)
            logger.log(
                logging.WARNING if isinstance(caught, RagselfError) else logging.ERROR,
                "the pass in the background failed, the next is in %.0f s: %s",
                max(self._due - time.monotonic(), 0.0),
                caught,
                exc_info=not isinstance(caught, RagselfError),
            )
        self._status = replace(self._status, error=error, passes=self._status.passes + 1, stage=None)

    def _asked(self) -> Iterable[str]:
        if isinstance(self._queries, Path):
            return read_queries(self._queries, or_none=True)
        return self._queries() if callable(self._queries) else self._queries

    def _sync(self, told: Progress) -> RagselfError | None:
        """Follow the collection; where that fails, learning goes on with what is here."""
        if self._kb.followed is None:
            return None
        try:
            self._kb.sync(progress=told)
        except RagselfError as error:
            logger.warning("the collection is not followed before this pass: %s", error)
            return error
        return None


class SelfAdapting:
    """What the retrievers of all frameworks offer beside retrieving: to learn, to be told how far that is, to end."""

    if TYPE_CHECKING:  # as attributes or as fields, as a framework has it
        knowledge_base: KnowledgeBase
        _background: BackgroundAdaptation | None

    def start_adapting(
        self,
        queries: Queries = (),
        every: float = DAY,
        generator: str | Sequence[str] | None = None,
    ) -> None:
        """Learn in the background, now and every so many seconds, as long as the program lives.

        Args:
            queries: What users asked, no answers, no labels: texts, or what is read at the beginning of each pass, the
                `pathlib.Path` of a file with one a line or a function.
            every: Seconds from the beginning of a pass to that of the next.
            generator: URL of a vLLM server, or name or path of a causal language model; None counts words.

        Raises:
            ValueError: The queries are no strings, or `every` is not above 0.
            StoreError: The knowledge base is closed.
        """
        if self._background is not None and self._background.goes_on:
            logger.warning("It is learning already; what it was started with stays. Call stop_adapting() before.")
            return
        self._background = BackgroundAdaptation(self.knowledge_base, queries, every=every, generator=generator)
        self._background.start()

    def stop_adapting(self, timeout: float | None = None) -> bool:
        """End it at its next step; what it has done is kept. Returns whether it ended within `timeout` seconds."""
        return self._background is None or self._background.stop(timeout)

    async def astop_adapting(self, timeout: float | None = None) -> bool:
        """As `stop_adapting`, without holding up the event loop."""
        return await asyncio.to_thread(self.stop_adapting, timeout)

    def adapting(self) -> BackgroundStatus:
        """How far learning in the background is."""
        return BackgroundStatus() if self._background is None else self._background.status()

    def sync(self) -> Added:
        """Take over what was added to and deleted from the collection that is followed."""
        return self.knowledge_base.sync()

    def status(self) -> Status:
        """What the knowledge base holds, and its live version."""
        return self.knowledge_base.status()

    def close(self) -> None:
        """Stop learning and close the knowledge base, so that another program may write to it."""
        self.stop_adapting()
        self.knowledge_base.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *ended: object) -> None:
        """Close."""
        self.close()
