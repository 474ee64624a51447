"""What one query sees: encoder, adapter, word weights and index of one version, as one immutable object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.embedder import Embedder
from ragself.corpus.validate import check_queries
from ragself.index.client import Chroma
from ragself.index.collection import Index
from ragself.lexical.weights import Weights
from ragself.schema import Embedding, Hit, Version


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """One version, ready to answer. A switch makes another one; this one stays as it is until it is closed.

    Attributes:
        version: Which version.
        embedder: Encoder and adapter.
        index: The collection of its documents.
        database: Where that is.
        weights: Of the lexical scores.
    """

    version: Version
    embedder: Embedder
    index: Index
    database: Chroma
    weights: Weights = field(default_factory=Weights)

    def search(
        self,
        query: str | Sequence[str],
        k: int,
        where: Mapping[str, Any] | None = None,
        given: Embedding | None = None,
    ) -> list[Hit]:
        """The `k` chunks nearest to the middle of the queries, nearest first; to `given` if it is of this version."""
        return self.index.query(self.vector(query, given), k, where, self.version.number)

    def vector(self, query: str | Sequence[str], given: Embedding | None = None) -> NDArray[np.float32]:
        """What to search with, (dimension,) float32: `given` if it is of this version, else the queries' middle."""
        if given is not None and self.owns(given):
            return np.array(given.vector, dtype=np.float32)
        return self._middle(query)

    def embed(self, query: str | Sequence[str]) -> Embedding:
        """The middle of the queries in the space of this version."""
        return Embedding(self._middle(query).tolist(), self.version.fingerprint)

    def warm(self) -> None:
        """Have Chroma read the index from disk, and weights be merged, as is done for the first query."""
        self.embedder.warm()
        self.index.query(np.ones(self.version.dimension, dtype=np.float32), 1, None, self.version.number)

    def close(self) -> None:
        """Close the database. Safe to call twice."""
        self.database.close()

    def owns(self, embedding: Embedding) -> bool:
        """Whether an embedding lies in the space of this version."""
        return (embedding.fingerprint, len(embedding.vector)) == (self.version.fingerprint, self.version.dimension)

    def _middle(self, query: str | Sequence[str]) -> NDArray[np.float32]:
        vectors = self.embedder.queries(check_queries(query))
        middle: NDArray[np.float32] = vectors.mean(axis=0)
        return middle
