"""Immutable snapshot of a version for queries: encoder, adapter, word weights and index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.embedder import Embedder
from ragself.corpus.validate import check_queries
from ragself.index.collection import ChromaCollection
from ragself.index.database import ChromaDatabase
from ragself.lexical.weights import Weights
from ragself.schema import Embedding, Hit, Version


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """A version that is open for search. A switch opens another snapshot; this one does not change until it is closed.

    Attributes:
        version: The version.
        embedder: Encoder and adapter.
        index: Collection of its documents.
        database: Database that holds the collection.
        weights: Weights of the lexical scores.
    """

    version: Version
    embedder: Embedder
    index: ChromaCollection
    database: ChromaDatabase
    weights: Weights = field(default_factory=Weights)

    def search(
        self,
        query: str | Sequence[str],
        k: int,
        where: Mapping[str, Any] | None = None,
        given: Embedding | None = None,
    ) -> list[Hit]:
        """The `k` chunks nearest to `vector` of the query, nearest first. Chroma's filter `where` limits the chunks."""
        return self.index.query(self.vector(query, given), k, where, self.version.number)

    def vector(self, query: str | Sequence[str], given: Embedding | None = None) -> NDArray[np.float32]:
        """Vector to search with, (dimension,) float32: `given` if it is of this version, else the queries' mean."""
        if given is not None and self.owns(given):
            return np.array(given.vector, dtype=np.float32)
        return self._middle(query)

    def embed(self, query: str | Sequence[str]) -> Embedding:
        """Mean vector of the queries in the space of this version."""
        return Embedding(self._middle(query).tolist(), self.version.fingerprint)

    def warm(self) -> None:
        """Do what the first query would wait for: merge weights, and let Chroma read the index from disk."""
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
        mean: NDArray[np.float32] = vectors.mean(axis=0)
        return mean
