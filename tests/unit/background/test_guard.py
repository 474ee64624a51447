import math

import pytest

from ragself.background.guard import failing, fall, slower
from ragself.monitoring.search_log import Signals
from ragself.schema import Review

FINE = Signals(1000, 0, 0.010, 0.030)


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (FINE, None),
        (Signals(1000, 10, 0.010, 0.030), None),
        (Signals(1000, 11, 0.010, 0.030), "1.1% of 1,000 searches failed, 0.0% before"),
        (Signals(1000, 0, 0.010, 0.059), None),
        (Signals(1000, 0, 0.010, 0.061), "95 % of searches take up to 61 ms, 30 ms before"),
        (Signals(199, 199, math.nan, math.nan), None),  # too few to say
        (Signals(200, 200, math.nan, math.nan), "100.0% of 200 searches failed, 0.0% before"),
    ],
)
def test_what_is_worse_as_searching_goes(now: Signals, why: str | None) -> None:
    assert (failing(now, FINE) or slower(now, FINE)) == why
    for said in (failing, slower):
        assert said(now, Signals(199, 0, 0.01, 0.03)) is None


def test_nothing_is_slow_below_what_anybody_notices() -> None:
    assert slower(Signals(1000, 0, 0.004, 0.049), Signals(1000, 0, 0.002, 0.004)) is None


def test_what_is_worse_as_a_language_model_sees_it() -> None:
    said = fall(Review(3, 2, 240, 0.61, 0.2, -0.05, -0.08, -0.02))
    assert said == (
        "LM utility fell for 61% and rose for 20% of 240 queries since then (-0.050, interval -0.080 to -0.020)"
    )
    assert fall(Review(3, 2, 240, 0.61, 0.2, -0.05, -0.12, 0.001)) is None
