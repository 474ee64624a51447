"""Selection of candidate documents for each probe: nearest by vector, best by words, and a few random ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ragself.config import TeacherConfig
from ragself.lexical.hybrid_score import Query
from ragself.lexical.view import View
from ragself.lexical.weights import Weights
from ragself.progress import Progress, silent

_BATCH = 256


def gather(
    vectors: NDArray[np.float32],
    queries: Sequence[Query],
    documents: NDArray[np.float32],
    corpus: View,
    weights: Weights,
    config: TeacherConfig,
    seed: int,
    progress: Progress = silent,
) -> NDArray[np.int64]:
    """Choose candidates for each probe: nearest by vector, best by words, and random ones.

    Args:
        vectors: (P, dimension) vectors of the probes in the live version.
        queries: The P probes, analysed against the corpus.
        documents: (N, dimension) vectors of the documents in the live version.
        corpus: The same N documents, in the same rows.
        weights: Lexical weights of the live version.
        config: Number of candidates of each kind.
        seed: Seed for the random candidates.
        progress: Called with the number of probes done.

    Returns:
        (P, K) int64 rows of the corpus, distinct in each row; K is the sum of the three numbers, at most N.
    """
    rng = np.random.default_rng(seed)
    size = len(documents)
    width = min(size, config.dense + config.lexical + config.random)
    out = np.empty((len(queries), width), dtype=np.int64)
    for start in range(0, len(queries), _BATCH):
        dense = _nearest(vectors[start : start + _BATCH], documents, min(config.dense, size))
        for row, near in enumerate(dense):
            query = queries[start + row]
            chosen = dict.fromkeys(near.tolist())
            if config.lexical:
                chosen.update(dict.fromkeys(query.candidates(corpus, weights, config.lexical).tolist()))
            while len(chosen) < width:  # random documents replace duplicates
                draw = rng.integers(0, size, size=2 * (width - len(chosen)))
                chosen.update(dict.fromkeys(draw.tolist()))
                if len(chosen) < width and width == size:
                    chosen.update(dict.fromkeys(range(size)))
            out[start + row] = list(chosen)[:width]
        progress("candidates", min(start + _BATCH, len(queries)), len(queries))
    return out


def _nearest(queries: NDArray[np.float32], documents: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    scores = queries @ documents.T
    if k == scores.shape[1]:
        return np.argsort(-scores, axis=1, kind="stable")
    return np.asarray(np.argpartition(-scores, k, axis=1)[:, :k], dtype=np.int64)
