"""The score that a student with a trained encoder gives: dense vectors, and what a frozen inner adapter adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from ragself.models.adapter import Adapter
from ragself.models.hybrid import Hybrid
from ragself.models.residual import Residual

FloatArray = NDArray[np.float32]
_BLOCK = 1000  # documents mapped at once
_PAIRS = 4096  # probes with a document whose remaining dimensions are multiplied at once


@dataclass(frozen=True, slots=True)
class Probed:
    """Probes of one split, and what the teacher says of their candidates.

    Attributes:
        texts: P probes.
        queries: (P, base) float32 base vectors.
        candidates: (P, K) int64 rows of the documents.
        target: (P, K) float32 the teacher's law: rows sum to 1, or to 0 where every candidate is out.
        leaks: (P, K) True where a candidate would leak the target: it is neither pulled nor pushed.
        weights: (P,) float32, how much each probe counts.
    """

    texts: Sequence[str]
    queries: FloatArray
    candidates: NDArray[np.int64]
    target: FloatArray
    leaks: NDArray[np.bool_]
    weights: FloatArray


class Frame:
    """A frozen inner adapter around the dense vectors: score = residual(query) . document * scales + extra.

    An adapter's vectors begin with those of its residual, of a length that depends on the text alone; what comes after
    them depends on the text alone, too. So scales and the extra score are constants, found by applying the adapter
    to base vectors once.

    Attributes:
        documents: (N, base) float32 dense part of documents that stay as they are, their scale included.
        scale: (N,) float32 length of that part.
    """

    def __init__(self, inner: Adapter | None, documents: FloatArray, texts: Sequence[str]) -> None:
        """Apply `inner` to base vectors (N, base) of documents; None, Residual or Hybrid.

        Args:
            inner: Around the dense vectors.
            documents: (N, base) float32.
            texts: N.
        """
        assert inner is None or isinstance(inner, Residual | Hybrid)
        residual = inner.residual if isinstance(inner, Hybrid) else inner
        self._maps = None if residual is None else (torch.from_numpy(residual.down), torch.from_numpy(residual.up))
        self._inner, self._base, self._texts = inner, documents, texts
        self._dense = documents.shape[1]
        self.documents = documents if inner is None else np.empty_like(documents)
        for start in range(0, 0 if inner is None else len(texts), _BLOCK):
            self.documents[start : start + _BLOCK] = self._made(start)[:, : self._dense]
        self.scale = _lengths(self.documents, inner)

    def dense(self, vectors: Tensor) -> Tensor:
        """The residual of vectors that the encoder makes, (n, base), normalised."""
        if self._maps is None:
            return vectors
        down, up = self._maps
        return normalize(vectors + vectors @ down @ up, dim=-1)

    def around(self, probed: Probed) -> tuple[FloatArray, FloatArray]:
        """Scale of each probe's dense part, (P,), and what the rest of the vectors adds to each score, (P, K)."""
        extra = np.zeros(probed.candidates.shape, dtype=np.float32)
        if self._inner is None or not len(probed.texts):
            return np.ones(len(probed.texts), dtype=np.float32), extra
        asked = self._inner.queries(probed.queries, list(probed.texts))
        rest = asked[:, self._dense :]
        for start in range(0, len(self._texts) if rest.shape[1] else 0, _BLOCK):
            made = self._made(start)[:, self._dense :]
            at = np.nonzero((probed.candidates >= start) & (probed.candidates < start + _BLOCK))
            for part in range(0, len(at[0]), _PAIRS):
                probe, column = (axis[part : part + _PAIRS] for axis in at)
                found = made[probed.candidates[probe, column] - start]
                extra[probe, column] = np.einsum("ij,ij->i", rest[probe], found)
        return _lengths(asked[:, : self._dense], self._inner), extra

    def _made(self, start: int) -> FloatArray:
        assert self._inner is not None
        rows = slice(start, start + _BLOCK)
        return self._inner.documents(self._base[rows], list(self._texts[rows]))


def _lengths(vectors: FloatArray, inner: Adapter | None) -> FloatArray:
    if inner is None:
        return np.ones(len(vectors), dtype=np.float32)
    return np.asarray(np.linalg.norm(vectors, axis=1), dtype=np.float32)
