import math

import numpy as np
import pytest

from ragself.probes.targets import TAU, gain_weights, target_distribution, teacher_logits

DRAW = np.random.default_rng(0)
GAINS = DRAW.normal(size=(5, 8)).astype(np.float32)
FLOOR = DRAW.uniform(-1, 1, size=(5, 8)).astype(np.float32)


@pytest.mark.parametrize("weight", [0.0, 1.0, 4.0])
def test_the_law_is_a_softmax_of_gain_and_floor(weight: float) -> None:
    found = target_distribution(GAINS, FLOOR, weight)
    assert found.dtype == np.float32
    for row, gains, scores in zip(found, GAINS.tolist(), FLOOR.tolist(), strict=True):
        powers = [math.exp(weight * gain + score / TAU - 30) for gain, score in zip(gains, scores, strict=True)]
        np.testing.assert_allclose(row, [power / sum(powers) for power in powers], rtol=1e-3, atol=1e-7)


def test_rows_sum_to_one_however_large_the_logits() -> None:
    np.testing.assert_allclose(target_distribution(GAINS * 1000, FLOOR, 100.0).sum(axis=1), 1.0, rtol=1e-5)


def test_a_candidate_that_leaks_has_no_mass_and_leaves_the_others_as_if_it_were_not_there() -> None:
    gains = GAINS.copy()
    gains[:, 3] = -np.inf
    found = target_distribution(gains, FLOOR, 2.0)
    assert (found[:, 3] == 0.0).all()
    without = target_distribution(np.delete(GAINS, 3, axis=1), np.delete(FLOOR, 3, axis=1), 2.0)
    np.testing.assert_allclose(np.delete(found, 3, axis=1), without, rtol=1e-5)


def test_without_weight_a_candidate_that_leaks_is_still_out() -> None:
    found = target_distribution(np.array([[-np.inf, 0.0]], np.float32), np.zeros((1, 2), np.float32), 0.0)
    assert found.tolist() == [[0.0, 1.0]]


def test_one_nat_is_a_difference_of_tau_in_the_score() -> None:
    found = target_distribution(np.array([[1.0, 0.0]], np.float32), np.array([[0.0, TAU]], np.float32), 1.0)
    np.testing.assert_allclose(found, [[0.5, 0.5]], rtol=1e-6)


def test_the_teachers_ranking_is_that_of_the_law() -> None:
    scores = teacher_logits(GAINS, FLOOR, 2.5)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, 2.5 * GAINS + FLOOR / TAU, rtol=1e-5)
    np.testing.assert_array_equal(
        np.argsort(scores, axis=1), np.argsort(target_distribution(GAINS, FLOOR, 2.5), axis=1)
    )


def test_a_probe_whose_candidates_all_leak_has_no_mass_and_is_no_nan() -> None:
    with np.errstate(invalid="ignore"):
        found = target_distribution(np.full((1, 3), -np.inf, np.float32), np.zeros((1, 3), np.float32), 1.0)
    assert np.isfinite(found).all()


def test_a_target_counts_by_the_root_of_its_words() -> None:
    found = gain_weights(3.0, np.array([0, 10, 40]))
    np.testing.assert_allclose(found, [0.0, 3.0, 6.0])
    rows = np.concatenate(
        [target_distribution(GAINS[row : row + 1], FLOOR[row : row + 1], weight) for row, weight in enumerate((1, 4))]
    )
    np.testing.assert_allclose(target_distribution(GAINS[:2], FLOOR[:2], np.array([1, 4], np.float32)), rows, rtol=1e-5)


def test_scores_that_are_pressed_together_make_the_same_law_at_their_own_temperature() -> None:
    pressed = (0.85 + 0.2 * FLOOR).astype(np.float32)
    np.testing.assert_allclose(
        target_distribution(GAINS, pressed, 2.0, 0.2 * TAU), target_distribution(GAINS, FLOOR, 2.0, TAU), atol=1e-3
    )
    np.testing.assert_allclose(teacher_logits(GAINS, FLOOR, 2.5, 0.1), 2.5 * GAINS + FLOOR / 0.1, rtol=1e-5)
