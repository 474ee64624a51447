"""View of the index at one moment: exact statistics of terms, and the documents that contain them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself.lexical.part import Part, best_first
from ragself.lexical.segment import Segment
from ragself.lexical.terms import bounds_of, encoded, id_hashes, term_keys

_NONE = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False, slots=True)
class Statistics:
    """Frequencies of t terms.

    Attributes:
        frequency: (t,) int64, number of documents that contain the term.
        occurrences: (t,) int64, total occurrences of the term.
    """

    frequency: NDArray[np.int64]
    occurrences: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class View:
    """The documents after one change of the journal. Row numbers are valid in this view only.

    Attributes:
        parts: Parts of the index. The rows of a part follow all rows of the parts before it.
    """

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, texts: Sequence[str]) -> View:
        """View of texts in memory. The row and the id of a text are its position."""
        documents = [(str(row), row + 1, text, bytes(16)) for row, text in enumerate(texts)]
        return cls((Part.of(Segment.build(documents)),))

    @cached_property
    def documents(self) -> int:
        """Number of documents."""
        return sum(part.documents for part in self.parts)

    @cached_property
    def words(self) -> int:
        """Total number of words in the documents."""
        return sum(part.words for part in self.parts)

    def statistics(self, terms: Sequence[str]) -> Statistics:
        """Count the documents and the occurrences of terms."""
        keys = term_keys(terms)
        frequency, occurrences = np.zeros(len(keys), dtype=np.int64), np.zeros(len(keys), dtype=np.int64)
        for part in self.parts:
            documents, times = part.statistics(keys)
            frequency += documents
            occurrences += times
        return Statistics(frequency, occurrences)

    def top(
        self,
        terms: Sequence[str],
        impact: NDArray[np.float32],
        level: float,
        k: int,
        allowed: Sequence[str] | None = None,
        lengths_floor: float = 200.0,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Find the best documents among those with a positive impact of at least one term.

        The score of a document is the sum of ``impact[t, count of t in the document]``, plus
        ``level * log(mu / (words + mu))``.

        Args:
            terms: t terms.
            impact: (t, 256) float32; the last column is for counts of 255 and more.
            level: Factor of the length term.
            k: Maximum number of documents.
            allowed: Ids of the documents that may be found; None allows all.
            lengths_floor: mu.

        Returns:
            Rows (<=k,) int64 and scores float32, best first. Ties are ordered by row.
        """
        keys, impact = term_keys(terms), np.ascontiguousarray(impact, dtype=np.float32)
        within = None if allowed is None else self.rows(allowed)
        rows, scores = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.float32)]
        for part, offset in zip(self.parts, self._offsets[:-1].tolist(), strict=True):
            own = None
            if within is not None:
                own = within[(within >= offset) & (within < offset + len(part.segment))] - offset
                if not len(own):
                    continue
            found, score = part.top(keys, impact, level, k, lengths_floor, own)
            rows.append(found + offset)
            scores.append(score)
        all_rows, all_scores = np.concatenate(rows), np.concatenate(scores)
        order = best_first(all_scores, all_rows, k)
        return all_rows[order], all_scores[order]

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Rows (n,) int64 of documents; -1 for an unknown id."""
        blob, bounds = encoded(ids)
        hashes = id_hashes(ids)
        found = np.full(len(hashes), -1, dtype=np.int64)
        for part, offset in zip(self.parts, self._offsets[:-1].tolist(), strict=True):
            own = part.find(blob, bounds, hashes)
            found = np.where(own >= 0, own + offset, found)
        return found

    def ids(self, rows: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """Ids of documents."""
        found = [""] * len(rows)
        for part, places, own in self._split(rows):
            for place, row in zip(places.tolist(), own.tolist(), strict=True):
                found[place] = part.segment.id(row)
        return found

    def keys(self, rows: Sequence[int] | NDArray[np.int64]) -> list[bytes]:
        """Keys of the base vectors of documents, 16 bytes each."""
        found = [b""] * len(rows)
        for part, places, own in self._split(rows):
            for place, key in zip(places.tolist(), part.segment.keys[own], strict=True):
                found[place] = key.tobytes()
        return found

    def vectors(self, rows: Sequence[int] | NDArray[np.int64], dimension: int) -> NDArray[np.float32]:
        """Base vectors of documents, (n, dimension) float32; NaN where no segment on disk has one."""
        found = np.full((len(rows), dimension), np.nan, dtype=np.float32)
        for part, places, own in self._split(rows):
            held = part.segment.base(own)
            if held.shape[1] == dimension:
                found[places] = held
        return found

    def lengths(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of words of documents: (n,) int64."""
        found = np.zeros(len(rows), dtype=np.int64)
        for part, places, own in self._split(rows):
            found[places] = part.segment.lengths(own)
        return found

    def held(
        self, terms: Sequence[str], rows: Sequence[int] | NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Find the occurrences of terms in documents.

        Returns:
            For m occurrences, in document order: positions in the concatenated words of all `rows`, (m,) int64; indices
            into `terms`, (m,) int64; indices into `rows`, (m,) int64. And the numbers of words of all documents, (n,)
            int64.
        """
        keys = term_keys(terms)
        lengths = self.lengths(rows)
        first = bounds_of(lengths)[:-1]
        places, columns, owners = [_NONE], [_NONE], [_NONE]
        for part, numbers, own in self._split(rows):
            place, column, sizes = part.held(keys, own)
            owner = np.repeat(numbers, sizes)[place]
            if len(numbers) < len(lengths):
                place = place + np.repeat(first[numbers] - bounds_of(sizes)[:-1], sizes)[place]
            places.append(place)
            columns.append(column.astype(np.int64))
            owners.append(owner)
        all_places = np.concatenate(places)
        order = np.argsort(all_places, kind="stable") if len(places) > 2 else slice(None)
        return all_places[order], np.concatenate(columns)[order], np.concatenate(owners)[order], lengths

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        """First row of each part: (p+1,)."""
        return bounds_of(np.array([len(part.segment) for part in self.parts], dtype=np.int64))

    def _split(
        self, rows: Sequence[int] | NDArray[np.int64]
    ) -> Iterator[tuple[Part, NDArray[np.int64], NDArray[np.int64]]]:
        """Yield each part with the positions in `rows` that belong to it, and with those rows as rows of the part."""
        wanted: NDArray[Any] = np.asarray(rows, dtype=np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < self._offsets[-1]:
            raise IndexError(f"The view has rows 0 to {self._offsets[-1] - 1}, not {wanted.min()} to {wanted.max()}.")
        if len(self.parts) == 1:
            if len(wanted):
                yield self.parts[0], np.arange(len(wanted)), wanted
            return
        owner = np.searchsorted(self._offsets, wanted, side="right") - 1
        for number in np.unique(owner).tolist():
            places = np.flatnonzero(owner == number)
            yield self.parts[number], places, wanted[places] - self._offsets[number]
