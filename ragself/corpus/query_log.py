"""Log of queries, in SQLite: opt-in, readable by its owner only, limited in age and number by the settings."""

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
PRAGMA secure_delete = ON;  -- deleted content is overwritten
CREATE TABLE IF NOT EXISTS queries (
    key TEXT PRIMARY KEY, text TEXT NOT NULL, times INTEGER NOT NULL, first REAL NOT NULL, last REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS total (queries INTEGER NOT NULL);
INSERT INTO total SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM total);
"""
_DAY = 86_400.0


class QueryLog:
    """Queries of a knowledge base: each distinct wording with its count."""

    def __init__(self, path: Path, config: QueriesConfig) -> None:
        """Open or create the log at `path`, mode 0600. Raises StoreError if that is impossible."""
        self._config = config
        try:
            if not path.exists():  # closing a file that this process has open elsewhere would drop SQLite's locks
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            path.chmod(0o600)  # SQLite gives its other files the same mode
        except OSError as error:
            raise StoreError(f"Cannot open {path}: {error}. Fix the permissions or free some space.") from error
        self._db = Database(path, _SCHEMA, durable=False)
        self.purge()

    def add(self, queries: Mapping[str, int], now: float | None = None) -> None:
        """Add queries with their counts, and remove queries beyond the limits of age and number.

        Args:
            queries: Number of searches for each text. Texts without a word are ignored.
            now: Seconds since 1970; None means the current time.
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
        """Remove queries beyond the limits of age and number, as `forget` does. Returns their texts."""
        now = time.time() if now is None else now
        too_many = "key IN (SELECT key FROM queries ORDER BY last DESC LIMIT -1 OFFSET ?)"
        gone = self._remove(first, f"last < ? OR {too_many}", now - self._config.days * _DAY, self._config.keep)
        if gone:
            with suppress(StoreError):  # the next call tries again
                self._db.empty_log()
        return gone

    def asked(self, *, first_after: float = 0.0) -> dict[str, int]:
        """Number of searches for each query, in the order of the first search.

        Args:
            first_after: Seconds since 1970. Only queries first searched after this time are returned.
        """
        oldest = time.time() - self._config.days * _DAY
        query = "SELECT text, times FROM queries WHERE last >= ? AND first > ? ORDER BY first, key"
        with self._db.read() as db:
            return dict(db.execute(query, (oldest, first_after)))

    def __len__(self) -> int:
        """Number of distinct queries."""
        with self._db.read() as db:
            return _count(db)

    @property
    def total(self) -> int:
        """Number of distinct queries ever added, including removed ones."""
        with self._db.read() as db:
            return int(db.execute("SELECT queries FROM total").fetchone()[0])

    def forget(
        self,
        *,
        matching: str | None = None,
        before: float | None = None,
        first: Callable[[list[str]], object] = list,
    ) -> list[str]:
        """Remove queries permanently.

        Args:
            matching: Remove only queries that contain this text, in any case; None is no condition.
            before: Seconds since 1970. Remove only queries last searched before this time; None is no condition.
            first: Called with the texts before the removal is committed. If it raises, nothing is removed.

        Returns:
            Texts that were removed.

        Raises:
            StoreError: Another process keeps reading, so that some removed data is left on disk.
        """
        gone = self._remove(
            first,
            "(? IS NULL OR last < ?) AND (? IS NULL OR instr(casefold(text), casefold(?)))",
            before,
            before,
            matching,
            matching,
        )
        self._db.empty_log()  # the log holds the texts, too
        return gone

    def _remove(self, first: Callable[[list[str]], object], where: str, *values: object) -> list[str]:
        """Remove queries that fulfil a condition. Returns their texts."""
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
    """Import a redaction function by name, such as ``mypackage.privacy:mask``. None gives the identity function.

    Raises:
        ConfigError: There is no such function.
    """
    if name is None:
        return lambda text: text
    module, _, attribute = name.partition(":")
    try:
        function = getattr(import_module(module), attribute)
    except Exception as error:  # importing a module may raise any error
        raise ConfigError(
            f"queries.redact = {name!r} cannot be imported: {error!r}. Expected MODULE:FUNCTION, where the function "
            "takes a text and returns the text to keep, or None. The module must be installed, or its folder in "
            "PYTHONPATH."
        ) from error
    if not callable(function):
        raise ConfigError(f"queries.redact = {name!r} is a {type(function).__name__}, expected a function of a text.")
    return function  # type: ignore[no-any-return]
