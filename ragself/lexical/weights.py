"""Trainable weights of the lexical scores: of the scores themselves, and of single words in them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself.lexical.terms import term_keys

LANGUAGE_MODEL = 0.11  # cosine per nat: one value for all collections, near the best on the development ones
BM25 = 0.02  # cosine per unit of BM25, likewise


def _no_keys() -> NDArray[np.uint64]:
    return np.empty(0, np.uint64)


def _no_logs() -> NDArray[np.float32]:
    return np.empty(0, np.float32)


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights of the lexical scores in the ranking law, applied on the query's side.

    Words are stored as hashes only. Weights can thus be shared without the words of the documents and queries that they
    were trained on.

    Attributes:
        language_model: Weight a of the document language model, in cosine per nat, 0 or more.
        bm25: Weight b of BM25, in cosine per unit, 0 or more.
        keys: (V,) uint64, hashes of the words with individual weights, ascending.
        log_weight: (V,) float32, natural logarithms of their weights. Any other word has weight 1.
    """

    language_model: float = LANGUAGE_MODEL
    bm25: float = BM25
    keys: NDArray[np.uint64] = field(default_factory=_no_keys)
    log_weight: NDArray[np.float32] = field(default_factory=_no_logs)

    def of(self, terms: Sequence[str]) -> NDArray[np.float32]:
        """Weights of words, (len(terms),) float32."""
        out = np.ones(len(terms), np.float32)
        if not len(self.keys) or not terms:
            return out
        wanted = term_keys(terms)
        rows = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        known = self.keys[rows] == wanted
        out[known] = np.exp(self.log_weight[rows[known]])
        return out

    def interpolated(self, alpha: float) -> Weights:
        """Interpolate between the untrained weights (`alpha` 0) and these (1)."""
        a = LANGUAGE_MODEL + alpha * (self.language_model - LANGUAGE_MODEL)
        b = BM25 + alpha * (self.bm25 - BM25)
        return Weights(a, b, self.keys, (alpha * self.log_weight).astype(np.float32))

    @property
    def digest(self) -> str:
        """Hash of all weights; empty for the untrained ones."""
        if not len(self.keys) and (self.language_model, self.bm25) == (LANGUAGE_MODEL, BM25):
            return ""
        digest = hashlib.blake2b(repr((self.language_model, self.bm25)).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self.keys).data)
        digest.update(np.ascontiguousarray(self.log_weight).data)
        return digest.hexdigest()

    def tensors(self) -> dict[str, NDArray[Any]]:
        """``fusion`` (2,) float64, ``keys`` as int64, and ``log_weight``."""
        return {
            "fusion": np.array([self.language_model, self.bm25], np.float64),
            "keys": self.keys.view(np.int64),  # safetensors handles signed integers most reliably from numpy
            "log_weight": self.log_weight,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Weights:
        """Restore weights from the result of `tensors`."""
        a, b = tensors["fusion"].tolist()
        return cls(float(a), float(b), tensors["keys"].view(np.uint64), tensors["log_weight"])
