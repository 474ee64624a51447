"""Copies another program's embedded Chroma database, so that the copy can be read in its place.

Chroma writes even when it only opens a database. Two processes that have one open, or two SQLite libraries in one
process, can damage it. This file therefore runs as a program of its own, with nothing but the standard library::

    python folder_copy.py SOURCE TARGET COLLECTION
"""

from __future__ import annotations

import shutil
import sqlite3
import sys
import time
from pathlib import Path
from urllib.parse import quote

_PAGES = 16384  # of 4 kB, copied in one step while the writer waits
_TRIES = 10
_PAUSE = 0.5  # seconds
_BUSY = "another process keeps writing to it"

Signature = dict[str, tuple[int, int]]


def copy(source: Path, target: Path, collection: str) -> bool:
    """Copy the database and the graphs of the collections of that name.

    Args:
        source: Folder of the database; it is only read.
        target: A new folder.
        collection: Name of the collection; others keep their rows in the copy, but not their vectors.

    Returns:
        Whether no process wrote to it meanwhile; otherwise the copy is unusable.
    """
    database = sqlite3.connect(f"file:{quote(str(source / 'chroma.sqlite3'))}?mode=ro", uri=True)
    try:
        query = "SELECT id FROM segments WHERE collection IN (SELECT id FROM collections WHERE name = ?)"
        graphs = [name for (name,) in database.execute(query, (collection,)) if (source / name).is_dir()]
        before = _signature(source, graphs)
        copied = sqlite3.connect(target / "chroma.sqlite3")
        database.backup(copied, pages=_PAGES, progress=_Patience(), sleep=0.01)
        copied.close()
        for name in graphs:
            shutil.copytree(source / name, target / name, dirs_exist_ok=True)
        return _signature(source, graphs) == before
    finally:
        database.close()


class _Patience:
    """Limit on restarts: SQLite restarts a copy when another process writes."""

    def __init__(self) -> None:
        self._remaining = 0
        self._begun = 0

    def __call__(self, status: int, remaining: int, total: int) -> None:
        self._begun += remaining >= self._remaining
        self._remaining = remaining
        if self._begun > _TRIES:
            raise sqlite3.OperationalError(_BUSY)


def _signature(source: Path, graphs: list[str]) -> Signature:
    files = [file for name in graphs for file in (source / name).iterdir()]
    return {str(file): (file.stat().st_mtime_ns, file.stat().st_size) for file in files}


def main(source: Path, target: Path, collection: str) -> str | None:
    """Retry until no process writes during the copy. Returns the error, or None."""
    failed = _BUSY
    for _ in range(_TRIES):
        try:
            if copy(source, target, collection):
                return None
        except (OSError, sqlite3.OperationalError, shutil.Error) as error:  # gone or locked at this moment
            failed = str(error)
        except sqlite3.Error as error:
            return str(error)
        shutil.rmtree(target)
        target.mkdir(mode=0o700)
        time.sleep(_PAUSE)
    return failed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
