"""One segment of the index: the words of some chunks, by term and by document, in immutable arrays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ragself.corpus.words import words
from ragself.lexical import stored
from ragself.lexical.terms import bounds_of, encoded, id_hashes, runs, term_key, term_keys

__all__ = ["MOST", "Document", "Segment", "Vectors", "term_key", "term_keys"]

Document: TypeAlias = tuple[str, int, str, bytes]
"""Id, sequence number, text, and the 16-byte key of the text's base vector."""

Vectors: TypeAlias = Callable[[Sequence[bytes]], NDArray[np.float32]]
"""Returns the base vectors of keys: (n, dimension) float32, NaN where there is none."""

_BLOCK = 4096  # vectors held in RAM at once when a segment is written
MOST = 255  # maximum of stored counts; higher counts are stored as this
_REMEMBERED = 4  # cached arrays of log-lengths, one for each `mu`


@dataclass(frozen=True, eq=False, slots=True)
class Segment:
    """Index of n documents with T words, V of them distinct, and P postings; in RAM or mapped from a folder.

    Attributes:
        terms: (V,) uint64 ascending, keys of the terms.
        starts: (V+1,) int64, offsets at which the postings of a term begin.
        rows: (P,) uint32, documents that contain a term, ascending within a term.
        counts: (P,) uint8, count of the term in the document; 255 means 255 or more.
        occurrences: (V,) int64, total occurrences of a term.
        tokens: (T,) uint32, words of the documents in order, as indices into `terms`.
        bounds: (n+1,) int64, offsets at which the words of a document begin.
        ids: uint8, ids as one blob of UTF-8.
        id_bounds: (n+1,) int64, offsets at which an id begins.
        id_order: (n,) uint32, rows in the order of the hashes of their ids.
        id_hashes: (n,) uint64 ascending, those hashes.
        sequence: (n,) int64, sequence number of the journal change that wrote the document.
        keys: (n, 16) uint8, keys of the base vectors of the texts.
        vectors: (n, dimension) float32, those vectors; NaN where unknown. No columns for a segment in RAM.
        files: Files from which a search reads runs of the large arrays; empty for a segment in RAM.
    """

    terms: NDArray[np.uint64]
    starts: NDArray[np.int64]
    rows: NDArray[np.uint32]
    counts: NDArray[np.uint8]
    occurrences: NDArray[np.int64]
    tokens: NDArray[np.uint32]
    bounds: NDArray[np.int64]
    ids: NDArray[np.uint8]
    id_bounds: NDArray[np.int64]
    id_order: NDArray[np.uint32]
    id_hashes: NDArray[np.uint64]
    sequence: NDArray[np.int64]
    keys: NDArray[np.uint8]
    vectors: NDArray[np.float32]
    files: Mapping[str, stored.File] = field(default_factory=dict)
    _shortness: dict[float, NDArray[np.float32]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def build(cls, documents: Sequence[Document]) -> Segment:
        """Index documents with unique ids, in the given order."""
        number: defaultdict[str, int] = defaultdict(count().__next__)  # number of a word, by its first occurrence
        flat: list[int] = []
        ends = [0]
        for _, _, text, _ in documents:
            flat.extend(map(number.__getitem__, words(text)))
            ends.append(len(flat))
        terms, place = np.unique(term_keys(number), return_inverse=True)
        tokens = place.astype(np.uint32)[np.array(flat, dtype=np.int64)]
        bounds = np.array(ends, dtype=np.int64)
        starts, rows, counts = _postings(tokens, bounds, len(terms))
        blob, id_bounds = encoded(document[0] for document in documents)
        hashes = id_hashes(document[0] for document in documents)
        order = np.argsort(hashes, kind="stable").astype(np.uint32)
        return cls(
            terms=terms,
            starts=starts,
            rows=rows,
            counts=counts,
            occurrences=np.bincount(tokens, minlength=len(terms)).astype(np.int64),
            tokens=tokens,
            bounds=bounds,
            ids=blob,
            id_bounds=id_bounds,
            id_order=order,
            id_hashes=hashes[order],
            sequence=np.array([document[1] for document in documents], dtype=np.int64),
            keys=np.frombuffer(b"".join(document[3] for document in documents), dtype=np.uint8).reshape(-1, 16),
            vectors=np.empty((len(documents), 0), dtype=np.float32),
        )

    @classmethod
    def merge(cls, segments: Sequence[Segment], alive: Sequence[NDArray[np.bool_]]) -> Segment:
        """Merge the documents that are alive into one segment, in the order of the segments.

        Args:
            segments: At least one.
            alive: (n,) bool for each segment.
        """
        pieces = [_Piece.of(segment, mask) for segment, mask in zip(segments, alive, strict=True)]
        terms = np.unique(np.concatenate([piece.segment.terms[piece.held] for piece in pieces]))
        frequency = np.zeros(len(terms), dtype=np.int64)
        places = [np.searchsorted(terms, segment.terms) for segment in segments]  # arbitrary for a term that is gone
        for piece, place in zip(pieces, places, strict=True):
            frequency[place[piece.held]] += piece.frequency[piece.held]
        starts = bounds_of(frequency)
        rows = np.empty(starts[-1], dtype=np.uint32)
        counts = np.empty(starts[-1], dtype=np.uint8)
        occurrences = np.zeros(len(terms), dtype=np.int64)
        tokens: list[NDArray[np.uint32]] = []
        free = starts[:-1].copy()  # position of the next posting of a term; postings of one segment stay together
        offset = 0
        for piece, place in zip(pieces, places, strict=True):
            own = place[piece.held]
            lengths = piece.frequency[piece.held]
            target = runs(free[own], lengths)
            rows[target] = piece.rows + np.uint32(offset)
            counts[target] = piece.counts
            free[own] += lengths
            tokens.append(place.astype(np.uint32)[piece.tokens])
            occurrences += np.bincount(tokens[-1], minlength=len(terms))
            offset += len(piece.kept)
        hashes = np.concatenate([_by_row(piece.segment)[piece.kept] for piece in pieces])
        order = np.argsort(hashes, kind="stable").astype(np.uint32)
        return cls(
            terms=terms,
            starts=starts,
            rows=rows,
            counts=counts,
            occurrences=occurrences,
            tokens=np.concatenate(tokens),
            bounds=bounds_of(np.concatenate([piece.lengths for piece in pieces])),
            ids=np.concatenate([piece.ids for piece in pieces]),
            id_bounds=bounds_of(np.concatenate([piece.id_lengths for piece in pieces])),
            id_order=order,
            id_hashes=hashes[order],
            sequence=np.concatenate([piece.segment.sequence[piece.kept] for piece in pieces]),
            keys=np.concatenate([piece.segment.keys[piece.kept] for piece in pieces]),
            vectors=np.empty((offset, 0), dtype=np.float32),
        )

    def save(self, folder: Path, owner: str, vectors: Vectors) -> None:
        """Write the segment, whole or not at all.

        Args:
            folder: Must not exist yet.
            owner: Id of the knowledge base.
            vectors: Returns the base vectors.

        Raises:
            OSError: The disk is full or not writable.
        """
        arrays = {name: getattr(self, name) for name in stored.LAYOUT if name != "vectors"}
        blocks = (vectors([key.tobytes() for key in self.keys[rows]]) for rows in _blocks(len(self)))
        stored.write(folder, owner, len(self), arrays, {"vectors": (vectors([]).shape[1], blocks)})

    @classmethod
    def open(cls, folder: Path, owner: str) -> Segment:
        """Open a segment on disk.

        Raises:
            StoreError: It is missing, truncated, has another format or belongs to another knowledge base than `owner`.
        """
        arrays, files = stored.read(folder, owner)
        return cls(**arrays, files=files)

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.sequence)

    def postings(self, term: int) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        """Documents that contain a term, (p,) uint32 ascending, and its count in each, (p,) uint8."""
        start, end = self.starts[term : term + 2].tolist()
        return self._runs("rows", [start], [end]), self._runs("counts", [start], [end])

    def text(self, rows: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Concatenated words of documents, as indices into `terms`."""
        return self._runs("tokens", self.bounds[rows].tolist(), self.bounds[rows + 1].tolist())

    def base(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Base vectors of documents, (r, dimension) float32, NaN where unknown. No columns for a segment in RAM."""
        return self._runs("vectors", rows.tolist(), (rows + 1).tolist())

    def _runs(self, name: str, starts: list[int], ends: list[int]) -> NDArray[Any]:
        """Concatenated runs of one of the large arrays."""
        file = self.files.get(name)
        if file is not None:
            return file.runs(starts, ends)
        array: NDArray[Any] = getattr(self, name)
        if len(starts) == 1:
            return array[starts[0] : ends[0]]
        # Takes a quarter of the time of indexing with an array.
        return np.concatenate([array[:0], *(array[start:end] for start, end in zip(starts, ends, strict=True))])

    def lengths(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """Numbers of words (r,) of documents (r,)."""
        lengths: NDArray[np.int64] = self.bounds[rows + 1] - self.bounds[rows]
        return lengths

    def locate(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Indices into `terms` of term keys (t,); -1 for a term that no document contains."""
        if not len(self.terms):
            return np.full(len(keys), -1, dtype=np.int64)
        place = np.minimum(np.searchsorted(self.terms, keys), len(self.terms) - 1)
        return np.where(self.terms[place] == keys, place, -1)

    def find(self, blob: NDArray[np.uint8], bounds: NDArray[np.int64], hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Rows (m,) of ids, given as a UTF-8 blob with offsets (m+1,) and hashes (m,); -1 for an unknown id."""
        found = np.full(len(hashes), -1, dtype=np.int64)
        place = np.searchsorted(self.id_hashes, hashes)
        left = np.arange(len(hashes))
        while len(left):  # runs once, unless two ids have the same hash
            left = left[place[left] < len(self)]
            left = left[self.id_hashes[place[left]] == hashes[left]]
            rows = self.id_order[place[left]].astype(np.int64)
            same = self._same(rows, blob, bounds, left)
            found[left[same]] = rows[same]
            left = left[~same]
            place[left] += 1
        return found

    def _same(
        self, rows: NDArray[np.int64], blob: NDArray[np.uint8], bounds: NDArray[np.int64], places: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Whether rows (m,) have the ids at `places` (m,) in the blob."""
        lengths = self.id_bounds[rows + 1] - self.id_bounds[rows]
        same: NDArray[np.bool_] = lengths == bounds[places + 1] - bounds[places]
        some = np.flatnonzero(same & (lengths > 0))
        if len(some):
            size = lengths[some]
            equal = self.ids[runs(self.id_bounds[rows[some]], size)] == blob[runs(bounds[places[some]], size)]
            same[some] = np.logical_and.reduceat(equal, bounds_of(size)[:-1])
        return same

    def id(self, row: int) -> str:
        """Id of one document."""
        return bytes(self.ids[self.id_bounds[row] : self.id_bounds[row + 1]]).decode("utf-8", "surrogatepass")

    def shortness(self, mu: float) -> NDArray[np.float32]:
        """``log(mu / (words + mu))`` of each document: (n,) float32, cached."""
        found = self._shortness.get(mu)
        if found is None:
            if len(self._shortness) >= _REMEMBERED:
                self._shortness.clear()
            found = self._shortness[mu] = np.log(mu / (np.diff(self.bounds) + mu)).astype(np.float32)
        return found


@dataclass(frozen=True, slots=True)
class _Piece:
    """Content of one segment that a merge keeps: that of its documents that are alive."""

    segment: Segment
    kept: NDArray[np.int64]  # their rows
    held: NDArray[np.bool_]  # (V,), whether any of them contains a term
    frequency: NDArray[np.int64]  # (V,), number of them that contain a term
    rows: NDArray[np.uint32]  # rows of the postings, numbered without the dead
    counts: NDArray[np.uint8]
    tokens: NDArray[np.uint32]
    lengths: NDArray[np.int64]
    ids: NDArray[np.uint8]
    id_lengths: NDArray[np.int64]

    @classmethod
    def of(cls, segment: Segment, alive: NDArray[np.bool_]) -> _Piece:
        kept = np.flatnonzero(alive)
        frequency, rows, counts, tokens, ids = (
            np.diff(segment.starts), segment.rows, segment.counts, segment.tokens, segment.ids
        )  # fmt: skip
        lengths, id_lengths = np.diff(segment.bounds), np.diff(segment.id_bounds)
        if len(kept) < len(segment):
            holds = alive[rows]
            # Differences of cumulative sums, as `reduceat` cannot handle a term without postings.
            frequency = np.diff(bounds_of(holds)[segment.starts])
            rows, counts = (np.cumsum(alive) - 1).astype(np.uint32)[rows[holds]], counts[holds]
            tokens, ids = tokens[np.repeat(alive, lengths)], ids[np.repeat(alive, id_lengths)]
            lengths, id_lengths = lengths[kept], id_lengths[kept]
        return cls(segment, kept, frequency > 0, frequency, rows, counts, tokens, lengths, ids, id_lengths)


def _blocks(documents: int) -> Iterator[slice]:
    for start in range(0, documents, _BLOCK):
        yield slice(start, start + _BLOCK)


def _by_row(segment: Segment) -> NDArray[np.uint64]:
    hashes = np.empty(len(segment), dtype=np.uint64)
    hashes[segment.id_order] = segment.id_hashes
    return hashes


def _postings(
    tokens: NDArray[np.uint32], bounds: NDArray[np.int64], terms: int
) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint8]]:
    """`starts`, `rows` and `counts` of documents with concatenated words."""
    shift = np.int64(len(bounds).bit_length())  # bits for the row: a pair sorts by term, then by row
    pairs = tokens.astype(np.int64) << shift
    pairs |= np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    pairs.sort()
    first = np.flatnonzero(np.concatenate([np.ones(min(1, len(pairs)), bool), pairs[1:] != pairs[:-1]]))
    counts = np.minimum(np.diff(np.append(first, len(pairs))), MOST).astype(np.uint8)
    pairs = pairs[first]
    rows = (pairs & ((np.int64(1) << shift) - 1)).astype(np.uint32)
    return bounds_of(np.bincount(pairs >> shift, minlength=terms)), rows, counts
