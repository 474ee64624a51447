"""Fusion weights: found where hard known items prove them, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from ragself.adapters.protocol import normalise
from ragself.evaluation.calibration import HARD, NEED
from ragself.lexical.weights import BM25, LANGUAGE_MODEL, Weights
from ragself.probes.dataset import Dataset
from ragself.schema import Probe
from ragself.training.fusion import SCALES, fusion_weights
from tests.unit.datasets import by_hand

P, N, BASE = 4 * NEED, 150, 12


def build_dataset(words: float, vectors: float, *, overlap: float = 0.2, seed: int = 0, unit: float = 1.0) -> Dataset:
    """Known items whose words name their document with the probability `words`, and whose vectors lie near it.

    Every query holds the word of another document, too, and every vector is drawn to another one.
    """
    draw = np.random.default_rng(seed)
    positive = draw.integers(0, N, size=P)
    other = (positive + draw.integers(1, N, size=P)) % N
    texts = [f"name{row} " + " ".join(f"f{word}" for word in draw.integers(0, 60, size=8)) for row in range(N)]
    named = np.where(draw.random(P) < words, positive, other)
    asked = [f"name{row} f{draw.integers(60)} f{draw.integers(60)}" for row in named]
    documents = normalise(draw.normal(size=(N, BASE)).astype(np.float32))
    near = np.where(draw.random(P) < vectors, positive, other)
    away = normalise(draw.normal(size=(P, BASE)).astype(np.float32))
    queries = normalise(documents[near] + 0.4 * away)
    probes = [Probe(str(row), text, text, "title", "s", "train") for row, text in enumerate(asked)]
    return by_hand(probes, texts, queries, documents, unit=unit, positive=positive, source=positive,
                   overlap=np.full(P, overlap, np.float32))  # fmt: skip


EVERY = np.arange(P)


def test_words_that_name_what_is_sought_weigh_more_where_vectors_mislead() -> None:
    found = fusion_weights(build_dataset(words=1.0, vectors=0.3), EVERY, 0.95)
    assert found is not None
    scale = found.bm25 / BM25
    assert scale > 1
    assert scale == pytest.approx(found.language_model / LANGUAGE_MODEL)
    assert any(scale == pytest.approx(each) for each in SCALES)
    assert not len(found.keys)


def test_words_that_mislead_weigh_less_where_vectors_know() -> None:
    found = fusion_weights(build_dataset(words=0.1, vectors=1.0, unit=8.0), EVERY, 0.95)
    assert found is not None
    assert found.bm25 == pytest.approx(0.5 * BM25)


def test_the_best_scale_is_found() -> None:
    from ragself.adapters.ranking import Ranking
    from ragself.evaluation.metrics import known_item

    dataset = build_dataset(words=0.9, vectors=0.4)
    found = fusion_weights(dataset, EVERY, 0.95)
    means = {}
    for scale in (1.0, *SCALES):
        weights = Weights(scale * LANGUAGE_MODEL, scale * BM25)
        ranks = dataset.ranks(EVERY, dataset.scores(EVERY, Ranking(None, weights)))
        means[scale] = known_item(ranks, 10)["mrr"].mean()
    best = max(SCALES, key=means.__getitem__)
    assert means[best] > means[1.0]
    assert found is not None
    assert found.bm25 == pytest.approx(best * BM25)


def test_where_no_scale_is_better_beyond_doubt_there_are_none() -> None:
    assert fusion_weights(build_dataset(words=1.0, vectors=1.0), EVERY, 0.95) is None  # all are found at any weight
    assert sum(fusion_weights(build_dataset(0.5, 0.5, seed=seed), EVERY, 0.9999) is not None for seed in range(5)) <= 1


@pytest.mark.parametrize("count", [0, NEED - 1])
def test_too_few_hard_known_items_tell_nothing(count: int) -> None:
    dataset = build_dataset(words=1.0, vectors=0.3)
    assert fusion_weights(dataset, EVERY[:count], 0.95) is None
    assert fusion_weights(build_dataset(words=1.0, vectors=0.3, overlap=HARD + 0.01), EVERY, 0.95) is None
    dataset.positive[NEED - 1 :] = -1  # traffic
    assert fusion_weights(dataset, EVERY, 0.95) is None


def test_only_the_rows_given_count() -> None:
    dataset = build_dataset(words=1.0, vectors=0.3)
    dataset.positive[P // 2 :] = (dataset.positive[P // 2 :] + 1) % N  # what the others should find is never found
    found = fusion_weights(dataset, EVERY[: P // 2], 0.95)
    assert found is not None
