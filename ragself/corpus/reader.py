"""Chunks of the journal by id, for searches: over a connection that no writing thread of this process holds up."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from ragself.errors import StoreError
from ragself.schema import Chunk

_BATCH = 1000  # ids in one statement
_TIMEOUT = 30.0  # seconds to wait for another process


class ChunkReader:
    """Reads ``corpus.db``. Threads may share it."""

    def __init__(self, path: Path) -> None:
        """Open the file that a `Journal` has made. Raises StoreError where it cannot be read."""
        self._path = path
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_TIMEOUT, check_same_thread=False,
                isolation_level=None,
            )  # fmt: skip
        except sqlite3.Error as error:
            raise StoreError(f"Cannot open {path}: {error}. Mend its permissions.") from error

    def chunks(self, ids: Sequence[str]) -> dict[str, Chunk]:
        """The chunks of these ids, as they are now; ids that are not there are left out.

        Raises:
            StoreError: The file is damaged.
        """
        found: dict[str, Chunk] = {}
        for start in range(0, len(ids), _BATCH):
            page = list(ids[start : start + _BATCH])
            query = f"SELECT id, text, metadata, document FROM chunks WHERE id IN ({','.join('?' * len(page))})"
            for id, text, metadata, document in self._rows(query, page):
                if text is not None:
                    found[id] = Chunk(id, text, json.loads(metadata), document)
        return found

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        with self._lock:
            self._connection.close()

    def _rows(self, query: str, values: Sequence[str]) -> list[tuple[str, str | None, str, str | None]]:
        try:
            with self._lock:
                return self._connection.execute(query, values).fetchall()
        except sqlite3.ProgrammingError:  # it was closed
            raise
        except sqlite3.DatabaseError as error:
            raise StoreError(f"Cannot read {self._path}: {error}. Restore it from a backup.") from error
