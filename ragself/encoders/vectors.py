"""Base vectors of texts: the encoder with its cache, loaded on first use. Each text is encoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ragself.encoders.cache import VectorCache, key_of
from ragself.encoders.encoder import Encoder
from ragself.encoders.fine_tuned import Copies, FineTuned
from ragself.progress import Progress, silent


class BaseVectors:
    """Vectors of the frozen base encoder."""

    def __init__(self, load: Callable[[], Encoder], fingerprint: str, dimension: int, cache: VectorCache) -> None:
        """Store the parts. `load` loads the encoder when a text is not in the cache."""
        self._load = load
        self._fingerprint = fingerprint
        self._cache = cache
        self._copies = Copies()
        self.dimension = dimension

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder, loaded on first use. Raises EncoderError."""
        return self._load()

    def documents(self, texts: Sequence[str], progress: Progress = silent) -> NDArray[np.float32]:
        """Base vectors of documents, (len(texts), dimension) float32, normalised."""
        space = f"{self._fingerprint}/document"
        encode: Callable[[list[str]], NDArray[np.float32]] = lambda batch: self.encoder.documents(batch)
        return self._cache.vectors(space, texts, encode, self.dimension, progress, "encode documents")

    def key(self, text: str) -> bytes:
        """The 16-byte key of the base vector of a document in the cache."""
        return key_of(f"{self._fingerprint}/document", text)

    def named(self, keys: Sequence[bytes]) -> NDArray[np.float32]:
        """Base vectors of documents by their keys, (len(keys), dimension) float32; NaN where the cache has none."""
        return self._cache.named(keys, self.dimension)

    def keep(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Add base vectors of documents that were computed elsewhere, (len(texts), dimension) float32, normalised."""
        self._cache.keep(f"{self._fingerprint}/document", texts, vectors)

    def tuned(
        self, changes: Callable[[], Mapping[str, NDArray[np.float32]]], digest: str, progress: Progress = silent
    ) -> FineTuned:
        """Return the encoder with changed weights. Its vectors of documents are in the same cache.

        Args:
            changes: Returns the values added to the weights, as in `Encoder.tuned`.
            digest: Hash of the changes.
            progress: Called with the stage, documents encoded and their total.
        """
        key = f"{self._fingerprint}/lora/{digest}"
        load: Callable[[], Encoder] = lambda: self.encoder
        return FineTuned(load, changes, key, copies=self._copies, cache=self._cache, progress=progress)

    def prune(self, documents: Sequence[str], queries: Iterable[str], spaces: Iterable[str] = ()) -> int:
        """Delete vectors that neither these texts nor the last two passes use. Returns the number deleted.

        Args:
            documents: Texts of the documents.
            queries: Texts of the queries.
            spaces: Spaces of fine-tuned encoders whose vectors of the documents are needed, too.
        """
        needed = {f"{self._fingerprint}/document": documents, f"{self._fingerprint}/query": queries}
        return self._cache.prune(needed | dict.fromkeys(spaces, documents))

    def forget(self, queries: Sequence[str]) -> None:
        """Delete the vectors of queries."""
        if queries:
            self._cache.drop(f"{self._fingerprint}/query", queries)

    def missing(self, texts: Sequence[str], side: Literal["document", "query"]) -> list[str]:
        """Those texts that have no vector for that side in the cache, each once."""
        return self._cache.missing(f"{self._fingerprint}/{side}", texts)

    def queries(self, texts: Sequence[str], progress: Progress = silent) -> NDArray[np.float32]:
        """Base vectors of queries, (len(texts), dimension) float32, normalised."""
        space = f"{self._fingerprint}/query"
        encode: Callable[[list[str]], NDArray[np.float32]] = lambda batch: self.encoder.queries(batch)
        return self._cache.vectors(space, texts, encode, self.dimension, progress, "encode queries")
