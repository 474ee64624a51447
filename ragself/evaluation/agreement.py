"""Whether a likelihood can be trusted here, from agreement alone: two witnesses that agree both know something.

What is right is not known, but it makes independent witnesses agree, and nothing else does (Dawid and Skene 1979).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ragself.evaluation.metrics import Values
from ragself.lexical.law import match
from ragself.probes.dataset import Dataset

_NEAREST = 32  # documents that the witnesses are asked about, chosen by neither of them
_DRAWS = 8  # ways to halve a query
_BATCH = 256
_ENOUGH = 500  # probes that are asked: more make the interval no telling narrower


def halves(dataset: Dataset, rows: NDArray[np.int64], seed: int) -> Values:
    """How far two random halves of a query's words favour the same documents, of those nearest by base vectors.

    Where queries and documents name things alike, a document that one half of the words speaks for has the others
    too. Where words meet by chance, the halves favour different ones, and the likelihood of the whole is noise.

    Args:
        study: Probes and documents.
        rows: Which probes.
        seed: Of the halving.

    Returns:
        (n,) float64, one correlation a probe, -1 to 1; probes of fewer than two known words are left out.
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
    """How far two language models favour the same candidates.

    Args:
        one, other: (P, K) gains; infinite ones are passed over.

    Returns:
        (n,) float64, one correlation a probe; probes for which either model finds all alike are left out.
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
