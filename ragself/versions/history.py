"""The history of a knowledge base: one event a line in ``history.jsonl``, each line parsed once."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragself.versions.json_files import append_json


class History:
    """Events, oldest first. Threads may share it, and other processes may append to the same file."""

    def __init__(self, path: Path) -> None:
        """Read nothing yet."""
        self._path = path
        self._lock = threading.Lock()
        self._file = -1  # inode
        self._parsed = 0  # bytes
        self._events: list[Mapping[str, Any]] = []
        self._tail: list[Mapping[str, Any]] = []

    def events(self) -> list[Mapping[str, Any]]:
        """All events. A line that a kill cut off is skipped."""
        with self._lock:
            try:
                stat = self._path.stat()
            except FileNotFoundError:
                self._forget()
                return []
            if stat.st_ino != self._file or stat.st_size < self._parsed:  # another file in its place
                self._forget()
                self._file = stat.st_ino
            if stat.st_size > self._parsed:
                self._parse()
            return [*self._events, *self._tail]

    def append(self, event: Mapping[str, Any]) -> None:
        """Append an event durably. Raises StoreError if the disk is full or the file cannot be written."""
        append_json(self._path, event)

    def _parse(self) -> None:
        """Parse what was appended. A last line without its end is parsed again next time: it may be half written."""
        with self._path.open("rb") as file:
            file.seek(self._parsed)
            *lines, tail = file.read().split(b"\n")
        self._events += _valid(lines)
        self._parsed += sum(len(line) + 1 for line in lines)
        self._tail = _valid([tail])

    def _forget(self) -> None:
        self._file, self._parsed, self._events, self._tail = -1, 0, [], []


def _valid(lines: list[bytes]) -> list[Mapping[str, Any]]:
    events = []
    for line in lines:
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events
