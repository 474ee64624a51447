"""What a word weighs, and its fixed random direction: the two halves of a lexical sketch.

A word is known by a hash, never by its letters, so that an adapter can be given away without the
words of the documents it was trained on. Its direction is made of the same hash: a word that no
training document held has one too.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ragself.corpus.words import Vocabulary, words
from ragself.models.adapter import normalise

Side: TypeAlias = Literal["document", "query"]

LIMIT = 200_000  # words that have weights of their own, those in most documents
MU = 200.0  # as in the document language model, whose form the document side follows


@dataclass(frozen=True)
class Lexicon:
    """Weights of words, learned from a corpus and then by training.

    The weight of a word in a document is log(1 + tf / (mu p(t))) * importance(t): what the word adds to
    the Dirichlet-smoothed likelihood. In a query it is (1 + log tf) * importance(t).

    Attributes:
        keys: (V,) uint64, hashes of the words, ascending.
        importance: (V,) float32, square root of the inverse document frequency, times what was learned.
        share: (V,) float32, p(t): occurrences divided by all words of the corpus.
        unseen: (2,) float32, importance and share of a word that is not among the keys.
    """

    keys: NDArray[np.uint64]
    importance: NDArray[np.float32]
    share: NDArray[np.float32]
    unseen: NDArray[np.float32]

    @classmethod
    def fit(cls, texts: Sequence[str]) -> Lexicon:
        """Count a corpus."""
        vocabulary = Vocabulary.build((words(text) for text in texts), LIMIT)
        documents = vocabulary.documents + 1
        total = max(int(vocabulary.occurrences.sum()), 1)
        keys, _ = _hash(vocabulary.terms, 8)
        order = np.argsort(keys)
        importance = np.sqrt(np.log(documents / (vocabulary.frequency + 1)).clip(min=0))
        unseen = np.array([math.sqrt(math.log(documents)), 1.0 / total], dtype=np.float32)
        share = vocabulary.occurrences / total
        return cls(keys[order], importance[order].astype(np.float32), share[order].astype(np.float32), unseen)

    def learned(self, log_weight: NDArray[np.float32]) -> Lexicon:
        """The same lexicon with each importance multiplied by exp(`log_weight`), (V,) float32."""
        return replace(self, importance=(self.importance * np.exp(log_weight)).astype(np.float32))

    def weigh(self, texts: Sequence[str], side: Side) -> csr_matrix:
        """Weights of the known words, (len(texts), V) float32 CSR, rows L2-normalised: what training sees."""
        counts, terms = _count(texts)
        rows, known = self._lookup(_hash(terms, 8)[0])
        weights = self._weights(counts, rows, known, side)
        weights.data[~known[weights.indices]] = 0.0
        matrix = csr_matrix((weights.data, rows[weights.indices], weights.indptr), (len(texts), len(self.keys)))
        matrix.eliminate_zeros()
        matrix.sort_indices()
        return _normalised(matrix)

    def sketch(self, texts: Sequence[str], side: Side, dimensions: int) -> NDArray[np.float32]:
        """Project the weights of all words on their random directions.

        The inner product of two sketches is that of the weights, plus noise of variance 1 / dimensions
        (Johnson and Lindenstrauss 1984; signs: Achlioptas 2003).

        Args:
            texts: n texts.
            side: Whether they are searched or asked.
            dimensions: r, a multiple of 8.

        Returns:
            (n, r) float32, rows L2-normalised; a text without a word is a row of zeros.
        """
        counts, terms = _count(texts)
        keys, bits = _hash(terms, 8 + dimensions // 8)
        signs = np.unpackbits(bits[:, 8:], axis=1).astype(np.float32) * 2.0 - 1.0
        projected = np.asarray(self._weights(counts, *self._lookup(keys), side) @ signs, dtype=np.float32)
        return normalise(projected)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The four arrays."""
        return {
            "keys": self.keys.view(np.int64),  # safetensors' numpy side is surest with signed integers
            "importance": self.importance,
            "share": self.share,
            "unseen": self.unseen,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Lexicon:
        """Build from what `tensors` gave."""
        return cls(tensors["keys"].view(np.uint64), tensors["importance"], tensors["share"], tensors["unseen"])

    def _lookup(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Row of each key, and whether it is there; the row of one that is not is arbitrary."""
        if not len(self.keys):
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), np.bool_)
        rows = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return rows, self.keys[rows] == keys

    def _weights(self, counts: csr_matrix, rows: NDArray[np.int64], known: NDArray[np.bool_], side: Side) -> csr_matrix:
        importance, share = (np.full(len(rows), value, np.float32) for value in self.unseen)
        importance[known], share[known] = self.importance[rows[known]], self.share[rows[known]]
        tf = counts.data
        strength = np.log1p(tf / (MU * share[counts.indices])) if side == "document" else 1.0 + np.log(tf)
        data = (strength * importance[counts.indices]).astype(np.float32)
        return csr_matrix((data, counts.indices, counts.indptr), counts.shape)


def _count(texts: Sequence[str]) -> tuple[csr_matrix, tuple[str, ...]]:
    tokenised = [words(text) for text in texts]
    vocabulary = Vocabulary.build(tokenised)
    return vocabulary.counts(tokenised), vocabulary.terms


def _hash(terms: Sequence[str], size: int) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """The first 8 bytes of each term's hash as a number, and its first `size` bytes."""
    joined = b"".join(hashlib.shake_256(term.encode("utf-8", "surrogatepass")).digest(size) for term in terms)
    bits = np.frombuffer(joined, dtype=np.uint8).reshape(len(terms), size)
    return np.ascontiguousarray(bits[:, :8]).view("<u8").ravel().astype(np.uint64), bits


def _normalised(matrix: csr_matrix) -> csr_matrix:
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    lengths = np.diff(matrix.indptr)
    matrix.data = (matrix.data / np.repeat(np.maximum(norms, 1e-12), lengths)).astype(np.float32)
    return matrix
