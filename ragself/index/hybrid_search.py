"""Hybrid search: candidates by vector and by words, ranked by one exact formula (`ragself.lexical.hybrid_score`)."""

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
from ragself.lexical.hybrid_score import Query, match
from ragself.lexical.index import LexicalIndex
from ragself.lexical.view import View
from ragself.schema import Embedding, Hit

_PARTS = ("vector", "language_model", "bm25")
DEPTH = 100  # candidates of each kind; the number of hits if that is larger
_BEFORE_FILTER = 3  # times as many candidates by words are filtered before all chunks that match the filter are read


class HybridSearch:
    """Hybrid ranking of the nearest chunks and the best chunks by words. Threads may share it."""

    def __init__(self, lexical: LexicalIndex, base: BaseVectors, reader: JournalReader) -> None:
        """Store the lexical index of the documents, their base vectors, and the reader of their texts."""
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
        """The best `k` chunks, best first; ties are ordered by id. Arguments as for `Snapshot.search`.

        For several queries, the cosine is that to the mean of their vectors, and the lexical scores are averaged.

        Raises:
            InputError: A query is empty and has no embedding, or Chroma does not understand the filter.
        """
        queries, depth = _texts(snapshot, query, given), max(k, DEPTH)
        vector = snapshot.vector(queries, given)
        ids, cosines = snapshot.index.near(vector, depth, where)
        view = self._lexical.view()
        near = view.rows(ids)
        there = near >= 0  # the other chunks were deleted
        near, cosines = near[there], cosines[there]
        parsed = [Query.of(text, view) for text in queries]
        new = np.setdiff1d(_by_words(parsed, view, snapshot, depth, where), near)
        rows = np.concatenate([near, new])
        lexical = self._lexical_parts(snapshot, parsed, view, rows)
        hopeful = np.flatnonzero(_may_enter(cosines, lexical[0] + lexical[1], k, depth))
        further, known = self._cosines(snapshot, vector, view, new[hopeful])
        kept = np.concatenate([np.arange(len(near)), len(near) + hopeful[known]])
        parts = (np.concatenate([cosines, further[known]]), lexical[0][kept], lexical[1][kept])
        return self._hits(snapshot, view, rows[kept], parts, k)

    def unit(self) -> float:
        """The encoder's unit of lexical scores, computed once. The very first computation encodes forty texts."""
        if self._unit is None:
            with self._measuring:
                if self._unit is None:
                    self._unit = unit(self._base)
        return self._unit

    def _cosines(
        self, snapshot: Snapshot, vector: NDArray[np.float32], view: View, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Cosines (n,) of chunks, and which of them are known, (n,).

        Vectors come from the lexical index, if it was written with them, or from the cache. Chroma is slower, and is
        queried only for the rest.
        """
        adapter = snapshot.embedder.adapter
        if reads(adapter, "document"):  # its document vectors do not follow from base vectors
            vectors, known = snapshot.index.vectors(view.ids(rows))
            return _cosines(vectors, vector), known
        vectors = self._base_vectors(view, rows)
        known = np.asarray(~np.isnan(vectors).any(axis=1))
        if adapter is not None:
            vectors = adapter.documents(vectors, [""] * len(rows))  # maps vectors only; texts are ignored
        cosines = _cosines(vectors, vector)
        if not known.all():
            lacking = np.flatnonzero(~known)
            stored, known[lacking] = snapshot.index.vectors(view.ids(rows[lacking]))
            cosines[lacking] = _cosines(stored, vector)
        return cosines, known

    def _base_vectors(self, view: View, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Base vectors of chunks, (n, dimension) float32; NaN where unknown."""
        vectors = view.vectors(rows, self._base.dimension)
        lacking = np.flatnonzero(np.isnan(vectors).any(axis=1))
        if len(lacking):
            vectors[lacking] = self._base.named(view.keys(rows[lacking]))
        return vectors

    def _hits(
        self, snapshot: Snapshot, view: View, rows: NDArray[np.int64], parts: tuple[NDArray[np.float64], ...], k: int
    ) -> list[Hit]:
        """The best `k` of n candidates, from the parts of their scores, (n,) each."""
        if not len(rows):
            return []
        scores = parts[0] + parts[1] + parts[2]
        best = np.arange(len(rows))
        if len(rows) > k:  # including ties with the last, which are ordered by id
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
        self, snapshot: Snapshot, parsed: Sequence[Query], view: View, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Contributions of the language model and of BM25 to the scores, (n,) each."""
        both = np.zeros((2, len(rows)))
        for query in parsed:
            both += match(query, view, rows).parts(query, snapshot.weights)
        both *= self.unit() / len(parsed)
        return both[0], both[1]


def _may_enter(cosines: NDArray[np.float64], lexical: NDArray[np.float64], k: int, depth: int) -> NDArray[np.bool_]:
    """Mask, (m,), of the candidates by words alone that may be among the best `k`; only these need their cosines.

    Their cosines are at most the smallest cosine of the nearest chunks. Because Chroma's graph misses some chunks, the
    best `k` of them by words are included in any case.

    Args:
        cosines: (n,) cosines of the nearest chunks.
        lexical: (n + m,) lexical scores of these chunks, then of the candidates by words alone.
        k: Number of hits.
        depth: Number of nearest chunks that were requested.
    """
    near, rest = lexical[: len(cosines)], lexical[len(cosines) :]
    if len(cosines) < max(depth, k + 1) or len(rest) <= k:  # a filter, or all chunks: no bound on the others
        return np.ones(len(rest), np.bool_)
    return np.asarray((rest + cosines.min() >= _kth(cosines + near, k)) | (rest >= _kth(rest, k)))


def _kth(scores: NDArray[np.float64], k: int) -> float:
    """The `k`-th largest of more than `k` scores."""
    return float(np.partition(scores, len(scores) - k)[len(scores) - k])


def _texts(snapshot: Snapshot, query: str | Sequence[str], given: Embedding | None) -> list[str]:
    """Texts of the queries. If `given` belongs to the snapshot, they may be empty, and it alone decides."""
    try:
        return list(check_queries(query))
    except InputError:
        if given is None or not snapshot.owns(given):
            raise
        return [""]


def _cosines(vectors: NDArray[np.float32], vector: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosines of normalised vectors (n, dimension) with a vector of any length, as Chroma computes them."""
    if not vectors.shape[1]:
        return np.zeros(len(vectors))
    return (vectors @ (vector / max(float(np.linalg.norm(vector)), 1e-12))).astype(np.float64)


def _by_words(
    parsed: Sequence[Query], view: View, snapshot: Snapshot, depth: int, where: Mapping[str, Any] | None
) -> NDArray[np.int64]:
    """Rows of the best `depth` chunks by words for each query."""
    find = _filtered if where else _best
    rows = [find(query, view, snapshot, depth, where) for query in parsed]
    return np.unique(np.concatenate(rows))


def _best(
    query: Query, view: View, snapshot: Snapshot, depth: int, where: Mapping[str, Any] | None
) -> NDArray[np.int64]:
    return query.candidates(view, snapshot.weights, depth)


def _filtered(
    query: Query, view: View, snapshot: Snapshot, depth: int, where: Mapping[str, Any] | None
) -> NDArray[np.int64]:
    """Best chunks that match a filter: taken from the best without it if these suffice, else from all that match."""
    assert where
    wanted, index = _BEFORE_FILTER * depth, snapshot.index
    rows = query.candidates(view, snapshot.weights, wanted)
    ids = view.ids(rows)
    allowed = index.allowed(ids, where)
    kept = rows[[id in allowed for id in ids]] if ids else rows
    if len(kept) >= depth or len(rows) < wanted:
        return kept[:depth]
    return query.candidates(view, snapshot.weights, depth, index.find(where))
