import math
import re

import numpy as np
import pytest
from numpy.typing import NDArray

from ragself.config import GateConfig
from ragself.evaluation.gate import Decision, compare, decide, fallen

CONFIG = GateConfig(k=10, confidence=0.95, gain=0.003, margin=0.02, min_probes=30)
Pair = tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]


def values(utility: NDArray[np.float64], ndcg: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    return {"utility": utility, "ndcg": ndcg, "mrr": ndcg, "recall": (ndcg > 0).astype(np.float64)}


def change(utility: float, ndcg: float, probes: int = 200, items: int = 200, noise: float = 0.05) -> Pair:
    """What the live version and a candidate make, whose means differ by so much."""
    draw = np.random.default_rng(0)
    base = draw.uniform(0.3, 0.6, size=max(probes, items))

    def moved(by: float, count: int) -> NDArray[np.float64]:
        wobble = draw.normal(size=count) * noise
        return base[:count] + by + (wobble - wobble.mean() if count else wobble)

    return values(base[:probes], base[:items]), values(moved(utility, probes), moved(ndcg, items))


def telling(probes: int, margin: float = CONFIG.margin) -> float:
    """Noise with which so many probes can just tell a loss of the margin."""
    return 0.999 * margin * math.sqrt(probes) / (1.645 + 0.842)


def test_a_gain_beyond_doubt_without_harm_is_promoted() -> None:
    decision = decide(*change(0.05, 0.0, noise=0.02), CONFIG)
    assert decision.promote
    assert "rose (+0.050" in decision.reason


def test_nothing_new_is_not_promoted() -> None:
    before, _ = change(0.0, 0.0)
    assert not decide(before, before, CONFIG).promote


def test_either_metric_may_prove_it() -> None:
    by_utility, by_items = (
        decide(*change(0.05, 0.0, noise=0.02), CONFIG),
        decide(*change(0.0, 0.05, noise=0.02), CONFIG),
    )
    assert by_utility.reason.startswith("LM utility rose (+0.050")
    assert "known-item nDCG held (" in by_utility.reason
    assert by_items.reason.startswith("known-item nDCG rose (+0.050")
    assert "LM utility held (" in by_items.reason
    both = decide(*change(0.05, 0.05, noise=0.02), CONFIG)
    assert both.reason.startswith("LM utility rose (")
    assert " and known-item nDCG rose (" in both.reason
    assert by_utility.promote
    assert by_items.promote
    assert both.promote


@pytest.mark.parametrize("utility", [0.003, 0.0, -0.05])
def test_where_no_metric_rises_beyond_doubt_nothing_is_promoted(utility: float) -> None:
    decision = decide(*change(utility, 0.0), CONFIG)
    assert decision.figures["utility@10"]["low"] <= 0
    assert not decision.promote
    assert decision.reason.startswith("nothing rose beyond doubt (LM utility")


def test_a_rise_that_is_too_small_is_no_reason_to_switch_however_sure_it_is() -> None:
    decision = decide(*change(0.002, 0.0, noise=0.001), CONFIG)
    assert decision.figures["utility@10"]["low"] > 0
    assert not decision.promote
    assert "LM utility rose by less than 0.003 (+0.002" in decision.reason
    assert decide(*change(0.002, 0.0, noise=0.001), CONFIG.model_copy(update={"gain": 0.001})).promote
    assert decide(*change(0.002, 0.05, noise=0.001), CONFIG).promote  # the other rose by enough


def test_known_items_that_fall_are_not_promoted_however_large_the_gain() -> None:
    decision = decide(*change(0.3, -0.05), CONFIG)
    assert not decision.promote
    assert "LM utility rose, but known-item nDCG may have fallen by more than" in decision.reason


def test_a_utility_that_falls_is_not_promoted_however_much_better_known_items_are_found() -> None:
    decision = decide(*change(-0.05, 0.3), CONFIG)
    assert not decision.promote
    assert "known-item nDCG rose, but LM utility may have fallen by more than" in decision.reason


def test_too_few_probes_to_tell_a_loss_say_how_many_would_do() -> None:
    before, after = change(0.3, 0.0, items=40, noise=0.3)
    decision = decide(before, after, CONFIG)
    assert decision.figures["ndcg@10"]["change"] == pytest.approx(0.0, abs=1e-9)
    assert not decision.promote
    assert "cannot be measured within 0.02 with 40 probes" in decision.reason
    need = int(re.search(r"with 40 probes, (\d+) are needed", decision.reason).group(1))  # type: ignore[union-attr]
    spread = float(np.std(after["ndcg"] - before["ndcg"]))
    assert telling(need) >= 0.99 * spread
    assert telling(need - 2) < spread
    enough = change(0.3, 0.0, items=int(1.1 * need), noise=0.3)
    assert decide(*enough, CONFIG).promote


def test_the_margin_decides_what_must_be_told() -> None:
    pair = change(0.05, 0.0, noise=0.1)
    assert decide(*pair, CONFIG).promote
    assert "cannot be measured within 0.01 " in decide(*pair, CONFIG.model_copy(update={"margin": 0.01})).reason


def drawn(by: float, seed: int, probes: int = 100) -> Decision:
    """A candidate whose utility has risen for sure, and whose known items differ by chance and by so much."""
    draw = np.random.default_rng(seed)
    base = draw.uniform(0.3, 0.6, size=probes)
    noise = 0.9 * telling(probes)
    items = base + by + noise * draw.normal(size=probes)
    return decide({"utility": base, "ndcg": base}, {"utility": base + 0.1, "ndcg": items}, CONFIG)


def test_a_candidate_that_changes_nothing_passes_four_times_in_five() -> None:
    passed = sum(drawn(0.0, seed).promote for seed in range(200))
    assert 0.71 * 200 < passed < 0.89 * 200  # three standard errors are 9 %


def test_one_that_is_worse_by_the_margin_hardly_ever_passes() -> None:
    assert sum(drawn(-CONFIG.margin, seed).promote for seed in range(200)) <= 0.08 * 200
    seen = 0.9 * CONFIG.margin  # what so many probes can tell
    assert 0 < sum(drawn(-seen, seed).promote for seed in range(200)) <= 0.09 * 200  # 5 % are expected


def test_what_has_risen_has_not_fallen_however_little_can_be_told() -> None:
    assert fallen({"low": 0.001, "error": 9.0, "change": 9.0, "high": 9.0, "probes": 1}, 0.02) is None


def test_the_confidence_decides_what_is_beyond_doubt() -> None:
    pair = change(0.006, 0.0, noise=0.05)
    assert decide(*pair, CONFIG.model_copy(update={"confidence": 0.6})).promote
    assert not decide(*pair, CONFIG.model_copy(update={"confidence": 0.999})).promote


@pytest.mark.parametrize("probes", [0, 1, 29])
def test_too_few_probes_prove_nothing(probes: int) -> None:
    decision = decide(*change(0.3, 0.1, probes=probes), CONFIG)
    assert not decision.promote
    assert f"only {probes} held-out probes measure LM utility, 30 are needed" in decision.reason


@pytest.mark.parametrize("items", [0, 1, 29])
def test_too_few_known_items_guard_against_nothing(items: int) -> None:
    decision = decide(*change(0.3, 0.1, items=items), CONFIG)
    assert not decision.promote
    assert f"only {items} held-out probes measure known-item nDCG, 30 are needed" in decision.reason


def test_as_many_probes_and_items_as_are_needed_are_enough() -> None:
    assert decide(*change(0.3, 0.1, probes=30, items=30, noise=0.01), CONFIG).promote


def test_figures_say_what_was_seen() -> None:
    before = values(np.full(40, 0.5), np.full(35, 0.25))
    after = values(np.full(40, 0.75), np.full(35, 0.25))
    figures = decide(before, after, CONFIG).figures
    assert set(figures) == {"utility@10", "ndcg@10", "mrr@10", "recall@10"}
    assert figures["utility@10"] == {
        "before": 0.5, "after": 0.75, "change": 0.25, "low": 0.25, "high": 0.25, "error": 0.0, "probes": 40,
    }  # fmt: skip
    assert figures["ndcg@10"]["probes"] == 35


def test_the_error_is_the_standard_error_of_the_mean() -> None:
    before, after = change(0.01, 0.0)
    error = compare(before, after, CONFIG)["ndcg@10"]["error"]
    difference = after["ndcg"] - before["ndcg"]
    assert error == pytest.approx(float(np.std(difference)) / math.sqrt(200))
    weighed = compare(before, after, CONFIG, weights=np.repeat([1.0, 0.0], 100))["utility@10"]
    some = (after["utility"] - before["utility"])[:100]
    assert weighed["error"] == pytest.approx(float(np.std(some)) / 10)


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


def test_each_candidate_that_was_seen_off_makes_proof_harder_for_both_metrics() -> None:
    pair = change(0.01, 0.01, noise=0.05)
    for name in ("utility@10", "ndcg@10"):
        lows = [compare(*pair, CONFIG, tries=tries)[name]["low"] for tries in (0, 1, 9)]
        assert lows[0] > lows[1] > lows[2]
    assert [decide(*pair, CONFIG, tries=tries).promote for tries in (0, 50)] == [True, False]


def test_whether_one_fell_does_not_depend_on_how_often_it_was_tried() -> None:
    pair = change(0.3, -0.001, noise=0.03)
    assert [decide(*pair, CONFIG, tries=tries).promote for tries in (0, 50)] == [True, True]


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
