"""Files and folders that documents are in, looked at again and again: what changes there is taken over."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ragself.corpus.files import find, source_of
from ragself.errors import InputError
from ragself.progress import Progress, silent

if TYPE_CHECKING:  # which starts this
    from ragself.knowledge_base import KnowledgeBase

logger = logging.getLogger(__name__)

_AT_ONCE = 100  # files: what came first is found while the others are read
_Stamp = tuple[int, int]


class Folders:
    """What was in some folders when they were last looked at."""

    def __init__(self, kb: KnowledgeBase, paths: Sequence[Path]) -> None:
        """Name them. Raises InputError where one does not exist."""
        find(paths)
        self._kb, self.paths = kb, [Path(source_of(path)) for path in paths]
        self._seen: dict[Path, _Stamp] = {}
        self._first = True

    def look(self, progress: Progress = silent) -> None:
        """Add what is new or changed, some files at a time, and delete the chunks of files that are gone.

        Args:
            progress: Told of each stage; what it raises ends the look, and the next goes on from there.

        Raises:
            InputError: A folder is gone, and nothing was changed; or it has no file any more or cannot be listed, as if
                what it is on were away, and nothing below it was deleted.
            StoreLocked: Another process is writing.
        """
        if not self.paths:
            return
        now = {path: _stamp(path) for path in find(self.paths)}
        away = [path for path in now if path.is_dir()]  # they could not be listed
        away += [root for root in self.paths if not any(path.is_relative_to(root) for path in now)]
        changed = [path for path, stamp in now.items() if self._seen.get(path) != stamp]
        added = removed = 0
        for start in range(0, len(changed), _AT_ONCE):
            some = changed[start : start + _AT_ONCE]
            found = self._kb.add_files(some, progress)
            self._seen |= {path: now[path] for path in some}
            added, removed = added + found.added, removed + found.removed
            for skipped in found.skipped:
                logger.warning("%s is left out: %s", skipped.name, skipped.reason)
        if self._first or self._seen.keys() - now.keys():
            removed += self._kb.delete_files(self.paths, keep=now, away=away)
        below = {path: stamp for path, stamp in self._seen.items() if any(path.is_relative_to(root) for root in away)}
        self._seen, self._first = {**below, **now}, False
        if added or removed:
            logger.info("%d chunks added or changed, %d removed", added, removed)
        if away:
            names = ", ".join(map(str, away))
            raise InputError(
                f"There is no file left in {names}, or it cannot be listed. Nothing of it was deleted. If that is "
                "right, name another folder, and delete its documents."
            )


def _stamp(path: Path) -> _Stamp:
    try:
        stat = path.stat()
    except OSError:  # gone between two looks
        return 0, 0
    return stat.st_mtime_ns, stat.st_size
