"""Texts that say the same: what must not be split apart, and what would leak a probe's target."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components


def jaccard(one: csr_matrix, many: csr_matrix) -> NDArray[np.float32]:
    """Overlap of the word sets of texts.

    Args:
        one: (n, V) word counts.
        many: (m, V) word counts.

    Returns:
        (n, m) float32: shared words divided by all words, 0 to 1.
    """
    a, b = one.sign(), many.sign()
    shared = np.asarray((a @ b.T).todense(), dtype=np.float32)
    sizes = np.asarray(a.sum(axis=1)) + np.asarray(b.sum(axis=1)).T
    return np.asarray(shared / np.maximum(sizes - shared, 1.0), dtype=np.float32)


def groups(counts: csr_matrix, threshold: float) -> NDArray[np.int32]:
    """Label texts so that those with a word overlap of at least `threshold`, chains included, share a label.

    Args:
        counts: (n, V) word counts.
        threshold: Jaccard overlap, 0 to 1.

    Returns:
        (n,) int32 labels.
    """
    present = counts.sign()
    shared = (present @ present.T).tocoo()
    sizes = np.asarray(present.sum(axis=1)).ravel()
    union = sizes[shared.row] + sizes[shared.col] - shared.data
    close = shared.data >= threshold * np.maximum(union, 1.0)
    links = csr_matrix((np.ones(int(close.sum())), (shared.row[close], shared.col[close])), shape=shared.shape)
    _, labels = connected_components(links, directed=False)
    return np.asarray(labels, dtype=np.int32)
