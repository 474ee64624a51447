"""When a pass in the background is due. Decides on plain values: nothing is read here but what is given."""

from __future__ import annotations

from datetime import datetime, timedelta

from ragself.config import WatchConfig
from ragself.schema import Pending


def due(watch: WatchConfig, news: Pending, last: float | None, now: float) -> str | None:
    """Why a pass is due, in words for the history, or None.

    Args:
        watch: The settings.
        news: What the last pass has not seen.
        last: Seconds since 1970 when the last pass ended, None where there was none.
        now: Seconds since 1970.
    """
    if not news:
        return None
    if last is None:
        return "the first pass"
    since = now - last
    if since < -watch.rest:  # how long ago is not known; the end of this pass will be
        return "the clock was set back since the last"
    if since < watch.rest:
        return None
    if watch.documents and news.chunks >= watch.documents:
        return f"{news.chunks:,} chunks are new, changed or gone"
    if watch.queries and news.queries >= watch.queries:
        return f"{news.queries:,} queries are new"
    if since >= watch.every:
        return f"{_span(since)} after the last"
    return None


def left(hours: str | None, now: datetime) -> float | None:
    """Seconds that are left of the hours in which passes run: 0 outside of them, None where they are not bounded."""
    if hours is None:
        return None
    begin, end = (datetime.strptime(part, "%H:%M").time() for part in hours.split("-"))
    for day in (-1, 0):  # hours that began yesterday may reach until today
        began = datetime.combine(now.date(), begin, now.tzinfo) + timedelta(days=day)
        ends = datetime.combine(began.date(), end, now.tzinfo) + timedelta(days=begin >= end)
        if began <= now < ends:
            return (ends - now).total_seconds()
    return 0.0


def _span(seconds: float) -> str:
    return f"{seconds / 3600:.0f} hours" if seconds >= 2 * 3600 else f"{seconds / 60:.0f} minutes"
