import numpy as np
import pytest
from numpy.typing import NDArray

from ragself.config import Config
from ragself.evaluation.calibration import CAREFUL, COUNTED, HARD, NEED, WEIGHT, calibrate, reciprocal_ranks, weigh
from ragself.probes.dataset import Dataset
from ragself.probes.targets import TAU
from ragself.schema import Probe
from tests.unit.datasets import by_hand

K = 20
ENOUGH = 4 * NEED
TELLING = 2.9  # of gains that find known items about as well at either weight


def make(
    gains: NDArray[np.float64],
    cosines: NDArray[np.float64],
    positive: NDArray[np.int64],
    overlap: float | NDArray[np.float64] = 0.2,
) -> Dataset:
    """A study whose candidates are the first K documents, each a direction of its own, without a word in common."""
    count = len(gains)
    return by_hand(
        [Probe(f"{row}", "x", "x", "title", "s", "select") for row in range(count)],
        ("y",) * K,
        cosines,
        np.eye(K),
        gains=gains.astype(np.float32),
        leaks=np.isneginf(gains),
        positive=positive.astype(np.int64),
        source=positive.astype(np.int64),
        overlap=np.broadcast_to(np.asarray(overlap, dtype=np.float32), (count,)).copy(),
    )


def known_items(telling: float, count: int = ENOUGH, seed: int = 0, overlap: float = 0.2) -> Dataset:
    """Known items on which the gains say as much as `telling`, and the cosines a little."""
    draw = np.random.default_rng(seed)
    positive = draw.integers(0, K, size=count)
    own = np.eye(K)[positive]
    gains = draw.normal(size=(count, K)) + telling * own
    cosines = TAU * (draw.normal(size=(count, K)) + 1.5 * own)
    return make(gains, cosines, positive, overlap)


def slow_ranks(dataset: Dataset, rows: NDArray[np.int64], weight: float) -> list[float]:
    out = []
    for row in rows:
        scores = [
            -np.inf if np.isneginf(gain) else weight * gain + cosine / TAU
            for gain, cosine in zip(dataset.gains[row], dataset.untrained[row], strict=True)
        ]
        own = scores[dataset.positive[row]]
        out.append(1.0 / (1 + sum(score > own for score in scores)))
    return out


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_reciprocal_ranks_are_those_of_a_loop_and_leaks_are_last(weight: float) -> None:
    dataset = known_items(0.5, count=30)
    leak = (dataset.positive + 1) % K
    dataset.gains[np.arange(30), leak] = -np.inf
    dataset.leaks[np.arange(30), leak] = True
    rows = np.arange(0, 30, 2)
    np.testing.assert_allclose(reciprocal_ranks(dataset, rows, weight), slow_ranks(dataset, rows, weight), rtol=1e-6)


AGREE, CLASH = np.full(NEED, 0.3), np.full(NEED, -0.1)


def test_the_usual_weight_where_witnesses_agree_and_known_items_do_not_object() -> None:
    found = calibrate(known_items(telling=4.0), np.arange(ENOUGH), AGREE, 0.95)
    assert (found.weight, found.probes) == (WEIGHT, ENOUGH)
    assert found.agreement == pytest.approx({"mean": 0.3, "low": 0.3, "high": 0.3, "probes": NEED})


@pytest.mark.parametrize("agreement", [CLASH, np.zeros(NEED), AGREE[1:], np.tile([-1.0, 1.2], NEED)])
def test_a_careful_one_where_they_do_not_or_where_it_is_not_known(agreement: NDArray[np.float64]) -> None:
    assert calibrate(known_items(telling=4.0), np.arange(ENOUGH), agreement, 0.95).weight == CAREFUL


def test_known_items_that_are_found_worse_make_it_careful_or_nothing_whoever_agrees() -> None:
    weights = {telling: calibrate(known_items(telling), np.arange(ENOUGH), AGREE, 0.95).weight for telling in (0, -3)}
    assert weights == {0: 0.0, -3: 0.0}
    helped_a_little = known_items(telling=0.9, seed=1)
    ranks = {weight: np.mean(slow_ranks(helped_a_little, np.arange(ENOUGH), weight)) for weight in (0, CAREFUL, WEIGHT)}
    assert ranks[CAREFUL] > ranks[WEIGHT]
    assert ranks[CAREFUL] > ranks[0]
    assert calibrate(helped_a_little, np.arange(ENOUGH), AGREE, 0.95).weight == CAREFUL


def test_the_evidence_is_the_mean_reciprocal_rank_at_each_weight() -> None:
    dataset, rows = known_items(telling=1.0), np.arange(0, ENOUGH)
    found = calibrate(dataset, rows, AGREE, 0.95)
    assert set(found.evidence) == {f"{weight:g}" for weight in (0.0, CAREFUL, WEIGHT)}
    for weight in (0.0, CAREFUL, WEIGHT):
        assert found.evidence[f"{weight:g}"] == pytest.approx(np.mean(slow_ranks(dataset, rows, weight)))
    assert found.reason


@pytest.mark.parametrize("count", [0, 1, NEED - 1])
def test_too_few_known_items_cannot_object(count: int) -> None:
    found = calibrate(known_items(telling=-4.0), np.arange(count), AGREE, 0.95)
    assert (found.weight, found.probes, dict(found.evidence)) == (WEIGHT, count, {})
    assert f"{count} hard known items, {NEED} are needed" in found.reason


def test_easy_known_items_say_nothing() -> None:
    easy = known_items(telling=-4.0, overlap=HARD + 0.01)
    assert calibrate(easy, np.arange(ENOUGH), AGREE, 0.95).probes == 0
    hard = known_items(telling=4.0, overlap=HARD)
    assert calibrate(hard, np.arange(ENOUGH), AGREE, 0.95).probes == ENOUGH


def test_traffic_says_nothing() -> None:
    dataset = known_items(telling=4.0)
    dataset.positive[::2] = -1
    dataset.overlap[::2] = np.nan
    assert calibrate(dataset, np.arange(ENOUGH), AGREE, 0.95).probes == ENOUGH // 2


def test_only_the_rows_given_are_looked_at() -> None:
    good, bad = known_items(telling=4.0), known_items(telling=-4.0)
    dataset = make(
        np.concatenate([good.gains, bad.gains]),
        np.concatenate([good.queries, bad.queries]),
        np.concatenate([good.positive, bad.positive]),
    )
    assert calibrate(dataset, np.arange(ENOUGH), AGREE, 0.95).weight == WEIGHT
    assert calibrate(dataset, np.arange(ENOUGH, 2 * ENOUGH), AGREE, 0.95).weight == 0.0


def test_weights_that_rank_alike_are_no_objection() -> None:
    dataset = known_items(telling=0.0)
    dataset.gains[:] = 0.0
    assert calibrate(dataset, np.arange(ENOUGH), AGREE, 0.95).weight == WEIGHT


def test_a_difference_within_the_noise_hardly_ever_moves_the_weight() -> None:
    studies = [known_items(telling=TELLING, seed=seed) for seed in range(40)]
    rows = np.arange(ENOUGH)
    ranks = [[np.mean(slow_ranks(dataset, rows, weight)) for weight in (CAREFUL, WEIGHT)] for dataset in studies]
    assert abs(np.mean(ranks, axis=0) @ [1, -1]) < 0.01  # about as good at either weight
    moved = sum(calibrate(dataset, rows, AGREE, 0.95).weight != WEIGHT for dataset in studies)
    assert moved <= 4  # 2.5 % are expected at 95 % confidence, two-sided: 1, and three standard errors


# whose weight it is -------------------------------------------------------------------------------


def test_a_weight_that_the_settings_name_is_taken_as_it_is() -> None:
    found = weigh(known_items(telling=-4.0), Config(teacher={"weight": 2.0}), counted=False)  # type: ignore[arg-type]
    assert (found.weight, found.reason) == (2.0, "set in the configuration")


@pytest.mark.parametrize(("telling", "weight"), [(4.0, COUNTED), (-4.0, 0.0)])
def test_counted_words_weigh_one_where_they_agree_and_else_nothing(telling: float, weight: float) -> None:
    found = calibrate(known_items(telling), np.arange(ENOUGH), AGREE, 0.95, (COUNTED, 0.0))
    assert found.weight == weight
    assert set(found.evidence) == {"0", f"{COUNTED:g}"}
    assert calibrate(known_items(telling), np.arange(ENOUGH), CLASH, 0.95, (COUNTED, 0.0)).weight == 0.0


def test_counted_words_are_asked_whether_their_halves_agree() -> None:
    draw = np.random.default_rng(0)
    texts = [" ".join(f"t{row // 6}w{word}" for word in draw.integers(8, size=6)) for row in range(180)]
    asked = [" ".join(f"t{row % 30}w{word}" for word in draw.integers(8, size=5)) for row in range(90)]
    probes = [Probe(str(row), text, text, "traffic", None, "train") for row, text in enumerate(asked)]
    near, vectors = draw.normal(size=(2, 180, 8))
    dataset = by_hand(probes, texts, near[:90], vectors)
    found = weigh(dataset, Config(), counted=True)
    assert found.weight in (COUNTED, 0.0)
    assert found.agreement["probes"] <= 90
    assert (found.weight == COUNTED) is (found.agreement["low"] > 0)


def test_a_causal_model_is_compared_with_counted_words() -> None:
    draw = np.random.default_rng(0)
    texts = [f"name{row} filler{row % 7} more{row % 5}" for row in range(60)]
    asked = [f"name{row} filler{row % 7}" for row in range(60)]
    probes = [Probe(str(row), text, text, "traffic", None, "train") for row, text in enumerate(asked)]
    vectors = draw.normal(size=(60, 8))
    agrees = np.where(np.eye(60, dtype=np.bool_), 5.0, draw.normal(size=(60, 60)) / 10).astype(np.float32)
    for gains, weight in ((agrees, WEIGHT), (-agrees, CAREFUL)):
        found = weigh(by_hand(probes, texts, vectors, vectors, gains=gains), Config(), counted=False)
        assert found.weight == weight, found.reason
