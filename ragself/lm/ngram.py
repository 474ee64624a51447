"""The built-in language model: smoothed word and bigram counts of each document. No download, milliseconds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix

from ragself.corpus.words import Vocabulary, words
from ragself.progress import Progress, silent
from ragself.schema import Probe

_BATCH = 256  # targets scored at once; limits memory to _BATCH x documents floats


class NgramScorer:
    """A bigram language model of each document, smoothed with its unigrams, which are smoothed with the corpus.

        p(t | d)    = (c(t, d) + mu p(t)) / (|d| + mu)                      Zhai and Lafferty 2004
        p(t | s, d) = (c(s t, d) + nu p(t | d)) / (c(s, d) + nu)            MacKay and Peto 1995

    The gain of a target is the mean over its words of log p(t | s, d) - log p(t). Words that are not in the
    corpus carry no information about any document and are left out.
    """

    def __init__(
        self, documents: Sequence[str], corpus: int | None = None, *, mu: float = 200.0, nu: float = 100.0
    ) -> None:
        """Count words.

        Args:
            documents: N texts that targets are scored against.
            corpus: Number of leading documents that form the corpus for smoothing; None means all.
            mu: Weight of the corpus against a document's words, in words.
            nu: Weight of a document's words against its bigrams, in words.
        """
        self.name = f"ngram:bigram-dirichlet-{mu:g}-{nu:g}"
        self._mu, self._nu = mu, nu
        tokenised = [words(text) for text in documents]
        self._vocabulary = Vocabulary.build(tokenised[:corpus])
        self._counts = self._vocabulary.counts(tokenised)
        self._lengths = np.array([len(tokens) for tokens in tokenised], dtype=np.float64)
        occurrences = self._vocabulary.occurrences
        self._share = occurrences / max(int(occurrences.sum()), 1)

        # log p(t|d) - log p(t) = log(1 + c / (mu p(t))) + log(mu / (|d| + mu)): sparse, plus one number per document
        strength = np.log1p(self._counts.data / (mu * self._share[self._counts.indices]))
        self._words = _like(self._counts, strength).T.tocsr()
        self._context = _like(self._counts, np.log(nu / (self._counts.data + nu))).T.tocsr()
        self._length = np.log(mu / (self._lengths + mu)).astype(np.float32)
        self._bigrams, self._owner = self._list_bigrams(tokenised)

    def gains(
        self, probes: Sequence[Probe], candidates: NDArray[np.int64], progress: Progress = silent
    ) -> NDArray[np.float32]:
        """Gain of each target from its candidates, (P, K) float32, nats per word; 0 if all its words are unknown."""
        out = np.empty(candidates.shape, dtype=np.float32)
        for start in range(0, len(probes), _BATCH):
            progress("score", start, len(probes))
            rows = slice(start, start + _BATCH)
            targets = [probe.target for probe in probes[rows]]
            out[rows] = np.take_along_axis(self.matrix(targets), candidates[rows], axis=1)
        progress("score", len(probes), len(probes))
        return out

    def matrix(self, targets: Sequence[str]) -> NDArray[np.float32]:
        """Gain of each target from every document, (len(targets), documents) float32, nats per word."""
        tokenised = [words(target) for target in targets]
        counts = self._vocabulary.counts(tokenised)
        pairs, owner = self._list_bigrams(tokenised)
        ones = np.ones(len(pairs), dtype=np.float32)
        contexts = coo_matrix((ones, (owner, pairs // max(len(self._vocabulary), 1))), counts.shape).tocsr()
        total = _dense(counts @ self._words) + _dense(contexts @ self._context)

        distinct, which = np.unique(pairs, return_inverse=True)
        bigrams = coo_matrix((ones, (owner, which)), (len(targets), len(distinct))).tocsr()
        total += _dense(bigrams @ self._pair_strength(distinct))

        lengths = np.asarray(counts.sum(axis=1), dtype=np.float32)
        gains = total / np.maximum(lengths, 1.0) + self._length[None, :]
        gains[lengths.ravel() == 0] = 0.0
        return np.asarray(gains, dtype=np.float32)

    def _pair_strength(self, pairs: NDArray[np.int64]) -> csr_matrix:
        """log(1 + c(s t, d) / (nu p(t | d))) of each pair in each document that contains it, (pairs, documents)."""
        shape = (len(pairs), len(self._lengths))
        if not len(pairs) or not len(self._bigrams):
            return csr_matrix(np.zeros(shape, dtype=np.float32))
        row = np.searchsorted(pairs, self._bigrams).clip(max=len(pairs) - 1)
        here = pairs[row] == self._bigrams
        found = coo_matrix((np.ones(int(here.sum())), (row[here], self._owner[here])), shape).tocsr().tocoo()
        second = pairs[found.row] % len(self._vocabulary)
        count = np.asarray(self._counts[found.col, second]).ravel()
        smooth = (count + self._mu * self._share[second]) / (self._lengths[found.col] + self._mu)
        data = np.log1p(found.data / (self._nu * smooth)).astype(np.float32)
        return csr_matrix((data, (found.row, found.col)), shape)

    def _list_bigrams(self, tokenised: Sequence[Sequence[str]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Every pair of adjacent known words as one number, and the index of its text."""
        index, size = self._vocabulary.index, len(self._vocabulary)
        pairs, owner = [], []
        for text, tokens in enumerate(tokenised):
            ids = np.array([index.get(token, -1) for token in tokens], dtype=np.int64)
            first, second = ids[:-1], ids[1:]
            known = (first >= 0) & (second >= 0)
            pairs.append(first[known] * size + second[known])
            owner.append(np.full(int(known.sum()), text, dtype=np.int64))
        nothing = np.empty(0, dtype=np.int64)
        return np.concatenate([nothing, *pairs]), np.concatenate([nothing, *owner])


def _like(matrix: csr_matrix, data: NDArray[np.float64]) -> csr_matrix:
    return csr_matrix((data.astype(np.float32), matrix.indices, matrix.indptr), matrix.shape)


def _dense(matrix: csr_matrix) -> NDArray[np.float32]:
    return np.asarray(matrix.toarray(), dtype=np.float32)
