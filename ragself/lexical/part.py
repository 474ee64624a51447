"""A segment with the rows of it that are dead: what a view searches, one part after the other."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself.lexical.segment import MOST, Segment

_FEW = 16  # so many times rarer than the postings of a term, dead rows are looked up among them one by one
_lookup = threading.local()


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """A segment as it stands after some change of the journal. Killing a row makes another part of the same segment.

    Attributes:
        segment: n documents.
        alive: (n,) bool.
        dead: (d,) uint32 ascending, the other rows.
        words: Words of the documents that are alive.
        name: What the segment is called on disk; None where it is in RAM only.
    """

    segment: Segment
    alive: NDArray[np.bool_]
    dead: NDArray[np.uint32]
    words: int
    name: str | None = None

    @classmethod
    def of(cls, segment: Segment, dead: NDArray[Any] | None = None, name: str | None = None) -> Part:
        """A segment without its `dead` rows. Raises IndexError where it has no such row."""
        whole = cls(segment, np.ones(len(segment), dtype=bool), np.empty(0, dtype=np.uint32), len(segment.tokens), name)
        return whole if dead is None else whole.without(dead)

    def without(self, rows: NDArray[Any]) -> Part:
        """The part after the death of `rows`, which may be dead already."""
        alive = self.alive.copy()
        alive[rows] = False
        dead = np.flatnonzero(~alive)
        words = len(self.segment.tokens) - int(self.segment.lengths(dead).sum())
        return Part(self.segment, alive, dead.astype(np.uint32), words, self.name)

    @property
    def documents(self) -> int:
        """How many are alive."""
        return len(self.alive) - len(self.dead)

    def find(self, blob: NDArray[np.uint8], bounds: NDArray[np.int64], hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Rows of ids as `Segment.find` takes them; -1 where there is no document alive."""
        found = self.segment.find(blob, bounds, hashes)
        held = np.flatnonzero(found >= 0)
        found[held[~self.alive[found[held]]]] = -1
        return found

    def statistics(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of terms (t,): how many documents that are alive hold each, and how often it occurs in them."""
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
        """Which of some rows, ascending, are dead."""
        found: NDArray[np.int64]
        if len(self.dead) * _FEW > len(rows):
            found = np.flatnonzero(~self.alive[rows])
            return found
        found = np.searchsorted(rows, self.dead)
        fits = found < len(rows)
        hit = rows[found[fits]] == self.dead[fits]
        return np.compress(hit, found[fits])

    def _occurrences(self, term: int, rows: NDArray[np.uint32], counts: NDArray[np.uint8]) -> int:
        """How often a term occurs in some of its documents, those that hold it very often counted."""
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
        """The best rows (<=k,), unordered, and their scores; `allowed` are the rows that may be among them."""
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
        """Where the words of `rows`, one after the other, are one of the terms: places, which term, lengths of rows."""
        segment = self.segment
        lengths = segment.lengths(rows)
        tokens = segment.text(rows)
        column = _column_of(len(segment.terms))
        terms = segment.locate(keys)
        known = np.flatnonzero(terms >= 0)[::-1]  # of a term that is asked for twice, the first column counts
        try:
            column[terms[known]] = known
            found = column[tokens]
        finally:
            column[terms[known]] = -1
        places = np.flatnonzero(found >= 0)
        return places, found[places], lengths


def best_first(scores: NDArray[np.float32], rows: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """The k best rows, best first, those alike in their order. Scores and rows: (m,)."""
    order: NDArray[np.int64] = np.lexsort((rows, -scores))[:k]
    return order


def _best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Places of the k best of some scores, ascending; of those alike at the end the first."""
    if len(scores) <= k:
        return np.arange(len(scores))
    if k <= 0:
        return np.arange(0)
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    above, alike = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
    return np.sort(np.concatenate([above, alike[: k - len(above)]]))


def _column_of(terms: int) -> NDArray[np.int32]:
    """An array of -1 for the terms of a segment, the thread's own, to be left as it was found."""
    column: NDArray[np.int32] | None = getattr(_lookup, "column", None)
    if column is None or len(column) < terms:
        column = _lookup.column = np.full(max(terms, 1024), -1, dtype=np.int32)
    return column


def joined(parts: Sequence[Part]) -> Part:
    """One part in RAM of what is alive in some."""
    return Part.of(Segment.merge([part.segment for part in parts], [part.alive for part in parts]))
