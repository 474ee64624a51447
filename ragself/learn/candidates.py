"""Candidates: the documents whose likelihood is asked for, few and telling, for each probe."""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import numpy as np
from numpy.typing import NDArray

from ragself.config import TeacherConfig
from ragself.progress import Progress, silent

_BATCH = 256


class Bm25:
    """BM25 over a corpus, with bm25s' defaults (Lucene's variant, English stop words)."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Index `texts`."""
        self._size = len(texts)
        tokens = bm25s.tokenize(list(texts), show_progress=False)
        self._bm25 = bm25s.BM25() if tokens.vocab else None  # a corpus of stop words has nothing to index
        if self._bm25 is not None:
            self._bm25.index(tokens, show_progress=False)

    def top(self, queries: Sequence[str], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Best documents of each query.

        Args:
            queries: n texts.
            k: Depth, cut to the size of the corpus.

        Returns:
            Rows (n, k) int64, best first, and their scores (n, k) float32; a score of 0 means no word in common.
        """
        k = min(k, self._size)
        if self._bm25 is None or k == 0 or not queries:
            return np.tile(np.arange(k), (len(queries), 1)), np.zeros((len(queries), k), np.float32)
        tokens = bm25s.tokenize(list(queries), return_ids=False, show_progress=False)
        rows, scores = self._bm25.retrieve(tokens, k=k, show_progress=False)
        return np.asarray(rows, dtype=np.int64), np.asarray(scores, dtype=np.float32)


def gather(
    queries: NDArray[np.float32],
    texts: Sequence[str],
    documents: NDArray[np.float32],
    bm25: Bm25,
    config: TeacherConfig,
    seed: int,
    progress: Progress = silent,
) -> NDArray[np.int64]:
    """Choose candidates for each probe: nearest by vector, best by BM25, and random ones.

    Args:
        queries: (P, dimension) vectors of the probes in the live version.
        texts: Their P texts.
        documents: (N, dimension) vectors of the documents in the live version.
        bm25: Over the same N documents.
        config: How many of each.
        seed: Of the random ones.
        progress: Told of probes.

    Returns:
        (P, K) int64 rows of the corpus, distinct in each row; K is the sum of the three, at most N.
    """
    rng = np.random.default_rng(seed)
    size = len(documents)
    width = min(size, config.dense + config.lexical + config.random)
    out = np.empty((len(texts), width), dtype=np.int64)
    for start in range(0, len(texts), _BATCH):
        rows = slice(start, start + _BATCH)
        dense = _nearest(queries[rows], documents, min(config.dense, size))
        lexical, scores = bm25.top(texts[rows], config.lexical)
        for probe in range(len(dense)):
            chosen = dict.fromkeys(dense[probe].tolist())
            chosen.update(dict.fromkeys(lexical[probe][scores[probe] > 0].tolist()))
            while len(chosen) < width:  # duplicates are made up for with random documents
                draw = rng.integers(0, size, size=2 * (width - len(chosen)))
                chosen.update(dict.fromkeys(draw.tolist()))
                if len(chosen) < width and width == size:
                    chosen.update(dict.fromkeys(range(size)))
            out[start + probe] = list(chosen)[:width]
        progress("candidates", min(start + _BATCH, len(texts)), len(texts))
    return out


def _nearest(queries: NDArray[np.float32], documents: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    scores = queries @ documents.T
    if k == scores.shape[1]:
        return np.argsort(-scores, axis=1, kind="stable")
    return np.asarray(np.argpartition(-scores, k, axis=1)[:, :k], dtype=np.int64)
