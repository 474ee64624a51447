"""What users asked, in SQLite: opt-in, readable by its owner only, no longer and no more than the settings say."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from sqlite3 import Connection
from typing import TypeAlias

from ragself.config import QueriesConfig
from ragself.corpus.database import Database
from ragself.corpus.words import words
from ragself.errors import ConfigError, StoreError

Redact: TypeAlias = Callable[[str], str | None]

_SCHEMA = """
PRAGMA secure_delete = ON;  -- what is forgotten is overwritten
CREATE TABLE IF NOT EXISTS queries (
    key TEXT PRIMARY KEY, text TEXT NOT NULL, times INTEGER NOT NULL, first REAL NOT NULL, last REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS total (queries INTEGER NOT NULL);
INSERT INTO total SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM total);
"""
_DAY = 86_400.0


class QueryLog:
    """The queries of a knowledge base, each wording once, with how often it was asked."""

    def __init__(self, path: Path, config: QueriesConfig) -> None:
        """Open or create the log at `path`, mode 0600. Raises StoreError where that is impossible."""
        self._config = config
        try:
            if not path.exists():  # to close a file that is open elsewhere in this process would drop SQLite's locks
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            path.chmod(0o600)  # SQLite gives its other files the same
        except OSError as error:
            raise StoreError(f"Cannot open {path}: {error}. Mend the permissions or free some space.") from error
        self._db = Database(path, _SCHEMA, durable=False)
        self.purge()

    def add(self, queries: Mapping[str, int], now: float | None = None) -> None:
        """Note queries and how often each was asked, and drop what is too old or too many.

        Args:
            queries: How often each text was asked. Texts without a word are passed over.
            now: Seconds since 1970; None takes the clock.
        """
        now = time.time() if now is None else now
        rows = [(" ".join(words(text)), " ".join(text.split()), times) for text, times in queries.items()]
        rows = [row for row in rows if row[0]]
        with self._db.write() as db:
            before = _count(db)
            db.executemany(
                "INSERT INTO queries VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                "times = times + excluded.times, last = max(last, excluded.last)",
                [(*row, now, now) for row in rows],
            )
            db.execute("UPDATE total SET queries = queries + ?", (_count(db) - before,))
        self.purge(now)

    def purge(self, now: float | None = None, first: Callable[[list[str]], object] = list) -> list[str]:
        """Remove what is too old or too many, as `forget` does. Returns what was removed."""
        now = time.time() if now is None else now
        too_many = "key IN (SELECT key FROM queries ORDER BY last DESC LIMIT -1 OFFSET ?)"
        gone = self._remove(first, f"last < ? OR {too_many}", now - self._config.days * _DAY, self._config.keep)
        if gone:
            with suppress(StoreError):  # the next time
                self._db.empty_log()
        return gone

    def asked(self, *, first_after: float = 0.0) -> dict[str, int]:
        """How often each query was asked, in the order of the first time.

        Args:
            first_after: Only queries that were never asked before this time, seconds since 1970.
        """
        oldest = time.time() - self._config.days * _DAY
        query = "SELECT text, times FROM queries WHERE last >= ? AND first > ? ORDER BY first, key"
        with self._db.read() as db:
            return dict(db.execute(query, (oldest, first_after)))

    def __len__(self) -> int:
        """How many distinct queries there are."""
        with self._db.read() as db:
            return _count(db)

    @property
    def total(self) -> int:
        """How many there ever were, each wording once, forgotten ones included."""
        with self._db.read() as db:
            return int(db.execute("SELECT queries FROM total").fetchone()[0])

    def forget(
        self,
        *,
        matching: str | None = None,
        before: float | None = None,
        first: Callable[[list[str]], object] = list,
    ) -> list[str]:
        """Remove queries for good.

        Args:
            matching: Those that contain this text, whatever its case; None is no condition.
            before: Those last asked before this time, seconds since 1970; None is no condition.
            first: Called with them; where it raises nothing is removed.

        Returns:
            What was removed.

        Raises:
            StoreError: Another process keeps on reading, so that something of it is left on disk.
        """
        gone = self._remove(
            first,
            "(? IS NULL OR last < ?) AND (? IS NULL OR instr(casefold(text), casefold(?)))",
            before,
            before,
            matching,
            matching,
        )
        self._db.empty_log()  # which holds the texts, too
        return gone

    def _remove(self, first: Callable[[list[str]], object], where: str, *values: object) -> list[str]:
        """Remove what a condition says. Returns the texts."""
        with self._db.write() as db:
            db.create_function("casefold", 1, str.casefold, deterministic=True)
            rows = db.execute(f"DELETE FROM queries WHERE {where} RETURNING text", values).fetchall()
            gone = [str(text) for (text,) in rows]
            first(gone)
        return gone

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._db.close()


def _count(db: Connection) -> int:
    return int(db.execute("SELECT count(*) FROM queries").fetchone()[0])


def redaction(name: str | None) -> Redact:
    """The function that `name` means, such as ``mypackage.privacy:mask``; None changes nothing.

    Raises:
        ConfigError: There is no such function.
    """
    if name is None:
        return lambda text: text
    module, _, attribute = name.partition(":")
    try:
        function = getattr(import_module(module), attribute)
    except Exception as error:  # whatever the module does when it is imported
        raise ConfigError(
            f"queries.redact = {name!r} cannot be imported: {error!r}. Expected MODULE:FUNCTION, where the function "
            "takes a text and returns what may be kept of it, or None, and the module is installed, or its folder in "
            "PYTHONPATH."
        ) from error
    if not callable(function):
        raise ConfigError(f"queries.redact = {name!r} is a {type(function).__name__}, expected a function of a text.")
    return function  # type: ignore[no-any-return]
