"""Exact search over what a Chroma collection stores: HNSW, theirs or ours, may pass over a neighbour."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import chromadb
import numpy as np

TIE = 1e-5  # of cosines, which are summed in another order here


class Stored:
    """The rows of a collection, of which the nearest by cosine are known."""

    def __init__(self, collection: chromadb.Collection) -> None:
        """Read all rows."""
        found = collection.get(include=["embeddings"])
        self._ids = found["ids"]
        self._vectors = np.asarray(found["embeddings"], dtype=np.float32)

    def check(self, found: Sequence[str], query: Sequence[float], k: int, among: Collection[str] | None = None) -> None:
        """Assert that these are the `k` nearest to `query`, nearest first; of `among` where that is not None."""
        cosines = dict(zip(self._ids, (self._vectors @ np.asarray(query, np.float32)).tolist(), strict=True))
        best = sorted((cosines[id] for id in (cosines if among is None else among)), reverse=True)[:k]
        assert len(found) == len(set(found)) == len(best)
        assert among is None or set(found) <= set(among)
        np.testing.assert_allclose([cosines[id] for id in found], best, atol=TIE)
