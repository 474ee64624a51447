"""Rater agreement: estimates without labels whether a likelihood can be trusted on this corpus.

Independent raters can agree only because of what is relevant, although that is unknown (Dawid and Skene 1979).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ragself.evaluation.metrics import Values
from ragself.lexical.hybrid_score import match
from ragself.probes.dataset import Dataset

_NEAREST = 32  # number of documents that both raters score; neither rater chooses them
_DRAWS = 8  # number of random splits of a query into halves
_BATCH = 256
_ENOUGH = 500  # maximum number of probes: more hardly narrow the interval


def halves(dataset: Dataset, rows: NDArray[np.int64], seed: int) -> Values:
    """Agreement between two random halves of a query's words on the nearest documents by base vectors.

    If queries and documents use the same words for the same things, a document that matches one half matches the
    other half, too. If words match by chance, the halves favour different documents, and the likelihood of the whole
    query is noise.

    Args:
        dataset: Probes and documents.
        rows: Rows of the probes to use.
        seed: Seed for choosing and halving queries.

    Returns:
        (n,) float64 correlations, one per probe, -1 to 1; probes with fewer than two known words are omitted.
    """
    random = np.random.default_rng(seed)
    rows = np.sort(random.permutation(rows)[:_ENOUGH])
    documents, size = dataset.documents[: dataset.size], min(_NEAREST, dataset.size)
    found = []
    for start in range(0, len(rows), _BATCH):
        some = rows[start : start + _BATCH]
        near = np.argpartition(-(dataset.queries[some] @ documents.T), size - 1, axis=1)[:, :size]
        for row, at in zip(some.tolist(), near, strict=True):
            query = dataset.words.queries[row]
            if len(query.terms) >= 2:
                found.append(_split(match(query, dataset.words.documents, at).gain, random))
    return np.array([value for value in found if value is not None], dtype=np.float64)


def between(one: NDArray[np.float32], other: NDArray[np.float32]) -> Values:
    """Agreement between two language models on the same candidates.

    Args:
        one, other: (P, K) gains; only candidates with two finite gains are used.

    Returns:
        (n,) float64 correlations, one per probe; probes with constant gains or fewer than three candidates are omitted.
    """
    found = []
    for a, b in zip(one, other, strict=True):
        both = np.isfinite(a) & np.isfinite(b)
        found.append(_correlation(a[both], b[both]))
    return np.array([value for value in found if value is not None], dtype=np.float64)


def _split(parts: NDArray[np.float32], random: np.random.Generator) -> float | None:
    values = []
    for _ in range(_DRAWS):
        order = random.permutation(parts.shape[1])
        half = parts.shape[1] // 2
        values.append(_correlation(parts[:, order[:half]].sum(axis=1), parts[:, order[half:]].sum(axis=1)))
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float | None:
    if len(a) < 3 or np.ptp(a) < 1e-6 or np.ptp(b) < 1e-6:
        return None
    return float(np.corrcoef(a, b)[0, 1])
