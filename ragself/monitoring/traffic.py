"""What users ask and how it goes: measured, counted, and remembered where that is wanted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ragself.config import QueriesConfig
from ragself.corpus.query_log import QueryLog, redaction
from ragself.errors import InputError, StoreError
from ragself.monitoring.recorder import Recorder
from ragself.monitoring.search_log import SIGNALS, SignalLog
from ragself.telemetry import duration, errors, span


class Traffic:
    """The searches of a knowledge base, whichever process they are asked in."""

    def __init__(self, directory: Path, settings: QueriesConfig) -> None:
        """Name the files; nothing is opened yet. Raises ConfigError where the redaction is no function."""
        redact = redaction(settings.redact) if settings.log else None
        self._path, self._settings = directory / "queries.db", settings
        self._log: QueryLog | None = None
        self._opening = threading.Lock()
        self._recorder = Recorder(lambda: SignalLog(directory / SIGNALS), self._open if settings.log else None, redact)

    @contextmanager
    def asking(
        self, queries: Sequence[str], open: Callable[[], int], live: Callable[[], int]
    ) -> Iterator[Callable[[int], None]]:
        """Measure one search, and note it.

        Args:
            queries: What is looked for.
            open: Number of the version that answers, below 0 while none is open: such a search opens it and loads the
                model, so that its time says nothing of the version and is not counted.
            live: Number of the version that should answer, to which a failure is put down.

        Yields:
            What is to be called with the number of the version that has answered.
        """
        version, began, cold = -1, time.perf_counter(), open() < 0

        def answered(number: int) -> None:
            nonlocal version
            version = number

        try:
            with span("ragself.search"):
                yield answered
        except InputError:  # the caller's own
            raise
        except Exception:
            errors.add(1)
            with suppress(StoreError):  # which is live cannot be read
                self._recorder.note((), live(), None)
            raise
        seconds = time.perf_counter() - began
        self._recorder.note(queries, None if cold else version, seconds)
        duration.record(seconds, {"version": version})

    def asked(self, first_after: float = 0.0) -> dict[str, int]:
        """How often each query was asked that is remembered, as of `QueryLog.asked`."""
        log = self._written()
        return {} if log is None else log.asked(first_after=first_after)

    @property
    def total(self) -> int:
        """How many were ever remembered, also those that are forgotten."""
        log = self._written()
        return 0 if log is None else log.total

    def forget(self, matching: str | None, before: float | None, first: Callable[[list[str]], object]) -> None:
        """Forget queries, as of `QueryLog.forget`."""
        log = self._written()
        if log is not None:
            log.forget(matching=matching, before=before, first=first)

    def purge(self, first: Callable[[list[str]], object]) -> None:
        """Remove queries that are too old or too many, as of `QueryLog.purge`."""
        log = self._written()
        if log is not None:
            log.purge(first=first)

    def close(self) -> None:
        """Write what is left. Safe to call twice."""
        self._recorder.close()
        if self._log is not None:
            self._log.close()

    def _written(self) -> QueryLog | None:
        """The log with everything in it; None where nothing was ever remembered."""
        self._recorder.flush()
        return self._open() if self._path.exists() else None

    def _open(self) -> QueryLog:
        with self._opening:
            if self._log is None:
                self._log = QueryLog(self._path, self._settings)
            return self._log
