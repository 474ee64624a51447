"""Triggers of background passes. They depend only on the values passed in; nothing else is read."""

from __future__ import annotations

from datetime import datetime, timedelta

from ragself.config import WatchConfig
from ragself.schema import Pending


def due(watch: WatchConfig, changes: Pending, last: float | None, now: float) -> str | None:
    """Reason why a pass is due, in words for the history, or None.

    Args:
        watch: The settings.
        news: Changes since the last pass.
        last: Time when the last pass ended, in seconds since 1970; None if there was none.
        now: Current time, in seconds since 1970.
    """
    if not changes:
        return None
    if last is None:
        return "the first pass"
    since = now - last
    if since < -watch.rest:  # the time since the last pass is unknown; this pass sets it again
        return "the clock was set back since the last pass"
    if since < watch.rest:
        return None
    if watch.documents and changes.chunks >= watch.documents:
        return f"{changes.chunks:,} chunks are new, changed or gone"
    if watch.queries and changes.queries >= watch.queries:
        return f"{changes.queries:,} queries are new"
    if since >= watch.every:
        return f"{_span(since)} after the last pass"
    return None


def left(hours: str | None, now: datetime) -> float | None:
    """Seconds left of the hours in which passes may run: 0 outside them, None if they are not limited."""
    if hours is None:
        return None
    begin, end = (datetime.strptime(part, "%H:%M").time() for part in hours.split("-"))
    for day in (-1, 0):  # hours that began yesterday may extend into today
        began = datetime.combine(now.date(), begin, now.tzinfo) + timedelta(days=day)
        ends = datetime.combine(began.date(), end, now.tzinfo) + timedelta(days=begin >= end)
        if began <= now < ends:
            return (ends - now).total_seconds()
    return 0.0


def _span(seconds: float) -> str:
    return f"{seconds / 3600:.0f} hours" if seconds >= 2 * 3600 else f"{seconds / 60:.0f} minutes"
