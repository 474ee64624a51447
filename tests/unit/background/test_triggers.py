from datetime import datetime, timedelta, timezone

import pytest

from ragself.background.triggers import due, left
from ragself.config import WatchConfig
from ragself.schema import Pending

DAY = 86_400.0
WATCH = WatchConfig(every=DAY, documents=100, queries=50, rest=600)
NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("changes", "since", "why"),
    [
        (Pending(0, 0), None, None),
        (Pending(0, 0), 10 * DAY, None),  # a pass that would see nothing new cannot pay
        (Pending(1, 0), None, "the first pass"),
        (Pending(100, 0), 601, "100 chunks are new, changed or gone"),
        (Pending(99, 49), 601, None),
        (Pending(0, 1234), 601, "1,234 queries are new"),
        (Pending(5000, 5000), 599, None),  # it rests
        (Pending(1, 0), DAY - 1, None),
        (Pending(1, 0), DAY, "24 hours after the last pass"),
        (Pending(0, 0, "other settings"), DAY, "24 hours after the last pass"),
        (Pending(5000, 5000), -599, None),  # the clock was set back a little: it rests
        (Pending(1, 0), -601, "the clock was set back since the last pass"),  # nothing waits for it to catch up
        (Pending(0, 0), -601, None),
    ],
)
def test_what_makes_a_pass_due(changes: Pending, since: float | None, why: str | None) -> None:
    assert due(WATCH, changes, None if since is None else NOW - since, NOW) == why


def test_numbers_that_are_switched_off() -> None:
    watch = WatchConfig(documents=0, queries=0)
    assert due(watch, Pending(10**6, 10**6), NOW - 3600, NOW) is None
    assert due(watch, Pending(1, 0), NOW - 2 * DAY, NOW) == "48 hours after the last pass"
    assert due(WatchConfig(every=1800, rest=0), Pending(1, 0), NOW - 1800, NOW) == "30 minutes after the last pass"


@pytest.mark.parametrize(
    ("hours", "time", "seconds"),
    [
        ("22:00-06:00", "21:59", 0),
        ("22:00-06:00", "22:00", 8 * 3600),
        ("22:00-06:00", "23:30", 6.5 * 3600),
        ("22:00-06:00", "00:00", 6 * 3600),
        ("22:00-06:00", "05:59", 60),
        ("22:00-06:00", "06:00", 0),
        ("09:00-17:30", "08:59", 0),
        ("09:00-17:30", "17:00", 1800),
        ("12:00-12:00", "11:00", 3600),  # the whole day
        (None, "11:00", None),
    ],
)
def test_what_is_left_of_the_hours(hours: str | None, time: str, seconds: float | None) -> None:
    zone = timezone(timedelta(hours=2))
    assert left(hours, datetime.fromisoformat(f"2026-03-01T{time}").replace(tzinfo=zone)) == seconds


@pytest.mark.parametrize("hours", ["22-6", "25:00-06:00", "22:00", "22:00-06:60", "22:00 - 06:00"])
def test_hours_that_are_none(hours: str) -> None:
    with pytest.raises(ValueError, match="two times of day such as 22:00-06:00"):
        WatchConfig(hours=hours)
