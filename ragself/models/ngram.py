"""The embedded language model: a Dirichlet-smoothed document language model, no download, milliseconds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ragself.corpus.words import Vocabulary, words

_BATCH = 256  # targets scored at once: bounds memory to _BATCH x documents floats


class NgramScorer:
    """Unigram document language models smoothed with the corpus (Zhai and Lafferty 2004).

    p(t | d) = (tf(t, d) + mu p(t)) / (|d| + mu), and the gain of a target is the mean over its words of
    log p(t | d) - log p(t). Words that no document holds say nothing about any and are left out.
    """

    def __init__(self, documents: Sequence[str], mu: float = 200.0) -> None:
        """Count the words of `documents`; `mu` is the weight of the corpus, in words."""
        tokenised = [words(text) for text in documents]
        self.name = f"ngram:unigram-dirichlet-{mu:g}:{len(documents)}"
        self._vocabulary = Vocabulary.build(tokenised)
        counts = self._vocabulary.counts(tokenised)
        corpus = self._vocabulary.occurrences / max(int(self._vocabulary.occurrences.sum()), 1)
        # log p(t|d) - log p(t) = log(1 + tf / (mu p(t))) + log(mu / (|d| + mu)): sparse plus one number a document
        counts.data = np.log1p(counts.data / (mu * corpus[counts.indices])).astype(np.float32)
        self._weights = csr_matrix(counts.T)
        lengths = np.array([len(tokens) for tokens in tokenised], dtype=np.float64)
        self._length = np.log(mu / (lengths + mu)).astype(np.float32)

    def gains(self, targets: Sequence[str], candidates: NDArray[np.int64]) -> NDArray[np.float32]:
        """Gain of each target from its candidates, (P, K) float32, nats per word; 0 for a target of unknown words."""
        out = np.empty(candidates.shape, dtype=np.float32)
        for start in range(0, len(targets), _BATCH):
            rows = slice(start, start + _BATCH)
            out[rows] = np.take_along_axis(self.matrix(targets[rows]), candidates[rows], axis=1)
        return out

    def matrix(self, targets: Sequence[str]) -> NDArray[np.float32]:
        """Gain of each target from every document, (len(targets), documents) float32, nats per word."""
        counts = self._vocabulary.counts([words(target) for target in targets])
        lengths = np.asarray(counts.sum(axis=1))
        totals = np.asarray((counts @ self._weights).todense(), dtype=np.float32)
        gains = np.asarray(totals / np.maximum(lengths, 1.0) + self._length[None, :], dtype=np.float32)
        gains[lengths.ravel() == 0] = 0.0
        return gains
