"""What was expensive and depends on content alone: base vectors, by encoder and text, in SQLite.

Losing this file costs time and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ragself.corpus.database import Database
from ragself.progress import Progress, silent

_SCHEMA = """
CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID;
"""
_BATCH = 512  # texts encoded between two commits: what a kill can cost


class VectorCache:
    """Base vectors of texts that were encoded before."""

    def __init__(self, path: Path) -> None:
        """Open or create the cache at `path`. Raises StoreError where it is damaged."""
        self._db = Database(path, _SCHEMA)

    def vectors(
        self,
        space: str,
        texts: Sequence[str],
        encode: Callable[[list[str]], NDArray[np.float32]],
        dimension: int,
        progress: Progress = silent,
        stage: str = "encode",
    ) -> NDArray[np.float32]:
        """Vectors of `texts`, encoding only those never seen.

        Args:
            space: What the vectors depend on besides the text: encoder fingerprint and side.
            texts: Any number; duplicates are encoded once.
            encode: Turns a list of texts into an (n, dimension) float32 array.
            dimension: Width of the vectors.
            progress: Told of texts encoded, only when there are any to encode.
            stage: The name to tell it.

        Returns:
            (len(texts), dimension) float32, in the order of `texts`.
        """
        keys = [_key(space, text) for text in texts]
        out = np.empty((len(texts), dimension), dtype=np.float32)
        known = self._lookup(keys)
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

    def keep(self, space: str, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Take vectors of `texts` that were computed elsewhere, (len(texts), dimension) float32."""
        rows = [(_key(space, text), vector.tobytes()) for text, vector in zip(texts, vectors, strict=True)]
        with self._db.write() as db:
            db.executemany("INSERT OR IGNORE INTO vectors (key, vector) VALUES (?, ?)", rows)

    def drop(self, space: str, texts: Sequence[str]) -> None:
        """Forget the vectors of texts."""
        with self._db.write() as db:
            db.executemany("DELETE FROM vectors WHERE key = ?", [(_key(space, text),) for text in texts])

    def missing(self, space: str, texts: Sequence[str]) -> list[str]:
        """Those of `texts` that have no vector yet, each once."""
        keys = {text: _key(space, text) for text in texts}
        known = self._lookup(list(keys.values()))
        return [text for text, key in keys.items() if key not in known]

    def _lookup(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        with self._db.read() as db:
            for start in range(0, len(keys), _BATCH):
                batch = keys[start : start + _BATCH]
                marks = ",".join("?" * len(batch))
                found.update(db.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", batch))
        return found

    def _encode(
        self,
        missing: dict[bytes, str],
        encode: Callable[[list[str]], NDArray[np.float32]],
        progress: Progress,
        stage: str,
    ) -> dict[bytes, NDArray[np.float32]]:
        fresh: dict[bytes, NDArray[np.float32]] = {}
        items = sorted(missing.items(), key=lambda item: -len(item[1]))  # like lengths together: less padding
        for start in range(0, len(items), _BATCH):
            progress(stage, start, len(items))
            batch = items[start : start + _BATCH]
            vectors = encode([text for _, text in batch]).astype(np.float32, copy=False)
            rows = [(key, vector.tobytes()) for (key, _), vector in zip(batch, vectors, strict=True)]
            with self._db.write() as db:
                db.executemany("INSERT OR REPLACE INTO vectors (key, vector) VALUES (?, ?)", rows)
            fresh.update((key, vector) for (key, _), vector in zip(batch, vectors, strict=True))
        if items:
            progress(stage, len(items), len(items))
        return fresh

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _key(space: str, text: str) -> bytes:
    return hashlib.blake2b(f"{space}\0{text}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
