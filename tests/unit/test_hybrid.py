import numpy as np
import pytest

from ragself.models.adapter import normalise
from ragself.models.hybrid import Hybrid
from ragself.models.lexicon import Lexicon
from ragself.models.residual import Residual

DRAW = np.random.default_rng(0)
TEXTS = ["red green", "blue", "yellow red red", "white snow"]
BASE = normalise(DRAW.normal(size=(4, 8)).astype(np.float32))
RESIDUAL = Residual(DRAW.normal(size=(8, 2)).astype(np.float32), DRAW.normal(size=(2, 8)).astype(np.float32) / 4)
LEXICON = Lexicon.fit(TEXTS)


def hybrid(strength: float) -> Hybrid:
    return Hybrid.around(RESIDUAL, LEXICON, strength, 128, TEXTS)


@pytest.mark.parametrize("strength", [0.02, 0.2, 3.0])
def test_scores_are_the_dense_cosine_plus_the_lexical_score_but_for_what_all_documents_share(strength: float) -> None:
    queries = ["green", "snow", "a blue yellow", "unknown"]
    adapter = hybrid(strength)
    found = adapter.queries(BASE[::-1], queries) @ adapter.documents(BASE, TEXTS).T
    dense = RESIDUAL.queries(BASE[::-1], queries) @ RESIDUAL.documents(BASE, TEXTS).T
    lexical = LEXICON.sketch(queries, "query", 128) @ LEXICON.sketch(TEXTS, "document", 128).T
    shared = lexical.mean(axis=1, keepdims=True)  # all of them say where the middle is
    np.testing.assert_allclose(found, dense + strength * (lexical - shared), atol=1e-4)


def test_vectors_are_floats_as_wide_as_said_and_their_dense_part_has_length_one() -> None:
    adapter = hybrid(0.3)
    for vectors in (adapter.documents(BASE, TEXTS), adapter.queries(BASE, TEXTS)):
        assert vectors.dtype == np.float32
        assert vectors.shape == (4, adapter.dimension) == (4, 8 + 128 + 1)
        np.testing.assert_allclose(np.linalg.norm(vectors[:, :8], axis=1), 1.0, atol=1e-6)
    assert (adapter.space, adapter.width) == ("ip", 128)


def test_a_query_without_a_word_is_its_dense_part_alone() -> None:
    vectors = hybrid(0.3).queries(BASE, ["", "?!", "red", "of"])
    assert not vectors[:2, 8:].any()
    assert vectors[2:, 8:].any()


def test_the_middle_of_the_corpus_is_where_sketches_begin() -> None:
    sketches = hybrid(0.3).documents(BASE, TEXTS)[:, 8:]
    np.testing.assert_allclose(sketches.mean(axis=0), 0.0, atol=1e-5)


def test_a_large_corpus_is_sampled_evenly_for_its_middle() -> None:
    texts = [f"word{number % 49} red" for number in range(9000)]
    adapter = Hybrid.around(RESIDUAL, LEXICON, 0.3, 64, texts)
    all_of_it = LEXICON.sketch(texts, "document", 64).mean(axis=0)
    assert np.linalg.norm(adapter.centre - all_of_it) < 0.1 * np.linalg.norm(all_of_it)


def test_many_texts_are_mapped_as_few_are() -> None:
    texts = [f"word{number} red" for number in range(2100)]  # more than are sketched at once
    base = normalise(DRAW.normal(size=(2100, 8)).astype(np.float32))
    adapter = hybrid(0.3)
    found = adapter.documents(base, texts)
    for row in (0, 999, 1000, 2099):
        np.testing.assert_allclose(found[row], adapter.documents(base[row : row + 1], [texts[row]])[0], atol=1e-5)
    assert adapter.documents(base[:0], []).shape == (0, 137)


def test_tensors_make_an_equal_adapter() -> None:
    adapter = hybrid(0.2)
    again = Hybrid.from_tensors(adapter.tensors())
    assert (again.kind, again.dimension, again.width) == ("hybrid", adapter.dimension, 128)
    assert again.strength == pytest.approx(0.2, abs=1e-7)
    np.testing.assert_allclose(again.queries(BASE, TEXTS), adapter.queries(BASE, TEXTS), atol=1e-6)
    twice = Hybrid.from_tensors(again.tensors())
    np.testing.assert_array_equal(twice.queries(BASE, TEXTS), again.queries(BASE, TEXTS))
