import numpy as np
import pytest
from numpy.typing import NDArray

from ragself.config import GateConfig
from ragself.learn.gate import compare, decide

CONFIG = GateConfig(k=10, confidence=0.95, tolerance=0.01, min_probes=30)


def values(utility: NDArray[np.float64], ndcg: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    return {"utility": utility, "ndcg": ndcg, "mrr": ndcg, "recall": (ndcg > 0).astype(np.float64)}


def change(utility: float, ndcg: float, probes: int = 200, items: int = 200, noise: float = 0.05) -> tuple:
    """What the live version and a candidate make, whose means differ by so much."""
    draw = np.random.default_rng(0)
    base = draw.uniform(0.3, 0.6, size=max(probes, items))

    def moved(by: float, count: int) -> NDArray[np.float64]:
        wobble = draw.normal(size=count) * noise
        return base[:count] + by + (wobble - wobble.mean() if count else wobble)

    return values(base[:probes], base[:items]), values(moved(utility, probes), moved(ndcg, items))


def test_a_gain_beyond_doubt_without_harm_is_promoted() -> None:
    decision = decide(*change(0.05, 0.0, noise=0.02), CONFIG)
    assert decision.promote
    assert "rose (+0.050" in decision.reason


def test_nothing_new_is_not_promoted() -> None:
    before, _ = change(0.0, 0.0)
    assert not decide(before, before, CONFIG).promote


@pytest.mark.parametrize("utility", [0.003, 0.0, -0.05])
def test_a_utility_whose_interval_touches_zero_is_not_promoted(utility: float) -> None:
    decision = decide(*change(utility, 0.2), CONFIG)
    assert decision.figures["utility@10"]["low"] <= 0
    assert not decision.promote
    assert "did not rise beyond doubt" in decision.reason


def test_known_items_that_fall_are_not_promoted_however_large_the_gain() -> None:
    decision = decide(*change(0.3, -0.05), CONFIG)
    assert not decision.promote
    assert "may have fallen" in decision.reason


def test_known_items_that_may_have_fallen_are_not_promoted_though_their_mean_held() -> None:
    before, after = change(0.3, 0.0, items=40, noise=0.3)
    decision = decide(before, after, CONFIG)
    assert decision.figures["ndcg@10"]["change"] == pytest.approx(0.0, abs=1e-9)
    assert not decision.promote


def test_the_tolerance_decides_how_far_known_items_may_fall() -> None:
    pair = change(0.05, -0.01, noise=0.01)
    assert decide(*pair, CONFIG.model_copy(update={"tolerance": 0.05})).promote
    assert not decide(*pair, CONFIG.model_copy(update={"tolerance": 0.005})).promote


def test_the_confidence_decides_what_is_beyond_doubt() -> None:
    pair = change(0.006, 0.1, noise=0.05)
    assert decide(*pair, CONFIG.model_copy(update={"confidence": 0.6})).promote
    assert not decide(*pair, CONFIG.model_copy(update={"confidence": 0.999})).promote


@pytest.mark.parametrize("probes", [0, 1, 29])
def test_too_few_probes_prove_nothing(probes: int) -> None:
    decision = decide(*change(0.3, 0.1, probes=probes), CONFIG)
    assert not decision.promote
    assert f"only {probes} held-out probes, at least 30" in decision.reason


@pytest.mark.parametrize("items", [0, 1, 29])
def test_too_few_known_items_guard_against_nothing(items: int) -> None:
    decision = decide(*change(0.3, 0.1, items=items), CONFIG)
    assert not decision.promote
    assert f"only {items} known items" in decision.reason


def test_as_many_probes_and_items_as_are_needed_are_enough() -> None:
    assert decide(*change(0.3, 0.1, probes=30, items=30, noise=0.01), CONFIG).promote


def test_figures_say_what_was_seen() -> None:
    before = values(np.full(40, 0.5), np.full(35, 0.25))
    after = values(np.full(40, 0.75), np.full(35, 0.25))
    figures = decide(before, after, CONFIG).figures
    assert set(figures) == {"utility@10", "ndcg@10", "mrr@10", "recall@10"}
    assert figures["utility@10"] == {
        "before": 0.5, "after": 0.75, "change": 0.25, "low": 0.25, "high": 0.25, "probes": 40,
    }  # fmt: skip
    assert figures["ndcg@10"]["probes"] == 35


def test_a_decision_is_reproducible_and_metrics_without_values_have_no_figures() -> None:
    pair = change(0.01, 0.0)
    assert decide(*pair, CONFIG) == decide(*pair, CONFIG)
    assert compare({"mrr": np.empty(0)}, {"mrr": np.empty(0)}, CONFIG) == {}


def test_differences_are_paired() -> None:
    base = np.random.default_rng(0).uniform(0, 1, size=100)  # its spread alone would hide so small a gain
    after = base + 0.01
    assert decide(values(base, base), values(after, after), CONFIG).promote


def test_a_candidate_that_is_no_better_is_hardly_ever_promoted() -> None:
    draw = np.random.default_rng(3)
    promoted = 0
    for _ in range(200):
        base = draw.uniform(0.3, 0.6, size=60)
        after = base + draw.normal(size=60) * 0.05
        promoted += decide({"utility": base, "ndcg": base}, {"utility": after, "ndcg": base}, CONFIG).promote
    assert promoted <= 14  # 2.5 % are expected at 95 % confidence, two-sided: 5, and three standard errors


def test_what_is_asked_often_weighs_more() -> None:
    before = {"utility": np.full(60, 0.5), "ndcg": np.full(60, 0.5)}
    better = np.where(np.arange(60) < 20, 0.8, 0.45)
    after = {"utility": better, "ndcg": np.full(60, 0.5)}
    assert not decide(before, {**after, "utility": np.where(np.arange(60) < 5, 0.8, 0.45)}, GateConfig()).promote
    weights = np.where(np.arange(60) < 20, 5.0, 1.0)
    decision = decide(before, after, GateConfig(), weights=weights)
    assert decision.promote
    assert decision.figures["utility@10"]["after"] == pytest.approx(np.average(better, weights=weights))
    assert decision.figures["ndcg@10"]["after"] == 0.5


def test_a_careful_teacher_that_sees_a_fall_is_heard() -> None:
    before, after = change(0.05, 0.0, noise=0.02)
    for by, promoted in ((-0.02, False), (0.0, True)):
        careful = before["utility"] + by
        decision = decide(
            {**before, "careful utility": before["utility"]}, {**after, "careful utility": careful}, CONFIG
        )
        assert decision.promote is promoted
        assert ("careful teacher may have fallen" in decision.reason) is not promoted
        assert decision.figures["careful utility@10"]["change"] == pytest.approx(by)


def test_each_candidate_that_was_seen_off_makes_proof_harder_for_the_utility_alone() -> None:
    pair = change(0.01, 0.0, noise=0.05)
    lows = [compare(*pair, CONFIG, tries=tries)["utility@10"]["low"] for tries in (0, 1, 9)]
    assert lows[0] > lows[1] > lows[2]
    assert [decide(*pair, CONFIG, tries=tries).promote for tries in (0, 20)] == [True, False]
    items = [compare(*pair, CONFIG, tries=tries)["ndcg@10"]["low"] for tries in (0, 9)]
    assert items[0] == items[1]


def test_chance_that_tries_every_night_is_hardly_ever_promoted() -> None:
    draw = np.random.default_rng(0)
    promoted = 0
    for _ in range(20):
        nights = []
        for tries in range(20):
            wobble = draw.normal(size=60) * 0.05
            before, after = values(np.full(60, 0.5), np.full(60, 0.5)), values(0.5 + wobble, np.full(60, 0.5))
            nights.append(decide(before, after, CONFIG, tries=tries).promote)
        promoted += any(nights)
    assert promoted <= 3  # without sharing the doubt, 8 of 20 are expected
