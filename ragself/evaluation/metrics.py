"""Retrieval metrics on arrays. Each function returns one value per query, for paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def ndcg(relevance: NDArray[np.float64], ideal: NDArray[np.float64], k: int) -> Values:
    """Normalised discounted cumulative gain, linear gains (Järvelin and Kekäläinen 2002; trec_eval).

    Args:
        relevance: (queries, depth) gain of the document at each rank, best rank first.
        ideal: (queries, any) gains of all relevant documents, largest first, padded with 0.
        k: Depth.

    Returns:
        (queries,) float64; 0 where a query has nothing relevant.

    >>> ndcg(np.array([[0.0, 1.0]]), np.array([[1.0]]), k=10).round(4)
    array([0.6309])
    """
    found, best = _dcg(relevance[:, :k]), _dcg(ideal[:, :k])
    return np.asarray(np.divide(found, best, out=np.zeros_like(found), where=best > 0))


def recall(relevance: NDArray[np.float64], total: NDArray[np.int64], k: int) -> Values:
    """Share of the relevant documents within the top `k`.

    Args:
        relevance: (queries, depth) gain at each rank.
        total: (queries,) number of relevant documents.
        k: Depth.

    Returns:
        (queries,) float64; 0 where a query has nothing relevant.
    """
    found = (relevance[:, :k] > 0).sum(axis=1).astype(np.float64)
    return np.asarray(np.divide(found, total, out=np.zeros_like(found), where=total > 0))


def known_item(ranks: NDArray[np.int64], k: int) -> dict[str, Values]:
    """Metrics of queries with exactly one relevant document.

    Args:
        ranks: (queries,) rank of that document, 1 is best.
        k: Depth.

    Returns:
        ``ndcg``, ``mrr`` and ``recall`` at k, each (queries,) float64.
    """
    inside = ranks <= k
    return {
        "ndcg": np.where(inside, 1.0 / np.log2(1.0 + ranks), 0.0),
        "mrr": np.where(inside, 1.0 / ranks, 0.0),
        "recall": inside.astype(np.float64),
    }


def utility(mass: NDArray[np.float32], scores: NDArray[np.float32], k: int) -> Values:
    """LM utility@k: the share of the teacher's mass that lies in the student's top k.

    Args:
        mass: (queries, candidates) teacher's target distribution over each query's candidates, rows sum to 1.
        scores: (queries, candidates) student's scores of the same candidates.
        k: Depth.

    Returns:
        (queries,) float64, 0 to 1.
    """
    if scores.shape[1] <= k:
        return np.asarray(mass.sum(axis=1), dtype=np.float64)
    top = np.argpartition(-scores, k, axis=1)[:, :k]
    return np.asarray(np.take_along_axis(mass, top, axis=1).sum(axis=1), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with a bootstrap percentile interval."""

    mean: float
    low: float
    high: float


def bootstrap(
    values: Values, confidence: float, seed: int = 0, samples: int = 10_000, weights: Values | None = None
) -> Interval:
    """Percentile bootstrap of a mean (Efron 1979). For a difference, pass paired differences.

    Args:
        values: (n,) one value per query, n at least 1.
        confidence: Two-sided confidence, such as .95.
        seed: Seed for the resampling.
        samples: Number of resamples.
        weights: (n,) weight of each value in the mean; None weighs all equally.
    """
    rng = np.random.default_rng(seed)
    weights = np.ones(len(values)) if weights is None else weights
    means = []
    for start in range(0, samples, 1000):
        drawn = rng.integers(0, len(values), size=(min(1000, samples - start), len(values)))
        means.append((values * weights)[drawn].sum(axis=1) / weights[drawn].sum(axis=1))
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1.0 - tail])
    return Interval(float(np.average(values, weights=weights)), float(low), float(high))


def relevance_of(
    ranking: Sequence[Sequence[str]], qrels: Sequence[Mapping[str, int]], depth: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Convert rankings and judgements into the arrays that the metrics take.

    Args:
        ranking: Document ids of each query, best first.
        qrels: Gain of each judged document of each query; 0 or less means not relevant.
        depth: Number of ranks to keep.

    Returns:
        ``relevance`` (queries, depth), ``ideal`` (queries, most relevant), ``total`` (queries,).
    """
    relevance = np.zeros((len(ranking), depth))
    gains = [sorted((gain for gain in judged.values() if gain > 0), reverse=True) for judged in qrels]
    ideal = np.zeros((len(ranking), max((len(row) for row in gains), default=1)))
    for row, (ids, judged) in enumerate(zip(ranking, qrels, strict=True)):
        relevance[row, : len(ids[:depth])] = [max(judged.get(id, 0), 0) for id in ids[:depth]]
        ideal[row, : len(gains[row])] = gains[row]
    return relevance, ideal, np.array([len(row) for row in gains])


def _dcg(gains: NDArray[np.float64]) -> Values:
    discounts = 1.0 / np.log2(np.arange(2, gains.shape[1] + 2))
    return np.asarray(gains @ discounts, dtype=np.float64)
