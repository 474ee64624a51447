"""Journal of the documents, in SQLite. It holds all acknowledged data.

Each change of a chunk gets the next sequence number. A deleted chunk leaves a tombstone. The changes are applied to
every Chroma collection and to the lexical index, and the journal stores the number of the last change applied to each.
Catching up after a kill, a rollback or a long build is therefore always the same small step: apply the changes after
that number, in order.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragself.corpus.database import Database
from ragself.schema import Chunk

_SCHEMA = """
CREATE TABLE IF NOT EXISTS chunks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    source TEXT NOT NULL,
    text TEXT,              -- NULL: deleted
    metadata TEXT,
    document TEXT,          -- NULL: the text
    digest BLOB
);
CREATE INDEX IF NOT EXISTS chunks_by_source ON chunks (source);
CREATE TABLE IF NOT EXISTS applied (collection TEXT PRIMARY KEY, seq INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS written (collection TEXT PRIMARY KEY);  -- is being written, or was when its writer died
CREATE TABLE IF NOT EXISTS adopted (id TEXT PRIMARY KEY) WITHOUT ROWID;  -- chunks of the adopted collection
"""
_BATCH = 1000
LEXICAL = "lexical"  # collection name under which the position of the published lexical index is stored
REBUILT = " rebuilt"  # suffix of a collection name: marks a rebuild, besides the mark of the collection itself


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the journal: the chunk since sequence number `seq`, or None if it was deleted."""

    seq: int
    id: str
    chunk: Chunk | None


class Journal:
    """Chunks of a knowledge base, with the order in which they changed."""

    def __init__(self, path: Path) -> None:
        """Open or create the journal at `path`. Raises StoreError if it is damaged."""
        self._db = Database(path, _SCHEMA)
        with self._db.read() as db:
            if "document" not in {row[1] for row in db.execute("PRAGMA table_info(chunks)")}:  # of an earlier release
                db.execute("ALTER TABLE chunks ADD COLUMN document TEXT")
        self._data_version = 0
        self._writing: set[str] = set()  # collections that this process is writing to
        self.changed_elsewhere()

    def put(
        self, chunks: Sequence[Chunk], replacing: Sequence[str] = (), *, adopted: bool = False
    ) -> tuple[int, int, int]:
        """Add or update chunks in one transaction.

        Args:
            chunks: Chunks with unique ids.
            replacing: Sources whose chunks are deleted unless they are in `chunks`. Adopted chunks are kept.
            adopted: Whether the chunks come from the adopted collection.

        Returns:
            Numbers of new or changed, unchanged and deleted chunks.
        """
        changed = removed = 0
        with self._db.write() as db:
            for chunk in chunks:
                digest = _digest(chunk)
                row = db.execute("SELECT digest FROM chunks WHERE id = ?", (chunk.id,)).fetchone()
                if row is not None and row[0] == digest:
                    continue
                changed += 1
                metadata = json.dumps(dict(chunk.metadata), ensure_ascii=False)
                db.execute(
                    "INSERT OR REPLACE INTO chunks (id, source, text, metadata, document, digest) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (chunk.id, chunk.source, chunk.text, metadata, chunk.document, digest),
                )
            if adopted:
                db.executemany("INSERT OR IGNORE INTO adopted VALUES (?)", [(chunk.id,) for chunk in chunks])
            kept = {chunk.id for chunk in chunks}
            for source in replacing:
                query = (
                    "SELECT id FROM chunks WHERE source = ? AND text IS NOT NULL AND id NOT IN (SELECT id FROM adopted)"
                )
                rows = db.execute(query, (source,))
                gone = [row[0] for row in rows if row[0] not in kept]
                removed += len(gone)
                _bury(db, gone)
        return changed, len(chunks) - changed, removed

    def delete(self, ids: Sequence[str]) -> int:
        """Delete chunks and ignore unknown ids. Returns the number of deleted chunks."""
        with self._db.write() as db:
            present = [
                id
                for id in dict.fromkeys(ids)
                if db.execute("SELECT 1 FROM chunks WHERE id = ? AND text IS NOT NULL", (id,)).fetchone()
            ]
            _bury(db, present)
        return len(present)

    def changed(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Chunks that are new or differ from the stored ones."""
        found: dict[str, bytes] = dict(
            self._among([chunk.id for chunk in chunks], "SELECT id, digest FROM chunks WHERE id IN")
        )
        return [chunk for chunk in chunks if found.get(chunk.id) != _digest(chunk)]

    def holds(self, ids: Sequence[str]) -> set[str]:
        """Ids that have a chunk."""
        return {row[0] for row in self._among(ids, "SELECT id FROM chunks WHERE text IS NOT NULL AND id IN")}

    def adopted(self, ids: Sequence[str] | None = None) -> set[str]:
        """Ids of the chunks that come from the adopted collection: all of them, or those among `ids` if given."""
        if ids is not None:
            return {row[0] for row in self._among(ids, "SELECT id FROM adopted WHERE id IN")}
        with self._db.read() as db:
            return {row[0] for row in db.execute("SELECT id FROM adopted")}

    def _among(self, ids: Sequence[str], query: str) -> list[tuple[Any, ...]]:
        """Rows of a query that ends in ``IN``, for any number of ids."""
        with self._db.read() as db:
            found: list[tuple[Any, ...]] = []
            for start in range(0, len(ids), _BATCH):
                page = list(ids[start : start + _BATCH])
                found += db.execute(f"{query} ({','.join('?' * len(page))})", page)
        return found

    def __len__(self) -> int:
        """Number of chunks, tombstones not counted."""
        with self._db.read() as db:
            return int(db.execute("SELECT COUNT(*) FROM chunks WHERE text IS NOT NULL").fetchone()[0])

    def sources(self) -> int:
        """Number of distinct documents that the chunks belong to."""
        with self._db.read() as db:
            return int(db.execute("SELECT COUNT(DISTINCT source) FROM chunks WHERE text IS NOT NULL").fetchone()[0])

    def own_sources(self) -> list[str]:
        """Sources of the chunks that do not come from the adopted collection."""
        with self._db.read() as db:
            rows = db.execute(
                "SELECT DISTINCT source FROM chunks WHERE text IS NOT NULL AND id NOT IN (SELECT id FROM adopted)"
            )
            return [row[0] for row in rows]

    @property
    def head(self) -> int:
        """Newest sequence number; 0 in an empty journal."""
        with self._db.read() as db:
            row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'chunks'").fetchone()
            return int(row[0]) if row else 0

    def chunks(self) -> list[Chunk]:
        """All chunks, in the order of their last change."""
        with self._db.read() as db:
            rows = db.execute("SELECT id, text, metadata, document FROM chunks WHERE text IS NOT NULL ORDER BY seq")
            return [Chunk(id, text, json.loads(metadata), document) for id, text, metadata, document in rows]

    def changes(self, after: int) -> Iterator[list[Change]]:
        """Changes after sequence number `after`, oldest first, in batches of at most 1000."""
        while True:
            with self._db.read() as db:
                rows = db.execute(
                    "SELECT seq, id, text, metadata, document FROM chunks WHERE seq > ? ORDER BY seq LIMIT ?",
                    (after, _BATCH),
                ).fetchall()
            if not rows:
                return
            yield [
                Change(seq, id, None if text is None else Chunk(id, text, json.loads(metadata), document))
                for seq, id, text, metadata, document in rows
            ]
            after = rows[-1][0]

    def pending(self, after: int) -> int:
        """Number of changes after sequence number `after`."""
        with self._db.read() as db:
            return int(db.execute("SELECT COUNT(*) FROM chunks WHERE seq > ?", (after,)).fetchone()[0])

    def applied(self, collection: str) -> int:
        """Sequence number of the last change applied to a collection; 0 if there is none."""
        with self._db.read() as db:
            row = db.execute("SELECT seq FROM applied WHERE collection = ?", (collection,)).fetchone()
            return int(row[0]) if row else 0

    def mark_applied(self, collection: str, seq: int) -> None:
        """Store that all changes up to `seq` are applied to a collection."""
        with self._db.write() as db:
            db.execute("INSERT OR REPLACE INTO applied (collection, seq) VALUES (?, ?)", (collection, seq))

    def follows(self, collection: str) -> bool:
        """Whether the journal stores a last applied change for a collection."""
        with self._db.read() as db:
            return bool(db.execute("SELECT 1 FROM applied WHERE collection = ?", (collection,)).fetchone())

    @contextmanager
    def writing(self, collection: str) -> Iterator[None]:
        """Mark a collection as being written to. The mark stays if the block does not complete."""
        with self._db.write() as db:
            db.execute("INSERT OR IGNORE INTO written (collection) VALUES (?)", (collection,))
        self._writing.add(collection)
        try:
            yield
        finally:
            self._writing.discard(collection)
        with self._db.write() as db:
            db.execute("DELETE FROM written WHERE collection = ?", (collection,))

    def rebuilding(self, collection: str) -> bool:
        """Whether a collection is being rebuilt, or was when its writer died."""
        with self._db.read() as db:
            return bool(db.execute("SELECT 1 FROM written WHERE collection = ?", (collection + REBUILT,)).fetchone())

    def unsettled(self) -> set[str]:
        """Collections that another process is writing to, and those whose last write was interrupted."""
        with self._db.read() as db:
            return {row[0] for row in db.execute("SELECT collection FROM written")} - self._writing

    def changed_elsewhere(self) -> bool:
        """Whether another process has written since the last call."""
        with self._db.read() as db:
            version = int(db.execute("PRAGMA data_version").fetchone()[0])
        changed, self._data_version = version != self._data_version, version
        return changed

    def forget(self, collection: str) -> None:
        """Delete the records of a deleted collection, and tombstones that are applied to all other collections.

        The mark of a collection that this process is writing to stays: it was deleted to be rebuilt.
        """
        with self._db.write() as db:
            db.execute("DELETE FROM applied WHERE collection = ?", (collection,))
            if collection not in self._writing:
                db.execute("DELETE FROM written WHERE collection = ?", (collection,))
            db.execute("DELETE FROM chunks WHERE text IS NULL AND seq <= (SELECT COALESCE(MIN(seq), 0) FROM applied)")

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _bury(db: sqlite3.Connection, ids: Sequence[str]) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO chunks (id, source, text, metadata, digest) VALUES (?, '', NULL, NULL, NULL)",
        [(id,) for id in ids],
    )
    db.executemany("DELETE FROM adopted WHERE id = ?", [(id,) for id in ids])


def _digest(chunk: Chunk) -> bytes:
    document = [] if chunk.document is None else [chunk.document]
    content = json.dumps([chunk.text, dict(sorted(chunk.metadata.items())), *document], ensure_ascii=False)
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).digest()
