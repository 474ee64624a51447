import numpy as np
import pytest
from numpy.typing import NDArray

from ragself.learn.calibrate import CAREFUL, HARD, NEED, WEIGHT, calibrate, reciprocal_ranks
from ragself.learn.study import Study
from ragself.learn.teacher import TAU
from ragself.schema import Probe

K = 20
ENOUGH = 2 * NEED


def make(
    gains: NDArray[np.float64],
    cosines: NDArray[np.float64],
    positive: NDArray[np.int64],
    overlap: float | NDArray[np.float64] = 0.2,
) -> Study:
    """A study whose candidates are the first K documents, each a direction of its own."""
    count = len(gains)
    probes = tuple(Probe(f"{row}", "x", "x", "title", "s", "select") for row in range(count))
    return Study(
        probes=probes,
        texts=("x",) * K,
        size=K,
        documents=np.eye(K, dtype=np.float32),
        queries=cosines.astype(np.float32),
        candidates=np.tile(np.arange(K), (count, 1)),
        gains=gains.astype(np.float32),
        positive=positive.astype(np.int64),
        source=positive.astype(np.int64),
        lengths=np.full(count, 10),
        overlap=np.broadcast_to(np.asarray(overlap, dtype=np.float32), (count,)).copy(),
    )


def known_items(telling: float, count: int = ENOUGH, seed: int = 0, overlap: float = 0.2) -> Study:
    """Known items on which the gains say as much as `telling`, and the cosines a little."""
    draw = np.random.default_rng(seed)
    positive = draw.integers(0, K, size=count)
    own = np.eye(K)[positive]
    gains = draw.normal(size=(count, K)) + telling * own
    cosines = TAU * (draw.normal(size=(count, K)) + 1.5 * own)
    return make(gains, cosines, positive, overlap)


def slow_ranks(study: Study, rows: NDArray[np.int64], weight: float) -> list[float]:
    out = []
    for row in rows:
        scores = [
            -np.inf if np.isneginf(gain) else weight * gain + cosine / TAU
            for gain, cosine in zip(study.gains[row], study.base[row], strict=True)
        ]
        own = scores[study.positive[row]]
        out.append(1.0 / (1 + sum(score > own for score in scores)))
    return out


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_reciprocal_ranks_are_those_of_a_loop_and_leaks_are_last(weight: float) -> None:
    study = known_items(0.5, count=30)
    leak = (study.positive + 1) % K
    study.gains[np.arange(30), leak] = -np.inf
    rows = np.arange(0, 30, 2)
    np.testing.assert_allclose(reciprocal_ranks(study, rows, weight), slow_ranks(study, rows, weight), rtol=1e-6)


def test_gains_that_find_known_items_get_the_usual_weight() -> None:
    study = known_items(telling=4.0)
    found = calibrate(study, np.arange(ENOUGH), 0.95)
    assert found.weight == WEIGHT
    assert found.probes == ENOUGH


def test_gains_that_mislead_get_the_careful_weight() -> None:
    assert calibrate(known_items(telling=-1.0), np.arange(ENOUGH), 0.95).weight == CAREFUL


def test_the_evidence_is_the_mean_reciprocal_rank_at_each_weight() -> None:
    study, rows = known_items(telling=1.0), np.arange(0, ENOUGH)
    found = calibrate(study, rows, 0.95)
    assert set(found.evidence) == {f"{weight:g}" for weight in (0.0, CAREFUL, WEIGHT)}
    for weight in (0.0, CAREFUL, WEIGHT):
        assert found.evidence[f"{weight:g}"] == pytest.approx(np.mean(slow_ranks(study, rows, weight)))
    assert found.reason


@pytest.mark.parametrize("count", [0, 1, NEED - 1])
def test_too_few_known_items_leave_the_usual_weight(count: int) -> None:
    found = calibrate(known_items(telling=-4.0), np.arange(count), 0.95)
    assert (found.weight, found.probes, dict(found.evidence)) == (WEIGHT, count, {})
    assert f"{count} hard known items, {NEED} are needed" in found.reason


def test_as_many_known_items_as_are_needed_are_enough() -> None:
    assert calibrate(known_items(telling=4.0), np.arange(NEED), 0.95).weight == WEIGHT


def test_easy_known_items_say_nothing() -> None:
    easy = known_items(telling=4.0, overlap=HARD + 0.01)
    assert calibrate(easy, np.arange(ENOUGH), 0.95).probes == 0
    hard = known_items(telling=4.0, overlap=HARD)
    assert calibrate(hard, np.arange(ENOUGH), 0.95).probes == ENOUGH


def test_traffic_says_nothing() -> None:
    study = known_items(telling=4.0)
    study.positive[::2] = -1
    study.overlap[::2] = np.nan
    found = calibrate(study, np.arange(ENOUGH), 0.95)
    assert found.probes == NEED
    study.positive[1] = -1
    study.overlap[1] = np.nan
    assert calibrate(study, np.arange(ENOUGH), 0.95).weight == WEIGHT


def test_only_the_rows_given_are_looked_at() -> None:
    good, bad = known_items(telling=4.0), known_items(telling=-4.0)
    study = make(
        np.concatenate([good.gains, bad.gains]),
        np.concatenate([good.queries, bad.queries]),
        np.concatenate([good.positive, bad.positive]),
    )
    assert calibrate(study, np.arange(ENOUGH), 0.95).weight == WEIGHT
    assert calibrate(study, np.arange(ENOUGH, 2 * ENOUGH), 0.95).weight == CAREFUL


def test_weights_that_rank_alike_leave_the_usual_one() -> None:
    study = known_items(telling=0.0)
    study.gains[:] = 0.0
    assert calibrate(study, np.arange(ENOUGH), 0.95).weight == WEIGHT


def test_a_difference_within_the_noise_hardly_ever_moves_the_weight() -> None:
    studies = [known_items(telling=2.2, seed=seed) for seed in range(40)]  # about as good at either weight
    moved = sum(calibrate(study, np.arange(ENOUGH), 0.95).weight != WEIGHT for study in studies)
    assert moved <= 4  # 2.5 % are expected at 95 % confidence, two-sided: 1, and three standard errors
