from dataclasses import replace

import numpy as np
import pytest

from ragself.learn.agreement import between, halves
from ragself.learn.study import Study
from ragself.models.adapter import normalise
from ragself.models.lexicon import Lexicon
from ragself.schema import Probe

TOPICS, EACH = 40, 20


def study(*, topical: bool, count: int = 60) -> Study:
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
    nothing = np.full(count, -1)
    return Study(
        probes, tuple(texts), len(texts), documents, normalise(middle[asked].astype(np.float32)),
        np.zeros((count, 1), np.int64), np.zeros((count, 1), np.float32), nothing, nothing, np.full(count, 5),
        np.full(count, np.nan, np.float32), np.empty(0, np.int64),
    )  # fmt: skip


def found(topical: bool, seed: int = 0) -> np.ndarray:
    lesson = study(topical=topical)
    return halves(lesson, np.arange(60), Lexicon.fit(lesson.texts), seed)


def test_halves_of_a_query_agree_where_words_go_together_and_nowhere_else() -> None:
    together, apart = found(topical=True), found(topical=False)
    assert together.mean() > 0.15
    assert abs(apart.mean()) < 0.1
    assert np.abs(np.concatenate([together, apart])).max() <= 1 + 1e-9


def test_halving_is_the_same_for_a_seed_and_another_for_another() -> None:
    assert found(True).tolist() == found(True).tolist() != found(True, seed=1).tolist()


def test_only_the_rows_given_and_queries_of_two_known_words_count() -> None:
    lesson = study(topical=True)
    lexicon = Lexicon.fit(lesson.texts)
    assert len(halves(lesson, np.arange(7), lexicon, 0)) <= 7
    short = replace(lesson, probes=tuple(replace(p, text=p.text.split()[0] + " unheard of") for p in lesson.probes))
    assert len(halves(short, np.arange(60), lexicon, 0)) == 0
    assert len(halves(lesson, np.arange(0), lexicon, 0)) == 0


def test_a_corpus_of_fewer_documents_than_are_asked_about_is_no_error() -> None:
    lesson = study(topical=True)
    few = replace(lesson, texts=lesson.texts[:10], documents=lesson.documents[:10], size=10)
    assert np.isfinite(halves(few, np.arange(60), Lexicon.fit(few.texts), 0)).all()


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
