"""Reads the journal for searches, over a separate connection that no writing thread of this process blocks."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ragself.errors import StoreError
from ragself.schema import Chunk

BATCH = 1000  # changes or ids in one statement

_TIMEOUT = 30.0  # seconds to wait for the lock of another process


class JournalReader:
    """Reader of ``corpus.db``. Threads may share it."""

    def __init__(self, path: Path) -> None:
        """Open a file that a `Journal` created. Raises StoreError if it cannot be read."""
        self._path = path
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_TIMEOUT, check_same_thread=False,
                isolation_level=None,
            )  # fmt: skip
        except sqlite3.Error as error:
            raise StoreError(f"Cannot read {path}: {error}. Fix its permissions.") from error

    def chunks(self, ids: Sequence[str]) -> dict[str, Chunk]:
        """Current chunks of these ids. Unknown ids are left out.

        Raises:
            StoreError: The file is damaged. The methods below raise this, too.
        """
        found: dict[str, Chunk] = {}
        for start in range(0, len(ids), BATCH):
            page = list(ids[start : start + BATCH])
            query = f"SELECT id, text, metadata, document FROM chunks WHERE id IN ({','.join('?' * len(page))})"
            for id, text, metadata, document in self._rows(query, page):
                if text is not None:
                    found[id] = Chunk(id, text, json.loads(metadata), document)
        return found

    def version(self) -> int:
        """A number that changes with every commit of another connection. Takes microseconds."""
        return int(self._rows("PRAGMA data_version")[0][0])

    def head(self) -> int:
        """Newest sequence number; 0 in an empty journal."""
        rows = self._rows("SELECT seq FROM sqlite_sequence WHERE name = 'chunks'")
        return int(rows[0][0]) if rows else 0

    def after(self, seq: int) -> list[tuple[int, str, str | None]]:
        """Sequence number, id and text (None if deleted) of the next `BATCH` changes, oldest first."""
        return self._rows("SELECT seq, id, text FROM chunks WHERE seq > ? ORDER BY seq LIMIT ?", (seq, BATCH))

    def count(self, seq: int) -> int:
        """Number of changes after a sequence number."""
        return int(self._rows("SELECT COUNT(*) FROM chunks WHERE seq > ?", (seq,))[0][0])

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        with self._lock:
            self._connection.close()

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            with self._lock:
                return self._connection.execute(query, values).fetchall()
        except sqlite3.ProgrammingError:  # the connection was closed
            raise
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"Cannot read {self._path}: {error}. Fix its permissions, or restore it from a backup."
            ) from error
