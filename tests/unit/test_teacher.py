import math

import numpy as np
import pytest

from ragself.learn.teacher import SPREAD, TAU, fused, law, temperature, trust

DRAW = np.random.default_rng(0)
GAINS = DRAW.normal(size=(5, 8)).astype(np.float32)
BASE = DRAW.uniform(-1, 1, size=(5, 8)).astype(np.float32)


@pytest.mark.parametrize("weight", [0.0, 1.0, 4.0])
def test_the_law_is_a_softmax_of_gain_and_cosine(weight: float) -> None:
    found = law(GAINS, BASE, weight)
    assert found.dtype == np.float32
    for row, gains, cosines in zip(found, GAINS.tolist(), BASE.tolist(), strict=True):
        powers = [math.exp(weight * gain + cosine / TAU - 30) for gain, cosine in zip(gains, cosines, strict=True)]
        np.testing.assert_allclose(row, [power / sum(powers) for power in powers], rtol=1e-3, atol=1e-7)


def test_rows_sum_to_one_however_large_the_logits() -> None:
    np.testing.assert_allclose(law(GAINS * 1000, BASE, 100.0).sum(axis=1), 1.0, rtol=1e-5)


def test_a_candidate_that_leaks_has_no_mass_and_leaves_the_others_as_if_it_were_not_there() -> None:
    gains = GAINS.copy()
    gains[:, 3] = -np.inf
    found = law(gains, BASE, 2.0)
    assert (found[:, 3] == 0.0).all()
    without = law(np.delete(GAINS, 3, axis=1), np.delete(BASE, 3, axis=1), 2.0)
    np.testing.assert_allclose(np.delete(found, 3, axis=1), without, rtol=1e-5)


def test_without_weight_a_candidate_that_leaks_is_still_out() -> None:
    found = law(np.array([[-np.inf, 0.0]], np.float32), np.zeros((1, 2), np.float32), 0.0)
    assert found.tolist() == [[0.0, 1.0]]


def test_one_nat_is_a_difference_of_tau_in_the_cosine() -> None:
    found = law(np.array([[1.0, 0.0]], np.float32), np.array([[0.0, TAU]], np.float32), 1.0)
    np.testing.assert_allclose(found, [[0.5, 0.5]], rtol=1e-6)


def test_the_fused_ranking_is_that_of_the_law() -> None:
    scores = fused(GAINS, BASE, 2.5)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, 2.5 * GAINS + BASE / TAU, rtol=1e-5)
    np.testing.assert_array_equal(np.argsort(scores, axis=1), np.argsort(law(GAINS, BASE, 2.5), axis=1))


def test_a_probe_whose_candidates_all_leak_has_no_mass_and_is_no_nan() -> None:
    with np.errstate(invalid="ignore"):
        found = law(np.full((1, 3), -np.inf, np.float32), np.zeros((1, 3), np.float32), 1.0)
    assert np.isfinite(found).all()


def test_a_target_counts_by_the_root_of_its_words() -> None:
    found = trust(3.0, np.array([0, 10, 40]))
    np.testing.assert_allclose(found, [0.0, 3.0, 6.0])
    rows = np.concatenate([law(GAINS[row : row + 1], BASE[row : row + 1], weight) for row, weight in enumerate((1, 4))])
    np.testing.assert_allclose(law(GAINS[:2], BASE[:2], np.array([1, 4], np.float32)), rows, rtol=1e-5)


def test_the_temperature_is_the_usual_one_unless_cosines_are_spread_otherwise() -> None:
    base = np.random.default_rng(0).normal(size=(200, 80)).astype(np.float32) * SPREAD
    assert [temperature(base * by) for by in (0.7, 1.0, 1.4)] == [TAU] * 3
    assert temperature(base * 0.2) == pytest.approx(0.2 * TAU, rel=0.02)
    assert temperature(base * 3) == pytest.approx(3 * TAU, rel=0.02)
    assert temperature(np.empty((0, 0), np.float32)) == TAU
    assert temperature(np.ones((3, 4), np.float32)) > 0


def test_cosines_that_are_pressed_together_make_the_same_law() -> None:
    base = np.random.default_rng(0).normal(size=(200, 80)).astype(np.float32) * SPREAD
    gains = np.random.default_rng(1).normal(size=(200, 80)).astype(np.float32)
    pressed = (0.85 + 0.2 * base).astype(np.float32)
    np.testing.assert_allclose(
        law(gains, pressed, 2.0, temperature(pressed)), law(gains, base, 2.0, temperature(base)), atol=2e-2
    )
