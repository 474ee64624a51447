"""A segment with its dead rows, the unit that a view searches."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself.lexical.segment import MOST, Segment

_FEW = 16  # dead rows fewer than postings of a term by this factor are searched one by one
_lookup = threading.local()


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """A segment after some change of the journal. Marking rows dead creates another part of the same segment.

    Attributes:
        segment: Segment with n documents.
        alive: (n,) bool.
        dead: (d,) uint32 ascending, the other rows.
        words: Number of words in the documents that are alive.
        name: Name of the segment on disk; None if it is in RAM only.
    """

    segment: Segment
    alive: NDArray[np.bool_]
    dead: NDArray[np.uint32]
    words: int
    name: str | None = None

    @classmethod
    def of(cls, segment: Segment, dead: NDArray[Any] | None = None, name: str | None = None) -> Part:
        """A segment without its `dead` rows. Raises IndexError if it has no such row."""
        whole = cls(segment, np.ones(len(segment), dtype=bool), np.empty(0, dtype=np.uint32), len(segment.tokens), name)
        return whole if dead is None else whole.without(dead)

    def without(self, rows: NDArray[Any]) -> Part:
        """Return the part with `rows` marked dead. They may be dead already."""
        alive = self.alive.copy()
        alive[rows] = False
        dead = np.flatnonzero(~alive)
        words = len(self.segment.tokens) - int(self.segment.lengths(dead).sum())
        return Part(self.segment, alive, dead.astype(np.uint32), words, self.name)

    @property
    def documents(self) -> int:
        """Number of documents that are alive."""
        return len(self.alive) - len(self.dead)

    def find(self, blob: NDArray[np.uint8], bounds: NDArray[np.int64], hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Rows of ids, given as in `Segment.find`; -1 for an id without a document alive."""
        found = self.segment.find(blob, bounds, hashes)
        held = np.flatnonzero(found >= 0)
        found[held[~self.alive[found[held]]]] = -1
        return found

    def statistics(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of documents alive that contain each term, and of its occurrences in them: (t,) int64 each."""
        segment = self.segment
        terms = segment.locate(keys)
        frequency, occurrences = np.zeros(len(keys), np.int64), np.zeros(len(keys), np.int64)
        for column, term in enumerate(terms.tolist()):
            if term < 0:
                continue
            frequency[column] = segment.starts[term + 1] - segment.starts[term]
            occurrences[column] = segment.occurrences[term]
            if len(self.dead):
                rows, counts = segment.postings(term)
                lost = self._dead_postings(rows)
                frequency[column] -= len(lost)
                occurrences[column] -= self._occurrences(term, rows[lost], counts[lost])
        return frequency, occurrences

    def _dead_postings(self, rows: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Positions in `rows`, ascending, of dead rows."""
        found: NDArray[np.int64]
        if len(self.dead) * _FEW > len(rows):
            found = np.flatnonzero(~self.alive[rows])
            return found
        found = np.searchsorted(rows, self.dead)
        fits = found < len(rows)
        hit = rows[found[fits]] == self.dead[fits]
        return np.compress(hit, found[fits])

    def _occurrences(self, term: int, rows: NDArray[np.uint32], counts: NDArray[np.uint8]) -> int:
        """Number of occurrences of a term in some of its documents. Counts at the limit of uint8 are recounted."""
        total = int(counts.sum(dtype=np.int64))
        often = rows[counts == MOST].astype(np.int64)
        if len(often):
            total += int(np.count_nonzero(self.segment.text(often) == term)) - MOST * len(often)
        return total

    def top(
        self,
        keys: NDArray[np.uint64],
        impact: NDArray[np.float32],
        level: float,
        k: int,
        mu: float,
        allowed: NDArray[np.int64] | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Best rows (<=k,), unordered, and their scores. Only rows in `allowed`, or all if None."""
        segment = self.segment
        scores = np.zeros(len(segment), dtype=np.float32)
        signed = bool(impact.size) and float(impact.min()) < 0
        touched = np.zeros(len(segment), dtype=bool) if signed else None
        for column, term in enumerate(segment.locate(keys).tolist()):
            if term >= 0:
                rows, counts = segment.postings(term)
                gain = impact[column].take(counts)
                scores[rows.astype(np.intp)] += gain
                if touched is not None:
                    touched[rows[gain > 0]] = True
        eligible = scores > 0 if touched is None else touched
        eligible[self.dead] = False
        if allowed is not None:
            mask = np.zeros(len(segment), dtype=bool)
            mask[allowed] = True
            eligible &= mask
        found = np.flatnonzero(eligible)
        scores = scores[found] + np.float32(level) * segment.shortness(mu)[found]
        best = _best(scores, k)
        return found[best], scores[best]

    def held(
        self, keys: NDArray[np.uint64], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
        """Occurrences of the terms in the concatenated words of `rows`: places, columns of terms, lengths of rows."""
        segment = self.segment
        lengths = segment.lengths(rows)
        tokens = segment.text(rows)
        column = _column_of(len(segment.terms))
        terms = segment.locate(keys)
        known = np.flatnonzero(terms >= 0)[::-1]  # if a term occurs twice in `keys`, its first column counts
        try:
            column[terms[known]] = known
            found = column[tokens]
        finally:
            column[terms[known]] = -1
        places = np.flatnonzero(found >= 0)
        return places, found[places], lengths


def best_first(scores: NDArray[np.float32], rows: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Order of the k best rows, best first. Ties are ordered by row. Scores and rows: (m,)."""
    order: NDArray[np.int64] = np.lexsort((rows, -scores))[:k]
    return order


def _best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Positions of the k best scores, ascending. Among ties for the last position the first ones win."""
    if len(scores) <= k:
        return np.arange(len(scores))
    if k <= 0:
        return np.arange(0)
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    above, alike = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
    return np.sort(np.concatenate([above, alike[: k - len(above)]]))


def _column_of(terms: int) -> NDArray[np.int32]:
    """Array of -1 for the terms of a segment, one per thread. Callers must restore it."""
    column: NDArray[np.int32] | None = getattr(_lookup, "column", None)
    if column is None or len(column) < terms:
        column = _lookup.column = np.full(max(terms, 1024), -1, dtype=np.int32)
    return column


def joined(parts: Sequence[Part]) -> Part:
    """Merge the documents alive in some parts into one part in RAM."""
    return Part.of(Segment.merge([part.segment for part in parts], [part.alive for part in parts]))
