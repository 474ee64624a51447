"""The journal as the index reads it: over a connection of its own, which no writer of this process holds up."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ragself.errors import StoreError

BATCH = 1000  # changes

_TIMEOUT = 30.0  # seconds to wait for another process


class Changes:
    """What changed in ``corpus.db``. To be used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open the file that a `Journal` has made. Raises StoreError where it cannot be read."""
        self._path = path
        with self._explained():
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_TIMEOUT, check_same_thread=False,
                isolation_level=None,
            )  # fmt: skip

    def version(self) -> int:
        """A number that is another one as soon as anybody has committed anything. Takes microseconds."""
        with self._explained():
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def head(self) -> int:
        """The newest sequence number, 0 in an empty journal."""
        with self._explained():
            row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'chunks'").fetchone()
        return int(row[0]) if row else 0

    def after(self, seq: int) -> list[tuple[int, str, str | None]]:
        """Sequence number, id and text, or None where it was deleted, of the next changes, oldest first."""
        with self._explained():
            return self._connection.execute(
                "SELECT seq, id, text FROM chunks WHERE seq > ? ORDER BY seq LIMIT ?", (seq, BATCH)
            ).fetchall()

    def count(self, seq: int) -> int:
        """How many changes there are after a sequence number."""
        with self._explained():
            return int(self._connection.execute("SELECT COUNT(*) FROM chunks WHERE seq > ?", (seq,)).fetchone()[0])

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._connection.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:  # it was closed
            raise
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"Cannot read {self._path}: {error}. Mend its permissions, or restore it from a backup."
            ) from error
