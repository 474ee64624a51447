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
        around: Of each split, the scale of each probe's dense part, (P,), and what the rest of the vectors adds to each
            score, (P, K).
    """

    def __init__(
        self, inner: Adapter | None, documents: FloatArray, texts: Sequence[str], splits: Sequence[Probed]
    ) -> None:
        """Apply `inner` to base vectors.

        Args:
            inner: Around the dense vectors; None, a Residual or a Hybrid.
            documents: (N, base) float32.
            texts: N.
            splits: Probes whose candidates are among the documents.
        """
        assert inner is None or isinstance(inner, Residual | Hybrid)
        residual = inner.residual if isinstance(inner, Hybrid) else inner
        self._maps = None if residual is None else (torch.from_numpy(residual.down), torch.from_numpy(residual.up))
        extras = [np.zeros(split.candidates.shape, dtype=np.float32) for split in splits]
        if inner is None:
            self.documents, asked = documents, [split.queries for split in splits]
        else:
            dense = documents.shape[1]
            vectors = [inner.queries(split.queries, list(split.texts)) for split in splits]
            asked, rests = [each[:, :dense] for each in vectors], [each[:, dense:] for each in vectors]
            self.documents = np.empty_like(documents)
            for start in range(0, len(texts), _BLOCK):
                rows = slice(start, start + _BLOCK)
                made = inner.documents(documents[rows], list(texts[rows]))
                self.documents[rows] = made[:, :dense]
                for split, rest, extra in zip(splits, rests, extras, strict=True):
                    _add(extra, rest, made[:, dense:], split.candidates - start)
        self.scale = _lengths(self.documents, inner)
        self.around = [(_lengths(each, inner), extra) for each, extra in zip(asked, extras, strict=True)]

    def dense(self, vectors: Tensor) -> Tensor:
        """The residual of vectors that the encoder makes, (n, base), normalised."""
        if self._maps is None:
            return vectors
        down, up = self._maps
        return normalize(vectors + vectors @ down @ up, dim=-1)


def _add(extra: FloatArray, queries: FloatArray, documents: FloatArray, candidates: NDArray[np.int64]) -> None:
    """Add the products of probes with those candidates (P, K) that are rows of `documents`; there may be none."""
    at = np.nonzero((candidates >= 0) & (candidates < len(documents)))
    for start in range(0, len(at[0]) if documents.shape[1] else 0, _PAIRS):
        probe, column = (axis[start : start + _PAIRS] for axis in at)
        extra[probe, column] += np.einsum("ij,ij->i", queries[probe], documents[candidates[probe, column]])


def _lengths(vectors: FloatArray, inner: Adapter | None) -> FloatArray:
    if inner is None:
        return np.ones(len(vectors), dtype=np.float32)
    return np.asarray(np.linalg.norm(vectors, axis=1), dtype=np.float32)
