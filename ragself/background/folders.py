"""Watches files and folders that contain documents, and applies their changes to the knowledge base."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ragself.corpus.files import find, source_of
from ragself.errors import InputError
from ragself.progress import Progress, silent

if TYPE_CHECKING:  # it imports this package
    from ragself.knowledge_base import KnowledgeBase

logger = logging.getLogger(__name__)

_AT_ONCE = 100  # files per batch: the first ones can be found while the others are read
_Stamp = tuple[int, int]


class Folders:
    """State of files and folders at the last poll."""

    def __init__(self, kb: KnowledgeBase, paths: Sequence[Path]) -> None:
        """Store the paths. Raises InputError if one does not exist."""
        find(paths)
        self._kb, self.paths = kb, [Path(source_of(path)) for path in paths]
        self._seen: dict[Path, _Stamp] = {}
        self._first = True

    def poll(self, progress: Progress = silent) -> None:
        """Add new and changed files in batches, and delete the chunks of files that no longer exist.

        Args:
            progress: Called with each stage, steps done and total. An exception that it raises ends the poll; the next
                poll continues from there.

        Raises:
            InputError: A folder does not exist, and nothing was changed; or it contains no file or cannot be listed, as
                if its drive were not mounted, and nothing below it was deleted.
            StoreLocked: Another process is writing.
        """
        if not self.paths:
            return
        now = {path: _stamp(path) for path in find(self.paths)}
        away = [path for path in now if path.is_dir()]  # folders that could not be listed
        away += [root for root in self.paths if not any(path.is_relative_to(root) for path in now)]
        changed = [path for path, stamp in now.items() if self._seen.get(path) != stamp]
        added = removed = 0
        for start in range(0, len(changed), _AT_ONCE):
            some = changed[start : start + _AT_ONCE]
            found = self._kb.add_files(some, progress)
            self._seen |= {path: now[path] for path in some}
            added, removed = added + found.added, removed + found.removed
            for skipped in found.skipped:
                logger.warning("%s was skipped: %s", skipped.name, skipped.reason)
        if self._first or self._seen.keys() - now.keys():
            removed += self._kb.delete_files(self.paths, keep=now, away=away)
        below = {path: stamp for path, stamp in self._seen.items() if any(path.is_relative_to(root) for root in away)}
        self._seen, self._first = {**below, **now}, False
        if added or removed:
            logger.info("%d chunks added or changed, %d removed", added, removed)
        if away:
            names = ", ".join(map(str, away))
            raise InputError(
                f"There is no file left in {names}, or it cannot be listed. None of its documents was deleted. If its "
                "files were removed on purpose, name another folder, and delete these documents."
            )


def _stamp(path: Path) -> _Stamp:
    try:
        stat = path.stat()
    except OSError:  # deleted since it was listed
        return 0, 0
    return stat.st_mtime_ns, stat.st_size
