import numpy as np

from ragself.adapters.protocol import normalise
from ragself.adapters.residual import Residual

DRAW = np.random.default_rng(0)
DOWN = DRAW.normal(size=(6, 2)).astype(np.float32)
UP = DRAW.normal(size=(2, 6)).astype(np.float32)
VECTORS = normalise(DRAW.normal(size=(5, 6)).astype(np.float32))
TEXTS = ["text"] * 5


def test_vectors_are_v_plus_v_a_b_normalised() -> None:
    found = Residual(DOWN, UP).documents(VECTORS, TEXTS)
    expected = VECTORS.astype(np.float64) + VECTORS.astype(np.float64) @ DOWN @ UP
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_both_sides_go_through_the_same_map() -> None:
    adapter = Residual(DOWN, UP)
    np.testing.assert_array_equal(adapter.queries(VECTORS, TEXTS), adapter.documents(VECTORS, ["other"] * 5))


def test_without_a_correction_vectors_stay_as_they_are() -> None:
    adapter = Residual(DOWN, np.zeros_like(UP))
    np.testing.assert_allclose(adapter.documents(VECTORS, TEXTS), VECTORS, atol=1e-7)


def test_the_vectors_given_are_not_changed_and_none_make_none() -> None:
    before = VECTORS.copy()
    Residual(DOWN, UP).documents(VECTORS, TEXTS)
    np.testing.assert_array_equal(VECTORS, before)
    assert Residual(DOWN, UP).documents(VECTORS[:0], []).shape == (0, 6)


def test_doubles_become_floats() -> None:
    assert Residual(DOWN, UP).documents(VECTORS.astype(np.float64), TEXTS).dtype == np.float32


def test_tensors_make_an_equal_adapter() -> None:
    adapter = Residual(DOWN, UP)
    again = Residual.from_tensors(adapter.tensors())
    assert (again.kind, again.dimension) == ("residual", 6)
    np.testing.assert_array_equal(again.documents(VECTORS, TEXTS), adapter.documents(VECTORS, TEXTS))


def test_normalising_leaves_zeros_and_makes_all_else_length_one() -> None:
    vectors = np.array([[0, 0], [3, 4], [1e-5, 0], [1e10, 0]], np.float32)
    np.testing.assert_allclose(normalise(vectors), [[0, 0], [0.6, 0.8], [1, 0], [1, 0]], rtol=1e-5)
