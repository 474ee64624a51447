"""Vectors of an encoder with LoRA weights merged in: made when a text is first encoded, documents behind the cache."""

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
    """Tuned encoders that are in use, by the hash of their weights, so that equal adapters share one."""

    def __init__(self) -> None:
        """None yet."""
        self._made: WeakValueDictionary[str, Encoder] = WeakValueDictionary()
        self._one = threading.Lock()

    def get(self, key: str, make: Callable[[], Encoder]) -> Encoder:
        """That of the key, made if nobody has one."""
        with self._one:  # two threads at once would merge twice
            found = self._made.get(key)
            if found is None:
                found = self._made[key] = make()
            return found


class FineTuned:
    """A base encoder with changed weights. The base itself stays as it is, and others may use it meanwhile."""

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
        """Name the parts; nothing is loaded yet.

        Args:
            base: Gives the base encoder.
            changes: Give what is added to its weights, as of `Encoder.tuned`.
            key: Hash of base and changes: the space of the vectors in the cache.
            copies: Where equal ones are shared.
            cache: Of documents; None encodes them each time. Queries are never kept: they would have to be forgotten.
            progress: Told of documents that are encoded into the cache.
        """
        self._base, self._changes, self._key = base, changes, key
        self._copies = copies or Copies()
        self._cache, self._progress = cache, progress
        self._encoder: Encoder | None = None

    @property
    def encoder(self) -> Encoder:
        """The tuned encoder, made on first use. Raises AdapterError where the weights do not fit the base."""
        if self._encoder is None:
            self._encoder = self._copies.get(self._key, lambda: self._base().tuned(self._changes()))
        return self._encoder

    def queries(self, texts: Sequence[str]) -> Matrix:
        """Encode texts that are asked: (len(texts), base) float32, normalised."""
        return self.encoder.queries(texts)

    def documents(self, texts: Sequence[str], width: int) -> Matrix:
        """Encode texts that are searched, each once: (len(texts), width) float32, normalised."""
        if self._cache is None:
            return self.encoder.documents(texts)
        encode: Callable[[list[str]], Matrix] = lambda batch: self.encoder.documents(batch)
        return self._cache.vectors(self.space, texts, encode, width, self._progress, "encode documents anew")

    @property
    def space(self) -> str:
        """The space of its documents in the cache."""
        return f"{self._key}/document"

    def afresh(self) -> FineTuned:
        """The same without the cache, to check what is in it."""
        return FineTuned(self._base, self._changes, self._key, copies=self._copies)
