import numpy as np
import pytest
from numpy.typing import NDArray

from ragself.adapters.protocol import normalise
from ragself.config import TeacherConfig
from ragself.lexical.hybrid_score import Query
from ragself.lexical.terms import term_keys
from ragself.lexical.view import View
from ragself.lexical.weights import Weights
from ragself.probes.candidate_documents import gather
from ragself.progress import Progress, silent

TEXTS = [f"word{number % 7} topic{number % 11} thing{number}" for number in range(200)]
QUERIES = [f"topic{number % 11} thing{number * 13 % 200}" for number in range(300)]  # more than one batch
FEW = TeacherConfig(dense=5, lexical=5, random=4)


def vectors(count: int, seed: int) -> NDArray[np.float32]:
    return normalise(np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32))


def found(
    texts: list[str],
    queries: list[str],
    config: TeacherConfig = FEW,
    seed: int = 0,
    weights: Weights | None = None,
    progress: Progress = silent,
) -> NDArray[np.int64]:
    corpus = View.of(texts)
    analysed = [Query.of(text, corpus) for text in queries]
    asked, searched = vectors(len(queries), 1), vectors(len(texts), 2)
    return gather(asked, analysed, searched, corpus, weights or Weights(), config, seed, progress)


def test_candidates_are_distinct_documents_and_as_many_as_asked_for() -> None:
    rows = found(TEXTS, QUERIES)
    assert rows.shape == (300, 14)
    assert rows.dtype == np.int64
    assert all(len(set(row)) == 14 for row in rows.tolist())
    assert rows.min() >= 0
    assert rows.max() < 200


def test_the_nearest_by_vector_and_the_best_by_words_are_among_them() -> None:
    rows = found(TEXTS, QUERIES)
    nearest = np.argsort(-(vectors(300, 1) @ vectors(200, 2).T), axis=1)[:, :5]
    corpus = View.of(TEXTS)
    for row, dense, text in zip(rows.tolist(), nearest, QUERIES, strict=True):
        lexical = Query.of(text, corpus).candidates(corpus, Weights(), 5)
        assert len(lexical) == 5
        assert set(dense.tolist()) <= set(row)
        assert set(lexical.tolist()) <= set(row)


def test_the_best_by_words_are_those_of_the_live_weights() -> None:
    config = TeacherConfig(dense=1, lexical=3, random=0)
    learned = Weights(keys=term_keys(["thing7"]), log_weight=np.array([-20.0], np.float32))
    asked = ["thing7 topic3"]
    plain, live = (set(found(TEXTS, asked, config, weights=weights)[0].tolist()) for weights in (None, learned))
    assert 7 in plain
    assert 7 not in live


def test_the_others_are_drawn_at_random_by_the_seed() -> None:
    only_random = TeacherConfig(dense=1, lexical=0, random=20)
    rows = found(TEXTS, QUERIES, only_random)
    np.testing.assert_array_equal(rows, found(TEXTS, QUERIES, only_random))
    assert (rows != found(TEXTS, QUERIES, only_random, seed=1)).any()
    counts = np.bincount(rows[:, 1:].ravel(), minlength=200)
    assert counts.min() > 0  # 30 on average
    assert counts.max() < 70


@pytest.mark.parametrize("size", [1, 2, 5, 13, 14, 15])
def test_a_tiny_corpus_is_taken_whole_and_none_twice(size: int) -> None:
    rows = found(TEXTS[:size], QUERIES[:20])
    assert rows.shape == (20, min(size, 14))
    assert all(len(set(row)) == len(row) for row in rows.tolist())
    if size <= 14:
        assert all(set(row) == set(range(size)) for row in rows.tolist())


@pytest.mark.parametrize("texts", [["the", "of the", "and"] * 10, ["", "  "], ["?!"]])
def test_a_corpus_of_stop_words_or_none_still_has_candidates(texts: list[str]) -> None:
    rows = found(texts, ["the", "cat", ""])
    assert rows.shape == (3, min(14, len(texts)))
    assert all(len(set(row)) == len(row) for row in rows.tolist())


def test_a_query_without_a_word_in_common_takes_none_by_words() -> None:
    config = TeacherConfig(dense=3, lexical=50, random=0)
    asked = ["zebra", "the of", ""]
    one, two = (found(TEXTS, asked, config, seed) for seed in (0, 1))
    nearest = np.argsort(-(vectors(3, 1) @ vectors(200, 2).T), axis=1)[:, :3]
    for a, b, dense in zip(one.tolist(), two.tolist(), nearest.tolist(), strict=True):
        assert set(a[:3]) == set(b[:3]) == set(dense)
        assert len(set(a[3:]) & set(b[3:])) < 35  # made up for at random: 13 in common are expected


def test_no_queries_make_no_rows_and_progress_ends_at_the_total() -> None:
    told: list[tuple[str, int, int]] = []
    assert found(TEXTS, []).shape == (0, 14)
    found(TEXTS, QUERIES, progress=lambda *what: told.append(what))
    assert told == [("candidates", 256, 300), ("candidates", 300, 300)]
