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


def hybrid(share: float) -> Hybrid:
    return Hybrid(RESIDUAL, LEXICON, share, 128)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 1.0])
def test_the_cosine_is_the_weighted_mean_of_the_dense_and_the_lexical_one(share: float) -> None:
    queries = ["green", "snow", "a blue yellow", "unknown"]
    adapter = hybrid(share)
    found = adapter.queries(BASE[::-1], queries) @ adapter.documents(BASE, TEXTS).T
    dense = RESIDUAL.queries(BASE[::-1], queries) @ RESIDUAL.documents(BASE, TEXTS).T
    lexical = LEXICON.sketch(queries, "query", 128) @ LEXICON.sketch(TEXTS, "document", 128).T
    np.testing.assert_allclose(found, (1 - share) * dense + share * lexical, atol=1e-5)


def test_vectors_are_floats_of_length_one_and_as_wide_as_said() -> None:
    adapter = hybrid(0.3)
    for vectors in (adapter.documents(BASE, TEXTS), adapter.queries(BASE, TEXTS)):
        assert vectors.dtype == np.float32
        assert vectors.shape == (4, adapter.dimension) == (4, 8 + 128)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_a_text_without_a_word_is_its_dense_part_alone_of_length_one() -> None:
    adapter = hybrid(0.3)
    vectors = adapter.documents(BASE, ["", "?!", "red", "of"])
    assert not vectors[:2, 8:].any()
    np.testing.assert_allclose(vectors[:2, :8], RESIDUAL.documents(BASE[:2], ["", ""]), atol=1e-6)


def test_the_sides_weigh_words_differently() -> None:
    adapter = hybrid(0.5)
    assert not np.allclose(adapter.documents(BASE, TEXTS)[2], adapter.queries(BASE, TEXTS)[2])


def test_many_texts_are_mapped_as_few_are() -> None:
    texts = [f"word{number} red" for number in range(2100)]  # more than are sketched at once
    base = normalise(DRAW.normal(size=(2100, 8)).astype(np.float32))
    found = hybrid(0.3).documents(base, texts)
    for row in (0, 999, 1000, 2099):
        one = hybrid(0.3).documents(base[row : row + 1], [texts[row]])
        np.testing.assert_allclose(found[row], one[0], atol=1e-6)
    assert hybrid(0.3).documents(base[:0], []).shape == (0, 136)


def test_tensors_make_an_equal_adapter() -> None:
    adapter = hybrid(0.2)
    again = Hybrid.from_tensors(adapter.tensors())
    assert (again.kind, again.dimension, again.width) == ("hybrid", adapter.dimension, 128)
    assert again.share == pytest.approx(0.2, abs=1e-7)
    np.testing.assert_allclose(again.queries(BASE, TEXTS), adapter.queries(BASE, TEXTS), atol=1e-6)
    twice = Hybrid.from_tensors(again.tensors())
    np.testing.assert_array_equal(twice.queries(BASE, TEXTS), again.queries(BASE, TEXTS))
