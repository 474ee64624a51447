"""Cache of language model output in SQLite: log-probabilities and written questions, keyed by content.

Losing this file costs only time. Scorers, processes and knowledge bases may share it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself.corpus.database import Database
from ragself.errors import StoreError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS models (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, canary BLOB NOT NULL, floor REAL, rate REAL, seen INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS scores (
    key BLOB PRIMARY KEY, model INTEGER NOT NULL, day INTEGER NOT NULL, logprobs BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS texts (
    key BLOB PRIMARY KEY, model INTEGER NOT NULL, day INTEGER NOT NULL, text TEXT NOT NULL
) WITHOUT ROWID;
"""
_NEXT = "(SELECT coalesce(max(seen), 0) + 1 FROM models)"
_LOOKUP = 1000  # keys per SQL statement
_SAME_MODEL = 0.05  # maximum nats per token by which one model's scores of the canary differ, in any precision
_FRESH = 7  # days after which another use of a score is recorded


def same_model(canary: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Whether two scores of the canary, log p of each of its tokens, come from the same model."""
    return canary.shape == other.shape and float(np.abs(canary - other).mean()) <= _SAME_MODEL


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A language model with cached output.

    Attributes:
        id: Part of the cache keys.
        name: Name that the model reports.
        floor: Noise of its scores in nats per token; None if not measured yet.
        rate: Tokens scored per second, as last measured; None if never measured.
    """

    id: int
    name: str
    floor: float | None
    rate: float | None


class ScoreCache:
    """Cached output of language models."""

    def __init__(self, path: Path) -> None:
        """Open or create the file at `path`. Raises StoreError if it is damaged."""
        self._db = Database(path, _SCHEMA, durable=False)

    # models ---------------------------------------------------------------------------------------

    def latest(self, name: str) -> ModelRecord | None:
        """The model most recently used under a name; None if there is none."""
        with self._db.read() as db:
            row = db.execute(
                "SELECT id, name, floor, rate FROM models WHERE name = ? ORDER BY seen DESC LIMIT 1", (name,)
            ).fetchone()
        return ModelRecord(*row) if row else None

    def identify(self, name: str, canary: NDArray[np.float32]) -> ModelRecord:
        """Find the model with this name and this score of the canary; add a new record if there is none.

        Args:
            name: Name that the model reports.
            canary: Its log p of each token of a fixed text.
        """
        with self._db.write() as db:
            rows = db.execute(
                "SELECT id, name, floor, rate, canary FROM models WHERE name = ? ORDER BY id DESC", (name,)
            ).fetchall()
            for id, _, floor, rate, blob in rows:
                known = np.frombuffer(blob, dtype=np.float32)
                if same_model(known, canary):
                    db.execute(f"UPDATE models SET seen = {_NEXT} WHERE id = ?", (id,))
                    return ModelRecord(id, name, floor, rate)
            blob = canary.astype(np.float32).tobytes()
            cursor = db.execute(f"INSERT INTO models (name, canary, seen) VALUES (?, ?, {_NEXT})", (name, blob))
        return ModelRecord(int(cursor.lastrowid or 0), name, None, None)

    def note(self, model: ModelRecord) -> None:
        """Store floor and rate of a model."""
        with self._db.write() as db:
            db.execute("UPDATE models SET floor = ?, rate = ? WHERE id = ?", (model.floor, model.rate, model.id))

    # log-probabilities ----------------------------------------------------------------------------

    def look_up(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Log p of each target token, float32, for the `keys` that are cached."""
        return {key: np.frombuffer(blob, dtype=np.float32) for key, blob in self._find("scores", "logprobs", keys)}

    def store(self, model: ModelRecord, answers: Iterable[tuple[bytes, NDArray[np.float32]]]) -> None:
        """Store a batch of scores in one transaction."""
        rows = [(key, model.id, _today(), values.astype(np.float32).tobytes()) for key, values in answers]
        with self._db.write() as db:
            db.executemany("INSERT OR IGNORE INTO scores (key, model, day, logprobs) VALUES (?, ?, ?, ?)", rows)

    # texts ----------------------------------------------------------------------------------------

    def look_up_texts(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """Written texts for the `keys` that are cached."""
        return dict(self._find("texts", "text", keys))

    def store_texts(self, model: ModelRecord, answers: Iterable[tuple[bytes, str]]) -> None:
        """Store a batch of written texts in one transaction."""
        rows = [(key, model.id, _today(), text) for key, text in answers]
        with self._db.write() as db:
            db.executemany("INSERT OR IGNORE INTO texts (key, model, day, text) VALUES (?, ?, ?, ?)", rows)

    def __len__(self) -> int:
        """Number of cached scores."""
        with self._db.read() as db:
            return int(db.execute("SELECT count(*) FROM scores").fetchone()[0])

    # maintenance ----------------------------------------------------------------------------------

    def prune(self, days: int) -> int:
        """Remove entries unused for `days` days, but at least eight. Returns the number removed."""
        removed = 0
        days = max(days, _FRESH + 1)
        with self._db.write() as db:
            for table in ("scores", "texts"):
                removed += db.execute(f"DELETE FROM {table} WHERE day < ?", (_today() - days,)).rowcount
        if removed:
            with suppress(StoreError), self._db.read() as db:  # if another process reads, the space is reused later
                db.execute("VACUUM")
        return removed

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._db.close()

    def _find(self, table: str, column: str, keys: Sequence[bytes]) -> Iterable[tuple[bytes, Any]]:
        stale: list[bytes] = []
        found: list[tuple[bytes, Any]] = []
        old = _today() - _FRESH
        with self._db.read() as db:
            for start in range(0, len(keys), _LOOKUP):
                batch = keys[start : start + _LOOKUP]
                marks = ",".join("?" * len(batch))
                for key, value, day in db.execute(
                    f"SELECT key, {column}, day FROM {table} WHERE key IN ({marks})", batch
                ):
                    found.append((key, value))
                    if day < old:
                        stale.append(key)
        if stale:
            with self._db.write() as db:
                db.executemany(f"UPDATE {table} SET day = ? WHERE key = ?", [(_today(), key) for key in stale])
        return found


def digest(*parts: str) -> bytes:
    """16-byte hash of a list of texts, which covers the boundaries between them."""
    hash = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hash.update(len(data).to_bytes(8, "big") + data)
    return hash.digest()


def _today() -> int:
    return int(time.time() // 86400)
