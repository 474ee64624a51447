"""The hybrid adapter: the residual on the dense vector, widened by a learned lexical sketch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself.models.adapter import normalise
from ragself.models.lexicon import Lexicon, Side
from ragself.models.residual import Residual
from ragself.schema import VersionKind

Matrix = NDArray[np.float32]
_BATCH = 1000  # texts sketched at once: bounds memory to the words of so many texts


@dataclass(frozen=True)
class Hybrid:
    """v' = [sqrt(1 - w) residual(v); sqrt(w) sketch(text)], a dense hybrid representation (Lin and Lin 2021).

    The cosine of two such vectors is (1 - w) times the dense cosine plus w times the lexical one, so search
    stays one plain vector query.

    Attributes:
        residual: On the dense part.
        lexicon: What words weigh.
        share: w, 0 to 1.
        width: Dimensions of the sketch, a multiple of 8.
    """

    residual: Residual
    lexicon: Lexicon
    share: float
    width: int
    kind: VersionKind = "hybrid"

    @property
    def dimension(self) -> int:
        """Width of the vectors: dense part and sketch."""
        return self.residual.dimension + self.width

    def documents(self, vectors: Matrix, texts: Sequence[str]) -> Matrix:
        """Map base vectors of documents, (n, base) float32, to (n, dimension) float32, normalised."""
        return self._widen(vectors, texts, "document")

    def queries(self, vectors: Matrix, texts: Sequence[str]) -> Matrix:
        """Map base vectors of queries, (n, base) float32, to (n, dimension) float32, normalised."""
        return self._widen(vectors, texts, "query")

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Those of the parts, with ``share`` and ``width``."""
        settings: dict[str, NDArray[Any]] = {
            "mix": np.array([self.share], np.float32),
            "width": np.array([self.width], np.int64),
        }
        return {**self.residual.tensors(), **self.lexicon.tensors(), **settings}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Hybrid:
        """Build from what `tensors` gave."""
        return cls(
            Residual.from_tensors(tensors),
            Lexicon.from_tensors(tensors),
            float(tensors["mix"][0]),
            int(tensors["width"][0]),
        )

    def _widen(self, vectors: Matrix, texts: Sequence[str], side: Side) -> Matrix:
        out = np.empty((len(texts), self.dimension), dtype=np.float32)
        dense = self.residual.dimension
        out[:, :dense] = np.sqrt(1.0 - self.share) * self.residual.documents(vectors, texts)
        for start in range(0, len(texts), _BATCH):
            rows = slice(start, start + _BATCH)
            out[rows, dense:] = np.sqrt(self.share) * self.lexicon.sketch(texts[rows], side, self.width)
        # A text without a word has no sketch; its dense part alone must still have length 1.
        return normalise(out)
