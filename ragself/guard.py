"""Takes a promotion back when what happens after it turns bad: it failed, it is slow, or it finds worse."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any

from ragself import isolate, review
from ragself.errors import RagselfError
from ragself.knowledge import KnowledgeBase
from ragself.schema import Review
from ragself.serve.signals import SIGNALS, SignalLog, Signals

logger = logging.getLogger(__name__)

_WATCHED = 7 * 86_400.0  # seconds after a promotion in which it may be taken back
_COMPARED = 7 * 86_400.0  # seconds before it that it is compared with
_ENOUGH = 200  # searches of each version that are needed to compare them
_FAILED = 0.01  # share of searches that may fail more than before
_SLOWER = 2.0  # times the p95 of before
_SLOW = 0.05  # seconds of p95 below which nothing is slow
_BY_ITSELF = 1.5  # times as long as the version before, in turns with it: less is the machine, not the version
_AGAIN = 3600.0  # seconds until that is measured again
_MORE = 100  # remembered queries after which a promotion is looked at again


class Guard:
    """Watches the last promotion."""

    def __init__(self, kb: KnowledgeBase, generator: str | Sequence[str] | None = None) -> None:
        """Name what is watched; nothing is done yet."""
        self._kb, self._generator = kb, generator
        self._reviewed: tuple[int, int] | None = None
        self._measured = -_AGAIN

    def look(self, stopping: threading.Event) -> None:
        """Roll back to the version before the last promotion where there is reason to."""
        event = self._kb.promotion()
        if event is None or self._kb.pinned:
            return
        since = datetime.fromisoformat(event["at"]).timestamp()
        if not 0 <= time.time() - since < _WATCHED:
            return
        version, before = event["version"], event["before"]
        reason = self._signals(version, before, since) or self._utility(event, stopping)
        if reason:
            logger.warning("version %d is taken back: %s", version, reason)
            self._kb.rollback(before, started="guard", reason=reason)

    def _signals(self, version: int, before: int, since: float) -> str | None:
        path = self._kb.path / SIGNALS
        if not path.exists():
            return None
        with closing(SignalLog(path)) as log:
            now, usual = log.of(version, since), log.of(before, since - _COMPARED, since)
        slow = slower(now, usual)
        return failing(now, usual) or (slow and self._confirmed(version, before, slow))

    def _confirmed(self, version: int, before: int, reason: str) -> str | None:
        """The reason, where it is the version that is slow, and not the machine."""
        if time.monotonic() < self._measured + _AGAIN:
            return None
        self._measured = time.monotonic()
        times = review.times_as_slow(self._kb.store(), version, before)
        if times < _BY_ITSELF:
            logger.info(
                "searches have become slow, but not by version %d: %.2f times version %d", version, times, before
            )
            return None
        return f"{reason}; {times:.1f} times in turns with version {before}"

    def _utility(self, event: Mapping[str, Any], stopping: threading.Event) -> str | None:
        version = event["version"]
        asked = self._kb.asked_in_all()
        if self._reviewed is None or self._reviewed[0] != version:
            self._reviewed = version, event["seen"]["queries"]
        if asked - self._reviewed[1] < _MORE:
            return None
        self._reviewed = version, asked
        watch = self._kb.config.watch
        job = isolate.Job(
            "review", self._kb.path, self._kb.config, {}, self._generator, "guard", seconds=watch.minutes * 60
        )
        try:
            result = isolate.run(job, stopping)
        except (isolate.Stopped, RagselfError) as error:
            logger.warning("the last promotion could not be looked at again: %s", error or "it was stopped")
            return None
        return lowered(Review(**result)) if result else None


def failing(now: Signals, before: Signals) -> str | None:
    """That more searches fail in a version than in the one before it, or None."""
    if min(now.searches, before.searches) < _ENOUGH:
        return None
    failed, usual = now.failed / now.searches, before.failed / before.searches
    if failed > usual + _FAILED:
        return f"{failed:.1%} of {now.searches:,} searches failed, {usual:.1%} before"
    return None


def slower(now: Signals, before: Signals) -> str | None:
    """That searches take longer in a version than in the one before it, for whatever reason, or None."""
    if min(now.searches, before.searches) < _ENOUGH:
        return None
    if now.p95 > max(_SLOWER * before.p95, _SLOW):
        return f"95 % of searches take up to {now.p95 * 1000:.0f} ms, {before.p95 * 1000:.0f} ms before"
    return None


def lowered(found: Review) -> str | None:
    """Why a version is worse than the one before it, as a language model sees what is found, or None."""
    if found.high >= 0:
        return None
    return (
        f"LM utility fell for {found.fell:.0%} and rose for {found.rose:.0%} of {found.queries} queries asked since "
        f"({found.change:+.3f}, interval {found.low:+.3f} to {found.high:+.3f})"
    )
