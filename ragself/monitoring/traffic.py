"""Measures and counts searches, and records their queries if the settings ask for it."""

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
    """The searches of a knowledge base, in all processes."""

    def __init__(self, directory: Path, settings: QueriesConfig) -> None:
        """Set the files, without opening them. Raises ConfigError if the redaction is not a function."""
        redact = redaction(settings.redact) if settings.log else None
        self._path, self._settings = directory / "queries.db", settings
        self._log: QueryLog | None = None
        self._opening = threading.Lock()
        self._recorder = Recorder(lambda: SignalLog(directory / SIGNALS), self._open if settings.log else None, redact)

    @contextmanager
    def asking(
        self, queries: Sequence[str], open: Callable[[], int], live: Callable[[], int]
    ) -> Iterator[Callable[[int], None]]:
        """Measure and record one search.

        Args:
            queries: Texts to search for.
            open: Returns the number of the open version, below 0 if none is open. In that case the search first opens
                a version and loads the model; its time does not describe the version and is not counted.
            live: Returns the number of the version that should answer; a failure is counted for it.

        Yields:
            Function to call with the number of the version that answered.
        """
        version, began, cold = -1, time.perf_counter(), open() < 0

        def answered(number: int) -> None:
            nonlocal version
            version = number

        try:
            with span("ragself.search"):
                yield answered
        except InputError:  # the caller's mistake
            raise
        except Exception:
            errors.add(1)
            with suppress(StoreError):  # the live version cannot be read
                self._recorder.note((), live(), None)
            raise
        seconds = time.perf_counter() - began
        self._recorder.note(queries, None if cold else version, seconds)
        duration.record(seconds, {"version": version})

    def asked(self, first_after: float = 0.0) -> dict[str, int]:
        """Number of searches for each recorded query, as in `QueryLog.asked`."""
        log = self._written()
        return {} if log is None else log.asked(first_after=first_after)

    @property
    def total(self) -> int:
        """Number of queries ever recorded, deleted ones included."""
        log = self._written()
        return 0 if log is None else log.total

    def forget(self, matching: str | None, before: float | None, first: Callable[[list[str]], object]) -> None:
        """Delete recorded queries, as in `QueryLog.forget`."""
        log = self._written()
        if log is not None:
            log.forget(matching=matching, before=before, first=first)

    def purge(self, first: Callable[[list[str]], object]) -> None:
        """Delete queries that are too old or too many, as in `QueryLog.purge`."""
        log = self._written()
        if log is not None:
            log.purge(first=first)

    def close(self) -> None:
        """Write what is pending. Safe to call twice."""
        self._recorder.close()
        if self._log is not None:
            self._log.close()

    def _written(self) -> QueryLog | None:
        """The log with all pending queries written; None if nothing was ever recorded."""
        self._recorder.flush()
        return self._open() if self._path.exists() else None

    def _open(self) -> QueryLog:
        with self._opening:
            if self._log is None:
                self._log = QueryLog(self._path, self._settings)
            return self._log
