"""Files and folders that documents are in, looked at again and again: what changes there is taken over."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ragself.corpus.files import find
from ragself.errors import InputError
from ragself.knowledge import KnowledgeBase
from ragself.schema import Added

logger = logging.getLogger(__name__)

_Stamp = tuple[int, int]


class Folders:
    """What was in some folders when they were last looked at."""

    def __init__(self, kb: KnowledgeBase, paths: Sequence[Path]) -> None:
        """Name them. Raises InputError where one does not exist."""
        find(paths)
        self._kb, self._paths = kb, [path.absolute() for path in paths]
        self._seen: dict[Path, _Stamp] = {}
        self._first = True

    def look(self) -> Added:
        """Add what is new or changed, and delete the chunks of files that are gone. Returns what was done.

        Raises:
            InputError: A folder is gone; nothing was changed.
            StoreLocked: Another process is writing.
        """
        if not self._paths:
            return Added()
        now = {path: _stamp(path) for path in find(self._paths)}
        if not now and (self._seen or self._first):
            raise InputError(f"There is no file left in {', '.join(map(str, self._paths))}. Nothing was deleted.")
        changed = [path for path, stamp in now.items() if self._seen.get(path) != stamp]
        gone = self._seen.keys() - now.keys()
        added = self._kb.add_files(changed) if changed else Added()
        removed = 0
        if gone or self._first:
            removed = self._kb.delete_files(self._paths, keep=now)
        self._seen, self._first = now, False
        if added.added or added.removed or removed:
            logger.info("%d chunks added or changed, %d removed", added.added, added.removed + removed)
        for skipped in added.skipped:
            logger.warning("%s is left out: %s", skipped.name, skipped.reason)
        return added


def _stamp(path: Path) -> _Stamp:
    try:
        stat = path.stat()
    except OSError:  # gone between two looks
        return 0, 0
    return stat.st_mtime_ns, stat.st_size
