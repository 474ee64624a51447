"""Hybrid search: candidates by vector and by words, ranked by one exact law (`ragself.lexical.law`)."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.lora import reads
from ragself.corpus.journal_reader import JournalReader
from ragself.corpus.validate import check_queries
from ragself.encoders.spread import unit
from ragself.encoders.vectors import BaseVectors
from ragself.errors import InputError
from ragself.index.snapshot import Snapshot
from ragself.lexical.index import LexicalIndex
from ragself.lexical.law import Query, match
from ragself.lexical.view import View
from ragself.schema import Embedding, Hit

_PARTS = ("vector", "language_model", "bm25")
DEPTH = 100  # candidates of each kind, or as many as are asked for
_BEFORE_FILTER = 3  # times as many by words are put to a filter, before it is asked for all that it allows


class HybridSearch:
    """Ranks the union of the nearest chunks and the best ones by words. Threads may share it."""

    def __init__(self, lexical: LexicalIndex, base: BaseVectors, reader: JournalReader) -> None:
        """Name the words of the documents, their base vectors, and their texts."""
        self._lexical, self._base, self._reader = lexical, base, reader
        self._unit: float | None = None
        self._measuring = threading.Lock()

    def search(
        self,
        snapshot: Snapshot,
        query: str | Sequence[str],
        k: int,
        where: Mapping[str, Any] | None = None,
        given: Embedding | None = None,
    ) -> list[Hit]:
        """The best `k` chunks, best first; chunks of one score by id. Arguments as of `Snapshot.search`.

        Of several queries the cosine is that to the middle of their vectors, and the lexical scores are the mean.

        Raises:
            InputError: An empty query without an embedding, or a filter that Chroma does not understand.
        """
        queries, depth = _texts(snapshot, query, given), max(k, DEPTH)
        vector = snapshot.vector(queries, given)
        ids, cosines = snapshot.index.near(vector, depth, where)
        view = self._lexical.view()
        near = view.rows(ids)
        there = near >= 0  # the others were deleted
        near, cosines = near[there], cosines[there]
        asked = [Query.of(text, view) for text in queries]
        new = np.setdiff1d(_by_words(asked, view, snapshot, depth, where), near)
        rows = np.concatenate([near, new])
        lexical = self._lexical_parts(snapshot, asked, view, rows)
        hopeful = np.flatnonzero(_may_enter(cosines, lexical[0] + lexical[1], k, depth))
        further, known = self._cosines(snapshot, vector, view, new[hopeful])
        kept = np.concatenate([np.arange(len(near)), len(near) + hopeful[known]])
        parts = (np.concatenate([cosines, further[known]]), lexical[0][kept], lexical[1][kept])
        return self._hits(snapshot, view, rows[kept], parts, k)

    def unit(self) -> float:
        """The encoder's unit of lexical scores, computed once; the first time ever that encodes forty texts."""
        if self._unit is None:
            with self._measuring:
                if self._unit is None:
                    self._unit = unit(self._base)
        return self._unit

    def _cosines(
        self, snapshot: Snapshot, vector: NDArray[np.float32], view: View, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Cosines (n,) of chunks, and which of them are known.

        Vectors come from the lexical index, where it was written with them, or from the cache. Chroma is slower, and is
        asked for what these lack.
        """
        adapter = snapshot.embedder.adapter
        if reads(adapter, "document"):  # the base vectors of the documents do not tell theirs
            vectors, known = snapshot.index.vectors(view.ids(rows))
            return _cosines(vectors, vector), known
        vectors = self._base_vectors(view, rows)
        known = np.asarray(~np.isnan(vectors).any(axis=1))
        if adapter is not None:
            vectors = adapter.documents(vectors, [""] * len(rows))  # maps vectors, and does not look at texts
        cosines = _cosines(vectors, vector)
        if not known.all():
            lacking = np.flatnonzero(~known)
            stored, known[lacking] = snapshot.index.vectors(view.ids(rows[lacking]))
            cosines[lacking] = _cosines(stored, vector)
        return cosines, known

    def _base_vectors(self, view: View, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Base vectors of chunks, (n, dimension) float32; NaN where they are not known."""
        vectors = view.vectors(rows, self._base.dimension)
        lacking = np.flatnonzero(np.isnan(vectors).any(axis=1))
        if len(lacking):
            vectors[lacking] = self._base.named(view.keys(rows[lacking]))
        return vectors

    def _hits(
        self, snapshot: Snapshot, view: View, rows: NDArray[np.int64], parts: tuple[NDArray[np.float64], ...], k: int
    ) -> list[Hit]:
        """The best `k` of n candidates, given the parts of their scores, (n,) each."""
        if not len(rows):
            return []
        scores = parts[0] + parts[1] + parts[2]
        best = np.arange(len(rows))
        if len(rows) > k:  # with those that tie with the last, whose order is that of their ids
            best = np.flatnonzero(scores >= _kth(scores, k))
        ids = dict(zip(best.tolist(), view.ids(rows[best]), strict=True))
        order = sorted(ids, key=lambda row: (-scores[row], ids[row]))[:k]
        chunks = self._reader.chunks([ids[row] for row in order])
        return [
            Hit(
                id=chunk.id,
                text=chunk.shown,
                metadata=chunk.metadata,
                score=float(scores[row]),
                version=snapshot.version.number,
                parts=dict(zip(_PARTS, (float(part[row]) for part in parts), strict=True)),
            )
            for row in order
            if (chunk := chunks.get(ids[row])) is not None  # it may have been deleted a moment ago
        ]

    def _lexical_parts(
        self, snapshot: Snapshot, asked: Sequence[Query], view: View, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What the language model and BM25 add to the scores, (n,) each."""
        both = np.zeros((2, len(rows)))
        for query in asked:
            both += match(query, view, rows).parts(query, snapshot.weights)
        both *= self.unit() / len(asked)
        return both[0], both[1]


def _may_enter(cosines: NDArray[np.float64], lexical: NDArray[np.float64], k: int, depth: int) -> NDArray[np.bool_]:
    """Which candidates by words alone may be among the best `k`: only their cosines have to be looked up.

    They are no nearer than the farthest of the nearest. As the graph of Chroma misses some chunks, the best `k` of them
    by words may enter in any case.

    Args:
        cosines: (n,) of the nearest.
        lexical: (n + m,) lexical scores of those, and then of the candidates by words alone.
        k: How many hits.
        depth: How many nearest were asked for.
    """
    near, rest = lexical[: len(cosines)], lexical[len(cosines) :]
    if len(cosines) < max(depth, k + 1) or len(rest) <= k:  # a filter, or all there are: nothing is known of the others
        return np.ones(len(rest), np.bool_)
    return np.asarray((rest + cosines.min() >= _kth(cosines + near, k)) | (rest >= _kth(rest, k)))


def _kth(scores: NDArray[np.float64], k: int) -> float:
    """The `k`-th largest of more than `k` scores."""
    return float(np.partition(scores, len(scores) - k)[len(scores) - k])


def _texts(snapshot: Snapshot, query: str | Sequence[str], given: Embedding | None) -> list[str]:
    """The texts of the queries; none are needed where an embedding stands for them, which then decides alone."""
    try:
        return list(check_queries(query))
    except InputError:
        if given is None or not snapshot.owns(given):
            raise
        return [""]


def _cosines(vectors: NDArray[np.float32], vector: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosines of normalised vectors (n, dimension) with another of any length, as Chroma computes them."""
    if not vectors.shape[1]:
        return np.zeros(len(vectors))
    return (vectors @ (vector / max(float(np.linalg.norm(vector)), 1e-12))).astype(np.float64)


def _by_words(
    asked: Sequence[Query], view: View, snapshot: Snapshot, depth: int, where: Mapping[str, Any] | None
) -> NDArray[np.int64]:
    """Rows of the best `depth` chunks by the words of each query."""
    find = _filtered if where else _best
    rows = [find(query, view, snapshot, depth, where) for query in asked]
    return np.unique(np.concatenate(rows))


def _best(
    query: Query, view: View, snapshot: Snapshot, depth: int, where: Mapping[str, Any] | None
) -> NDArray[np.int64]:
    return query.candidates(view, snapshot.weights, depth)


def _filtered(
    query: Query, view: View, snapshot: Snapshot, depth: int, where: Mapping[str, Any] | None
) -> NDArray[np.int64]:
    """The best that a filter allows: of the best without it, where these are enough, else of all that it allows."""
    assert where
    wanted, index = _BEFORE_FILTER * depth, snapshot.index
    rows = query.candidates(view, snapshot.weights, wanted)
    ids = view.ids(rows)
    allowed = index.allowed(ids, where)
    kept = rows[[id in allowed for id in ids]] if ids else rows
    if len(kept) >= depth or len(rows) < wanted:
        return kept[:depth]
    return query.candidates(view, snapshot.weights, depth, index.find(where))
