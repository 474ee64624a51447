"""Cache of base vectors, by encoder and text, in SQLite.

The vectors depend on content alone. Losing this file costs only time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ragself.corpus.database import Database
from ragself.progress import Progress, silent

_SCHEMA = """
PRAGMA secure_delete = ON;  -- deleted content is overwritten
CREATE TABLE IF NOT EXISTS vectors (
    key BLOB PRIMARY KEY, vector BLOB NOT NULL, used INTEGER NOT NULL DEFAULT 0  -- number of the last pass that used it
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS passes (count INTEGER NOT NULL);
INSERT INTO passes SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM passes);
"""
_BATCH = 512  # texts encoded between two commits: the most that a kill can lose


class VectorCache:
    """Cache of the base vectors of encoded texts."""

    def __init__(self, path: Path) -> None:
        """Open or create the cache at `path`. Raises StoreError if it is damaged."""
        self._db = Database(path, _SCHEMA)
        with self._db.read() as db:
            if "used" not in {row[1] for row in db.execute("PRAGMA table_info(vectors)")}:  # of an earlier release
                db.execute("ALTER TABLE vectors ADD COLUMN used INTEGER NOT NULL DEFAULT 0")
            self._pass = int(db.execute("SELECT count FROM passes").fetchone()[0])

    def begin_pass(self) -> None:
        """Begin a new pass. Vectors requested from now on count as used by it."""
        with self._db.write() as db:
            db.execute("UPDATE passes SET count = count + 1")
            self._pass = int(db.execute("SELECT count FROM passes").fetchone()[0])

    def vectors(
        self,
        space: str,
        texts: Sequence[str],
        encode: Callable[[list[str]], NDArray[np.float32]],
        dimension: int,
        progress: Progress = silent,
        stage: str = "encode",
    ) -> NDArray[np.float32]:
        """Return vectors of `texts`, and encode only those not in the cache.

        Args:
            space: Key of everything that vectors depend on besides the text: encoder fingerprint and side.
            texts: Any number of texts. Duplicates are encoded once.
            encode: Encodes a list of n texts as an (n, dimension) float32 array.
            dimension: Width of the vectors.
            progress: Called with `stage`, texts encoded and their total, only if there are any to encode.
            stage: Name of the stage.

        Returns:
            (len(texts), dimension) float32, in the order of `texts`.
        """
        keys = [key_of(space, text) for text in texts]
        out = np.empty((len(texts), dimension), dtype=np.float32)
        known = self._lookup(keys, mark=True)
        missing: dict[bytes, str] = {}
        for row, (key, text) in enumerate(zip(keys, texts, strict=True)):
            blob = known.get(key)
            if blob is None:
                missing[key] = text
            else:
                out[row] = np.frombuffer(blob, dtype=np.float32)
        fresh = self._encode(missing, encode, progress, stage)
        for row, key in enumerate(keys):
            if key in fresh:
                out[row] = fresh[key]
        return out

    def named(self, keys: Sequence[bytes], dimension: int) -> NDArray[np.float32]:
        """Vectors by their keys: (len(keys), dimension) float32; rows of vectors not in the cache are NaN.

        Nothing is written, as searches do not count as use of a vector.

        Args:
            keys: Keys from `key_of`.
            dimension: Width of the vectors.
        """
        found = self._lookup(keys)
        nothing = np.full(dimension, np.nan, np.float32).tobytes()
        blob = b"".join([found.get(key, nothing) for key in keys])
        return np.frombuffer(blob, np.float32).reshape(len(keys), dimension)

    def keep(self, space: str, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Add vectors of `texts` that were computed elsewhere, (len(texts), dimension) float32."""
        rows = [(key_of(space, text), vector.tobytes()) for text, vector in zip(texts, vectors, strict=True)]
        with self._db.write() as db:
            db.executemany(f"INSERT OR IGNORE INTO vectors VALUES (?, ?, {self._pass})", rows)

    def drop(self, space: str, texts: Sequence[str]) -> None:
        """Delete the vectors of texts."""
        with self._db.write() as db:
            db.executemany("DELETE FROM vectors WHERE key = ?", [(key_of(space, text),) for text in texts])
        self._db.empty_log()  # the log holds them, too

    def missing(self, space: str, texts: Sequence[str]) -> list[str]:
        """Those of `texts` that have no vector in the cache, each once."""
        keys = {text: key_of(space, text) for text in texts}
        known = self._lookup(list(keys.values()))
        return [text for text, key in keys.items() if key not in known]

    def prune(self, needed: Mapping[str, Iterable[str]]) -> int:
        """Delete vectors that neither the last two passes nor the texts in `needed` use. Returns the number deleted."""
        with self._db.write() as db:
            db.execute("CREATE TEMP TABLE IF NOT EXISTS needed (key BLOB PRIMARY KEY) WITHOUT ROWID")
            db.execute("DELETE FROM needed")
            keys = (key_of(space, text) for space, texts in needed.items() for text in texts)
            db.executemany("INSERT OR IGNORE INTO needed VALUES (?)", ((key,) for key in keys))
            done = db.execute(
                "DELETE FROM vectors WHERE used < (SELECT count - 1 FROM passes) "  # of all processes
                "AND key NOT IN (SELECT key FROM needed)"
            )
            count = done.rowcount
        self._db.compact()
        return count

    def _lookup(self, keys: Sequence[bytes], *, mark: bool = False) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            among = f"key IN ({','.join('?' * len(batch))})"
            with self._db.read() as db:
                rows = db.execute(f"SELECT key, vector, used FROM vectors WHERE {among}", batch).fetchall()
            found.update((key, vector) for key, vector, _ in rows)
            if mark and any(used < self._pass for *_, used in rows):
                with self._db.write() as db:
                    db.execute(f"UPDATE vectors SET used = {self._pass} WHERE {among}", batch)
        return found

    def _encode(
        self,
        missing: dict[bytes, str],
        encode: Callable[[list[str]], NDArray[np.float32]],
        progress: Progress,
        stage: str,
    ) -> dict[bytes, NDArray[np.float32]]:
        fresh: dict[bytes, NDArray[np.float32]] = {}
        items = sorted(missing.items(), key=lambda item: -len(item[1]))  # similar lengths together: less padding
        for start in range(0, len(items), _BATCH):
            progress(stage, start, len(items))
            batch = items[start : start + _BATCH]
            vectors = encode([text for _, text in batch]).astype(np.float32, copy=False)
            rows = [(key, vector.tobytes()) for (key, _), vector in zip(batch, vectors, strict=True)]
            with self._db.write() as db:
                db.executemany(f"INSERT OR REPLACE INTO vectors VALUES (?, ?, {self._pass})", rows)
            fresh.update((key, vector) for (key, _), vector in zip(batch, vectors, strict=True))
        if items:
            progress(stage, len(items), len(items))
        return fresh

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def key_of(space: str, text: str) -> bytes:
    """The 16-byte key of the vector of a text in a space."""
    return hashlib.blake2b(f"{space}\0{text}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
