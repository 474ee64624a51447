"""The adapter protocol: a version's map from base vectors to its own vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ragself.schema import VersionKind


class Adapter(Protocol):
    """A trained map from base vectors (and their texts) to the normalised vectors of a version."""

    @property
    def kind(self) -> VersionKind:
        """Kind of the adapter."""
        ...

    @property
    def dimension(self) -> int:
        """Dimension of the vectors that it returns."""
        ...

    def documents(self, vectors: NDArray[np.float32], texts: Sequence[str]) -> NDArray[np.float32]:
        """Map base vectors of documents, (n, base) float32, to (n, dimension) float32."""
        ...

    def queries(self, vectors: NDArray[np.float32], texts: Sequence[str]) -> NDArray[np.float32]:
        """Map base vectors of queries, (n, base) float32, to (n, dimension) float32."""
        ...

    def interpolated(self, alpha: float) -> Adapter:
        """The adapter interpolated between the base model, `alpha` 0, and this one, `alpha` 1."""
        ...

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tensors from which `from_tensors` of the same kind builds an equal adapter."""
        ...


def normalise(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """L2-normalise rows; a row of zeros stays zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)
