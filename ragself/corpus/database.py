"""SQLite access: write-ahead log, durable commits, one connection for all threads."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ragself.errors import StoreError

_SLACK = 0.2  # maximum share of free pages in a file
_TIMEOUT = 30.0  # seconds to wait for the lock of another process


class Database:
    """One SQLite file, shared by the threads of this process and safe to use next to other processes."""

    def __init__(self, path: Path, schema: str, *, durable: bool = True) -> None:
        """Open `path`. Create it with `schema` if it does not exist.

        Args:
            path: The file.
            schema: SQL that creates its tables.
            durable: Whether a commit survives a power cut. If False, it survives the end of the process and is faster.

        Raises:
            StoreError: The file is not an SQLite database, is damaged or cannot be written.
        """
        self.path = path
        self._lock = threading.RLock()
        try:
            self._connection = sqlite3.connect(path, timeout=_TIMEOUT, check_same_thread=False, isolation_level=None)
            _turn_on_log(self._connection)
            self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._connection.executescript(schema)
        except sqlite3.OperationalError as error:
            raise StoreError(f"Cannot open {path}: {error}. Free some space or fix the permissions.") from error
        except sqlite3.Error as error:
            raise StoreError(f"Cannot open {path}: {error}. Restore it from a backup.") from error

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection to one thread. Raises StoreError if the file is damaged."""
        with self._lock, self._explained():
            yield self._connection

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection for one transaction. All of it is kept, or nothing.

        Raises:
            StoreError: The disk is full or not writable. Nothing of the transaction was kept.
        """
        with self._lock, self._explained():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # on a full disk SQLite has already rolled back
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Convert file errors into errors that say what to do. Programming errors stay as they are."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StoreError(
                f"Cannot use {self.path}: {error}. Nothing of this step was kept; "
                "free some space or fix the permissions and run the same command again."
            ) from error
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:
                raise
            raise StoreError(f"Cannot read {self.path}: {error}. Restore it from a backup.") from error

    def compact(self) -> None:
        """Free the disk space of deleted rows if it is over a fifth of the file. Other processes wait meanwhile."""
        with self._lock, self._explained():
            free, pages = (
                int(self._connection.execute(f"PRAGMA {what}").fetchone()[0])
                for what in ("freelist_count", "page_count")
            )
            if free > _SLACK * pages:
                self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def empty_log(self) -> None:
        """Write the content of the write-ahead log to the database file, and empty the log.

        Raises:
            StoreError: Another process keeps reading the log.
        """
        with self._lock, self._explained():
            busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:  # SQLite has already waited for its timeout
            raise StoreError(
                f"Cannot empty {self.path}-wal: another process reads it. The file still contains the removed data; "
                "run the same command again, or stop that process."
            )

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        with self._lock:
            self._connection.close()


def _turn_on_log(connection: sqlite3.Connection) -> None:
    """Enable the write-ahead log. Retry, as SQLite does not wait for locks here and other processes may do the same."""
    end = time.monotonic() + _TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.05)
