from dataclasses import replace

import numpy as np
import pytest

from ragself.adapters.protocol import normalise
from ragself.evaluation.agreement import between, halves
from ragself.probes.dataset import Dataset
from ragself.schema import Probe
from tests.unit.datasets import by_hand

TOPICS, EACH = 40, 20


def build_dataset(*, topical: bool, count: int = 60) -> Dataset:
    """Documents of words that belong to a topic or not, and queries of four words of one topic."""
    draw = np.random.default_rng(0)

    def text(topic: int, size: int) -> str:
        return " ".join(f"t{topic}w{word}" for word in draw.integers(8, size=size))

    labels = np.repeat(np.arange(TOPICS), EACH)
    mixed = [" ".join(text(topic, 1) for topic in draw.integers(TOPICS, size=7)) for _ in labels]
    texts = [text(topic, 6) for topic in labels] if topical else mixed
    asked = draw.integers(TOPICS, size=count)
    probes = tuple(Probe(str(n), text(topic, 5), "x", "traffic", None, "train") for n, topic in enumerate(asked))
    middle = draw.normal(size=(TOPICS, 16))
    documents = normalise((middle[labels] + draw.normal(size=(len(texts), 16))).astype(np.float32))
    return by_hand(
        probes, texts, normalise(middle[asked].astype(np.float32)), documents, np.zeros((count, 1), np.int64)
    )


def found(topical: bool, seed: int = 0) -> np.ndarray:
    return halves(build_dataset(topical=topical), np.arange(60), seed)


def test_halves_of_a_query_agree_where_words_go_together_and_nowhere_else() -> None:
    together, apart = found(topical=True), found(topical=False)
    assert together.mean() > 0.15
    assert abs(apart.mean()) < 0.1
    assert np.abs(np.concatenate([together, apart])).max() <= 1 + 1e-9


def test_halving_is_the_same_for_a_seed_and_another_for_another() -> None:
    assert found(True).tolist() == found(True).tolist() != found(True, seed=1).tolist()


def test_only_the_rows_given_and_queries_of_two_known_words_count() -> None:
    dataset = build_dataset(topical=True)
    assert 0 < len(halves(dataset, np.arange(7), 0)) <= 7
    short = tuple(replace(p, text=p.text.split()[0] + " unheard of") for p in dataset.probes)
    few = by_hand(short, dataset.texts, dataset.queries, dataset.documents, dataset.candidates)
    assert len(halves(few, np.arange(60), 0)) == 0
    assert len(halves(dataset, np.arange(0), 0)) == 0


def test_a_corpus_of_fewer_documents_than_are_asked_about_is_no_error() -> None:
    dataset = build_dataset(topical=True)
    few = by_hand(dataset.probes, dataset.texts[:10], dataset.queries, dataset.documents[:10], dataset.candidates)
    assert np.isfinite(halves(few, np.arange(60), 0)).all()


def test_more_queries_than_are_enough_are_thinned_out() -> None:
    assert len(halves(build_dataset(topical=True, count=700), np.arange(700), 0)) <= 500


def test_models_that_favour_the_same_candidates_agree() -> None:
    draw = np.random.default_rng(0)
    one = draw.normal(size=(50, 20)).astype(np.float32)
    np.testing.assert_allclose(between(one, 3 * one + 1), 1.0, atol=1e-5)
    np.testing.assert_allclose(between(one, -one), -1.0, atol=1e-5)
    assert abs(between(one, draw.normal(size=(50, 20)).astype(np.float32)).mean()) < 0.15


def test_candidates_without_an_answer_are_passed_over_and_probes_that_are_all_alike_left_out() -> None:
    one = np.array([[1, 2, 3, 9], [1, 1, 1, 1], [5, 6, np.nan, np.nan]], np.float32)
    other = np.array([[1, 2, 3, -np.inf], [1, 2, 3, 4], [1, 2, 3, 4]], np.float32)
    assert between(one, other) == pytest.approx([1.0])
