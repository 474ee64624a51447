"""What a language model has said: log-probabilities and written questions, by content, in SQLite.

Losing this file costs time and nothing else. It may be shared by scorers, processes and knowledge bases.
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
_LOOKUP = 1000  # keys a statement
_SAME_MODEL = 0.05  # nats per token that two answers of one model to the canary may lie apart, in any precision
_FRESH = 7  # days for which reading a score again is not written down


def same_model(canary: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Whether two answers to the canary, log p of each of its tokens, are those of one model."""
    return canary.shape == other.shape and float(np.abs(canary - other).mean()) <= _SAME_MODEL


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A language model whose answers are stored.

    Attributes:
        id: Part of the key of its answers.
        name: What it calls itself.
        floor: Noise of its answers in nats per token, None where it was not measured yet.
        rate: Tokens that it scored a second when it last did, None where it never did.
    """

    id: int
    name: str
    floor: float | None
    rate: float | None


class ScoreCache:
    """Answers of language models that need not be asked for again."""

    def __init__(self, path: Path) -> None:
        """Open or create the file at `path`. Raises StoreError where it is damaged."""
        self._db = Database(path, _SCHEMA, durable=False)

    # models ---------------------------------------------------------------------------------------

    def latest(self, name: str) -> ModelRecord | None:
        """The model last seen under a name, None where there was none."""
        with self._db.read() as db:
            row = db.execute(
                "SELECT id, name, floor, rate FROM models WHERE name = ? ORDER BY seen DESC LIMIT 1", (name,)
            ).fetchone()
        return ModelRecord(*row) if row else None

    def identify(self, name: str, canary: NDArray[np.float32]) -> ModelRecord:
        """The model of this name that answers like this; a new record where the answers are another model's.

        Args:
            name: What the model calls itself.
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
        """Remember floor and rate of a model."""
        with self._db.write() as db:
            db.execute("UPDATE models SET floor = ?, rate = ? WHERE id = ?", (model.floor, model.rate, model.id))

    # log-probabilities ----------------------------------------------------------------------------

    def look_up(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Log p of each target token, float32, of those of `keys` that are here."""
        return {key: np.frombuffer(blob, dtype=np.float32) for key, blob in self._find("scores", "logprobs", keys)}

    def store(self, model: ModelRecord, answers: Iterable[tuple[bytes, NDArray[np.float32]]]) -> None:
        """Keep a batch of answers, all or none of it."""
        rows = [(key, model.id, _today(), values.astype(np.float32).tobytes()) for key, values in answers]
        with self._db.write() as db:
            db.executemany("INSERT OR IGNORE INTO scores (key, model, day, logprobs) VALUES (?, ?, ?, ?)", rows)

    # texts ----------------------------------------------------------------------------------------

    def look_up_texts(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """Written texts of those of `keys` that are here."""
        return dict(self._find("texts", "text", keys))

    def store_texts(self, model: ModelRecord, answers: Iterable[tuple[bytes, str]]) -> None:
        """Keep a batch of written texts, all or none of it."""
        rows = [(key, model.id, _today(), text) for key, text in answers]
        with self._db.write() as db:
            db.executemany("INSERT OR IGNORE INTO texts (key, model, day, text) VALUES (?, ?, ?, ?)", rows)

    def __len__(self) -> int:
        """Number of stored answers."""
        with self._db.read() as db:
            return int(db.execute("SELECT count(*) FROM scores").fetchone()[0])

    # keeping house --------------------------------------------------------------------------------

    def prune(self, days: int) -> int:
        """Remove answers that no pass has used for so many days, at least eight. Returns how many."""
        removed = 0
        days = max(days, _FRESH + 1)
        with self._db.write() as db:
            for table in ("scores", "texts"):
                removed += db.execute(f"DELETE FROM {table} WHERE day < ?", (_today() - days,)).rowcount
        if removed:
            with suppress(StoreError), self._db.read() as db:  # another process reads: the space is used again later
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
    """16 bytes that stand for texts; no two lists of parts have the same."""
    hash = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hash.update(len(data).to_bytes(8, "big") + data)
    return hash.digest()


def _today() -> int:
    return int(time.time() // 86400)
