"""One writer at a time: two processes writing one embedded Chroma folder destroy it."""

from __future__ import annotations

import json
import os
import sys
import threading
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from ragself.errors import StoreError, StoreLocked

_TURNS: dict[Path, threading.RLock] = {}


class WriterLock:
    """The right to write to a knowledge base, held by one process until it is released or dies.

    Attributes:
        turn: Taken for each write by whoever has the right in this process: it may have opened the folder twice.
    """

    def __init__(self, directory: Path) -> None:
        """Name the lock; nothing is taken yet."""
        path = directory / "writer.lock"
        self._lock = FileLock(path, timeout=2, thread_local=False, is_singleton=True)  # a look by `holder` is short
        self._holder = directory / "writer.json"
        self._held = False
        self.turn = _TURNS.setdefault(path, threading.RLock())

    def acquire(self) -> None:
        """Take the lock; a second call does nothing.

        Raises:
            StoreLocked: Another process has it. The message names that process.
            StoreError: The folder cannot be written.
        """
        if self.held:
            return
        try:
            self._lock.acquire()
        except Timeout:
            raise StoreLocked(
                f"{self._holder.parent} is being written to by {self._describe()}. Wait for it or stop it. "
                "Searching is possible meanwhile."
            ) from None
        except OSError as error:
            raise StoreError(
                f"Cannot write to {self._holder.parent}: {error}. Mend the permissions or free some space."
            ) from error
        holder = {
            "pid": os.getpid(),
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200],
            "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        try:
            self._holder.write_text(json.dumps(holder))
        except OSError as error:
            self._lock.release()
            raise StoreError(f"Cannot write {self._holder}: {error}. Free some space.") from error
        self._held = True

    @property
    def held(self) -> bool:
        """Whether it was acquired by this object."""
        return self._held

    def release(self) -> None:
        """Give the lock back; does nothing where it is not held. The process keeps it while another object does."""
        if self._held:
            self._held = False
            if self._lock.lock_counter == 1:
                self._holder.unlink(missing_ok=True)
            self._lock.release()

    def holder(self) -> str | None:
        """Who is writing now, or None. Asks the lock itself: a file alone may be left by a killed process."""
        if self._lock.is_locked:
            return self._describe()
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return self._describe()
        except OSError:  # a read-only folder has no writer
            return None
        self._lock.release()
        return None

    def _describe(self) -> str:
        try:
            holder = json.loads(self._holder.read_text())
            return f"process {holder['pid']} ({holder['command']}, since {holder['since']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"
