"""Encoder with merged LoRA weights: created on first use, with a cache for documents."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from ragself.encoders.cache import VectorCache
from ragself.encoders.encoder import Encoder
from ragself.progress import Progress, silent

Matrix = NDArray[np.float32]


class Copies:
    """Fine-tuned encoders in use, by the hash of their weights, so that equal adapters share one."""

    def __init__(self) -> None:
        """Create an empty collection."""
        self._made: WeakValueDictionary[str, Encoder] = WeakValueDictionary()
        self._one = threading.Lock()

    def get(self, key: str, make: Callable[[], Encoder]) -> Encoder:
        """Return the encoder of `key`. Create it with `make` if none is in use."""
        with self._one:  # two threads at once would merge twice
            found = self._made.get(key)
            if found is None:
                found = self._made[key] = make()
            return found


class FineTuned:
    """A base encoder with changed weights. The base encoder itself does not change and stays usable."""

    def __init__(
        self,
        base: Callable[[], Encoder],
        changes: Callable[[], Mapping[str, Matrix]],
        key: str,
        *,
        copies: Copies | None = None,
        cache: VectorCache | None = None,
        progress: Progress = silent,
    ) -> None:
        """Store the parts. Nothing is loaded yet.

        Args:
            base: Returns the base encoder.
            changes: Returns the values added to its weights, as in `Encoder.tuned`.
            key: Hash of base and changes, which names the space of the vectors in the cache.
            copies: Collection in which equal encoders are shared. None creates a new one.
            cache: Cache of documents; None encodes them each time. Queries are never cached, as they would have to be
                deleted.
            progress: Called with the stage, documents encoded into the cache and their total.
        """
        self._base, self._changes, self._key = base, changes, key
        self._copies = copies or Copies()
        self._cache, self._progress = cache, progress
        self._encoder: Encoder | None = None

    @property
    def encoder(self) -> Encoder:
        """The fine-tuned encoder, created on first use. Raises AdapterError if the weights do not fit the base."""
        if self._encoder is None:
            self._encoder = self._copies.get(self._key, lambda: self._base().tuned(self._changes()))
        return self._encoder

    def queries(self, texts: Sequence[str]) -> Matrix:
        """Encode queries: (len(texts), base) float32, normalised."""
        return self.encoder.queries(texts)

    def documents(self, texts: Sequence[str], width: int) -> Matrix:
        """Encode documents, each once: (len(texts), width) float32, normalised."""
        if self._cache is None:
            return self.encoder.documents(texts)
        encode: Callable[[list[str]], Matrix] = lambda batch: self.encoder.documents(batch)
        return self._cache.vectors(self.space, texts, encode, width, self._progress, "re-embed documents")

    @property
    def space(self) -> str:
        """Space of its documents in the cache."""
        return f"{self._key}/document"

    def afresh(self) -> FineTuned:
        """The same encoder without the cache, to verify cached vectors."""
        return FineTuned(self._base, self._changes, self._key, copies=self._copies)
