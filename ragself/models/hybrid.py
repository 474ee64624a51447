"""The hybrid adapter: the residual on the dense vector, widened by a learned lexical sketch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself.models.lexicon import Lexicon, Side
from ragself.models.residual import Residual
from ragself.schema import Space, VersionKind

Matrix = NDArray[np.float32]
STRENGTH = 0.075  # strength of a lexical score that nothing was learned for: gained on every collection measured
_BATCH = 1000  # texts sketched at once: bounds memory to the words of so many texts
_ENOUGH = 2000  # documents that say where the middle of all is


@dataclass(frozen=True)
class Hybrid:
    """v' = [residual(v); sqrt(strength) sketch(text)], a dense hybrid representation (Lin and Lin 2021).

    The inner product of two such vectors is the dense cosine plus strength times the lexical score, so search
    stays one plain vector query. Lengths of documents matter, which no cosine would leave: it is compared by
    inner product.

    Attributes:
        residual: On the dense part.
        lexicon: What words weigh.
        strength: Of the lexical score, in cosine per nat; above 0.
        centre: (width + 1,) float32, the middle of the documents' sketches, which is taken off them: it would add
            the same to all scores of a query.
    """

    residual: Residual
    lexicon: Lexicon
    strength: float
    centre: Matrix
    kind: VersionKind = "hybrid"
    space: Space = "ip"

    @classmethod
    def around(cls, residual: Residual, lexicon: Lexicon, strength: float, width: int, texts: Sequence[str]) -> Hybrid:
        """With its centre in the middle of a corpus.

        Args:
            residual, lexicon, strength: As attributes.
            width: Dimensions of the sketch, a multiple of 8.
            texts: The corpus; evenly chosen ones of it are enough.
        """
        some = texts[:: max(len(texts) // _ENOUGH, 1)][:_ENOUGH]
        middle = np.zeros(width + 1, np.float64)
        for start in range(0, len(some), _BATCH):
            middle += lexicon.sketch(some[start : start + _BATCH], "document", width).sum(axis=0) / len(some)
        return cls(residual, lexicon, strength, middle.astype(np.float32))

    @property
    def width(self) -> int:
        """Dimensions of the sketch."""
        return len(self.centre) - 1

    @property
    def dimension(self) -> int:
        """Width of the vectors: dense part, sketch, and what depends on the number of words."""
        return self.residual.dimension + len(self.centre)

    def documents(self, vectors: Matrix, texts: Sequence[str]) -> Matrix:
        """Map base vectors of documents, (n, base) float32, to (n, dimension) float32."""
        return self._widen(vectors, texts, "document")

    def queries(self, vectors: Matrix, texts: Sequence[str]) -> Matrix:
        """Map base vectors of queries, (n, base) float32, to (n, dimension) float32."""
        return self._widen(vectors, texts, "query")

    def faded(self, alpha: float) -> Hybrid:
        """Between the base model, 0, and this, 1; weights of words are too."""
        lexicon = self.lexicon.learned(((alpha - 1.0) * np.log(self.lexicon.weight)).astype(np.float32))
        return replace(self, residual=self.residual.faded(alpha), lexicon=lexicon, strength=self.strength * alpha)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Those of the parts, with ``strength`` and ``centre``."""
        settings: dict[str, NDArray[Any]] = {
            "strength": np.array([self.strength], np.float32),
            "centre": self.centre,
        }
        return {**self.residual.tensors(), **self.lexicon.tensors(), **settings}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Hybrid:
        """Build from what `tensors` gave."""
        return cls(
            Residual.from_tensors(tensors),
            Lexicon.from_tensors(tensors),
            float(tensors["strength"][0]),
            tensors["centre"],
        )

    def _widen(self, vectors: Matrix, texts: Sequence[str], side: Side) -> Matrix:
        out = np.empty((len(texts), self.dimension), dtype=np.float32)
        dense = self.residual.dimension
        out[:, :dense] = self.residual.documents(vectors, texts)
        for start in range(0, len(texts), _BATCH):
            rows = slice(start, start + _BATCH)
            sketch = self.lexicon.sketch(texts[rows], side, self.width)
            out[rows, dense:] = np.sqrt(self.strength) * (sketch - self.centre if side == "document" else sketch)
        return out
