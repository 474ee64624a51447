"""Statistics of searches and cost of passes, per quarter of an hour: counts, errors and times, never a text."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ragself.corpus.database import Database

SIGNALS = "signals.db"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS searches (
    quarter INTEGER NOT NULL, version INTEGER NOT NULL, bucket INTEGER NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (quarter, version, bucket)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS passes (quarter INTEGER PRIMARY KEY, cpu REAL NOT NULL, tokens INTEGER NOT NULL);
"""
_QUARTER = 900.0  # seconds
_FAILED = -1  # the bucket of searches that raised an error
_FINEST = 1e-4  # seconds; upper end of bucket 0
_STEP = 1.1  # ratio of the upper ends of two neighbouring buckets: times are accurate to 10 %
_KEPT = 90 * 96  # quarters of an hour


@dataclass(frozen=True, slots=True)
class Signals:
    """Search statistics of one version.

    Attributes:
        searches: Number of searches, failed ones included.
        failed: Number of searches that raised an error other than the caller's mistake.
        p50: Median time in seconds; nan without a search.
        p95: 95th percentile of the time in seconds; nan without a search.
    """

    searches: int
    failed: int
    p50: float
    p95: float


def bucket(seconds: float) -> int:
    """Number of the bucket that holds a time in seconds."""
    return max(math.ceil(math.log(max(seconds, _FINEST) / _FINEST) / math.log(_STEP)), 0)


class SignalLog:
    """Statistics of the searches and passes of all processes."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises StoreError if that is impossible."""
        self._db = Database(path, _SCHEMA, durable=False)

    def add(self, searches: Counter[tuple[int, int | None]], now: float | None = None) -> None:
        """Count searches.

        Args:
            searches: Number of searches by version and bucket; a bucket of None means a failed search.
            now: Seconds since 1970; None means the current time.
        """
        quarter = int((time.time() if now is None else now) // _QUARTER)
        rows = [
            (quarter, version, _FAILED if bucket is None else bucket, count)
            for (version, bucket), count in searches.items()
        ]
        with self._db.write() as db:
            db.executemany(
                "INSERT INTO searches VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count",
                rows,
            )
            db.execute("DELETE FROM searches WHERE quarter < ?", (quarter - _KEPT,))

    def of(self, version: int, since: float = 0.0, until: float = math.inf) -> Signals:
        """Search statistics of a version from `since` to `until`, seconds since 1970, in whole quarters of an hour."""
        end = 2**62 if math.isinf(until) else int(until // _QUARTER)
        with self._db.read() as db:
            rows = db.execute(
                "SELECT bucket, sum(count) FROM searches WHERE version = ? AND quarter BETWEEN ? AND ? "
                "GROUP BY bucket ORDER BY bucket",
                (version, int(since // _QUARTER), end),
            ).fetchall()
        counts = {int(bucket): int(count) for bucket, count in rows}
        failed = counts.pop(_FAILED, 0)
        return Signals(sum(counts.values()) + failed, failed, _quantile(counts, 0.5), _quantile(counts, 0.95))

    def spend(self, cpu: float, tokens: int, now: float | None = None) -> None:
        """Add to the cost of passes.

        Args:
            cpu: Seconds of processor time.
            tokens: Number of tokens that a language model read.
            now: Seconds since 1970; None means the current time.
        """
        quarter = int((time.time() if now is None else now) // _QUARTER)
        with self._db.write() as db:
            db.execute(
                "INSERT INTO passes VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET "
                "cpu = cpu + excluded.cpu, tokens = tokens + excluded.tokens",
                (quarter, cpu, tokens),
            )
            db.execute("DELETE FROM passes WHERE quarter < ?", (quarter - _KEPT,))

    def spent(self, since: float, until: float) -> tuple[float, int]:
        """Seconds of processor time and tokens that passes used in a period, in whole quarters of an hour."""
        with self._db.read() as db:
            row = db.execute(
                "SELECT total(cpu), coalesce(sum(tokens), 0) FROM passes WHERE quarter BETWEEN ? AND ?",
                (int(since // _QUARTER), int(until // _QUARTER)),
            ).fetchone()
        return float(row[0]), int(row[1])

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._db.close()


def _quantile(counts: dict[int, int], share: float) -> float:
    left = share * sum(counts.values())
    for at, count in counts.items():
        left -= count
        if left <= 0:
            return _FINEST * _STEP**at
    return math.nan
