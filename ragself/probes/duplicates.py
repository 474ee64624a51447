"""Near-duplicate texts: they stay in one split, and as candidates they would leak a probe's target."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

_BLOCK = 256


def jaccard(one: csr_matrix, many: csr_matrix) -> NDArray[np.float32]:
    """Overlap of the word sets of texts.

    Args:
        one: (n, V) word counts.
        many: (m, V) word counts.

    Returns:
        (n, m) float32 Jaccard overlap, 0 to 1: shared words divided by all words.
    """
    a, b = one.sign(), many.sign()
    shared = np.asarray((a @ b.T).todense(), dtype=np.float32)
    sizes = np.asarray(a.sum(axis=1)) + np.asarray(b.sum(axis=1)).T
    return np.asarray(shared / np.maximum(sizes - shared, 1.0), dtype=np.float32)


def groups(counts: csr_matrix, threshold: float) -> NDArray[np.int32]:
    """Label texts so that those with a word overlap of at least `threshold`, directly or by a chain, share a label.

    Args:
        counts: (n, V) word counts.
        threshold: Jaccard overlap, 0 to 1.

    Returns:
        (n,) int32 labels.
    """
    present = counts.sign().tocsr()
    sizes = np.asarray(present.sum(axis=1)).ravel()
    rows, columns = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, present.shape[0], _BLOCK):  # all pairs at once would need quadratic memory
        shared = (present[start : start + _BLOCK] @ present.T).tocoo()
        union = sizes[start + shared.row] + sizes[shared.col] - shared.data
        close = shared.data >= threshold * np.maximum(union, 1.0)
        rows.append(start + shared.row[close])
        columns.append(shared.col[close])
    row, column = np.concatenate(rows), np.concatenate(columns)
    size = present.shape[0]
    links = coo_matrix((np.ones(len(row)), (row, column)), (size, size)).tocsr()
    _, labels = connected_components(links, directed=False)
    return np.asarray(labels, dtype=np.int32)
