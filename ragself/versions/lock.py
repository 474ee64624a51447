"""Locks between processes and threads: roles that a process holds for long, and a turn that is taken for one change.

writer.lock   the role of changing documents: two processes that write one embedded Chroma folder destroy it
pass.lock     the role of training: one pass runs at a time
turn.lock     the turn to change what is served, or to open it while no process changes it
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, TypeAlias

from filelock import FileLock, Timeout

from ragself.errors import StoreError, StoreLocked

Role: TypeAlias = Literal["writer", "pass"]

_DOES: dict[Role, str] = {"writer": "is being written to by", "pass": "is already being trained by"}
_POLL = 0.01  # seconds between two polls of a lock
_PATIENCE = 2.0  # seconds; `holder` takes the lock only for a moment

_threads: dict[Path, threading.RLock] = {}
_generations: Counter[str] = Counter()


class ProcessLock:
    """A role on a knowledge base, held by one process until it is released or the process dies.

    Attributes:
        threads: Lock among the threads of this process, which share the role.
    """

    def __init__(self, directory: Path, role: Role = "writer") -> None:
        """Store the role; nothing is locked yet."""
        path = directory / f"{role}.lock"
        self._role = role
        self._lock = FileLock(path, timeout=_PATIENCE, thread_local=False, is_singleton=True)
        self._holder = directory / f"{role}.json"
        self._held = False
        self.threads = _threads.setdefault(path, threading.RLock())

    def acquire(self) -> None:
        """Take the role; a second call does nothing.

        Raises:
            StoreLocked: Another process holds it. The message names that process.
            StoreError: The folder cannot be written.
        """
        if self.held:
            return
        try:
            self._lock.acquire()
        except Timeout:
            raise StoreLocked(
                f"{self._holder.parent} {_DOES[self._role]} {self._describe()}. Wait for it or stop it. "
                "Searching is possible meanwhile."
            ) from None
        except OSError as error:
            raise StoreError(
                f"Cannot write to {self._holder.parent}: {error}. Fix the permissions or free some space."
            ) from error
        holder = {
            "pid": os.getpid(),
            "command": _command(),
            "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        try:
            self._holder.write_text(json.dumps(holder))
        except OSError as error:
            self._lock.release()
            raise StoreError(f"Cannot write {self._holder}: {error}. Free some space.") from error
        self._held = True
        if self._lock.lock_counter == 1:
            self.begin_generation()

    def begin_generation(self) -> None:
        """Start a new generation: everything opened until now is out of date."""
        _generations[self._lock.lock_file] += 1

    @property
    def generation(self) -> int | None:
        """Counter for this process; when it changes, databases must be reopened. None if the process lacks the role."""
        return _generations[self._lock.lock_file] if self.here else None

    @property
    def held(self) -> bool:
        """Whether this object has acquired the role."""
        return self._held

    @property
    def here(self) -> bool:
        """Whether this process holds the role, through any object."""
        return self._lock.is_locked

    def release(self) -> None:
        """Release the role; does nothing if it is not held. The process keeps it while another object holds it."""
        if self._held:
            self._held = False
            if self._lock.lock_counter == 1:
                self._holder.unlink(missing_ok=True)
            self._lock.release()

    def holder(self) -> str | None:
        """Process that holds the role now, or None. Tests the lock itself: a killed process may leave its file."""
        if self._lock.is_locked:
            return self._describe()
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return self._describe()
        except OSError:  # no process can write to a read-only folder
            return None
        self._lock.release()
        return None

    def _describe(self) -> str:
        try:
            holder = json.loads(self._holder.read_text())
            return f"process {holder['pid']} ({holder['command']}, since {holder['since']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"


def _command() -> str:
    """Name of the program and its subcommand, without further arguments: they may be queries or keys."""
    return " ".join([Path(sys.argv[0]).name, *(word for word in sys.argv[1:2] if word.isalpha())])[:200]


class Turn:
    """The turn to change what is served, among the threads of this process and among processes.

    Attributes:
        threads: Lock that is taken first, or alone if only threads of this process may interfere.
    """

    _all: dict[Path, Turn] = {}  # noqa: RUF012  one per folder, shared in this process

    def __init__(self, path: Path) -> None:
        """Use `of`."""
        self.threads = threading.RLock()
        self._lock = FileLock(path, thread_local=False)
        self._reading = FileLock(path, thread_local=False)
        self._opening = threading.Lock()
        self._owner: int | None = None

    @classmethod
    def of(cls, directory: Path) -> Turn:
        """The turn of a knowledge base."""
        path = directory / "turn.lock"
        return cls._all.setdefault(path, cls(path))

    @contextmanager
    def taken(self, patience: float = -1) -> Iterator[None]:
        """Take the turn. The same thread may take it repeatedly.

        Args:
            patience: Maximum seconds to wait for another process; -1 waits without limit.

        Raises:
            StoreLocked: Another process held it for that long.
            StoreError: The folder cannot be written.
        """
        with self.threads:
            try:
                self._lock.acquire(timeout=patience, poll_interval=_POLL)
            except Timeout:
                raise StoreLocked(f"Another process is changing {Path(self._lock.lock_file).parent}.") from None
            except OSError as error:
                folder = Path(self._lock.lock_file).parent
                raise StoreError(
                    f"Cannot write to {folder}: {error}. Fix the permissions or free some space."
                ) from error
            before, self._owner = self._owner, threading.get_ident()
            try:
                yield
            finally:
                self._owner = before
                self._lock.release()

    @property
    def mine(self) -> bool:
        """Whether this thread has the turn."""
        return self._owner == threading.get_ident()

    @contextmanager
    def watched(self, patience: float) -> Iterator[bool]:
        """Keep other processes from changing anything for a moment; threads of this process are not affected.

        Yields whether that succeeded within `patience` seconds.
        """
        if self.mine:
            yield True
            return
        with self._opening:
            try:
                self._reading.acquire(timeout=patience, poll_interval=_POLL)
            except Timeout:
                yield False
                return
            except OSError:  # no process can write to a read-only folder
                yield True
                return
            try:
                yield True
            finally:
                self._reading.release()
