"""The residual adapter: v + v A B, a low-rank correction of the base vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.protocol import normalise
from ragself.schema import VersionKind

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Residual:
    """A low-rank linear map, the same for documents and queries, so that a text stays nearest to itself.

    Attributes:
        down: A, (base, rank) float32.
        up: B, (rank, base) float32.
    """

    down: Matrix
    up: Matrix
    kind: VersionKind = "residual"

    @property
    def dimension(self) -> int:
        """Dimension of the vectors: that of the base."""
        return int(self.up.shape[1])

    def documents(self, vectors: Matrix, texts: Sequence[str]) -> Matrix:
        """Map base vectors, (n, base) float32, to (n, base) float32, normalised. The texts are not used."""
        return normalise((vectors + (vectors @ self.down) @ self.up).astype(np.float32, copy=False))

    def queries(self, vectors: Matrix, texts: Sequence[str]) -> Matrix:
        """The same map as for documents."""
        return self.documents(vectors, texts)

    def interpolated(self, alpha: float) -> Residual:
        """Interpolate between the base model, `alpha` 0, and this adapter, `alpha` 1."""
        return replace(self, up=(self.up * alpha).astype(np.float32))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """``down`` and ``up``."""
        return {"down": self.down, "up": self.up}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Residual:
        """Build an adapter from the result of `tensors`."""
        return cls(tensors["down"], tensors["up"])
