"""Rolls back a promotion after which searches fail more often, take longer or find worse documents."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ragself import review
from ragself.background import process as isolate
from ragself.errors import RagselfError
from ragself.monitoring.search_log import SIGNALS, SignalLog, Signals
from ragself.schema import Review

if TYPE_CHECKING:  # it imports this package
    from ragself.knowledge_base import KnowledgeBase

logger = logging.getLogger(__name__)

_NAME = "guard"  # name in the history
_WATCHED = 7 * 86_400.0  # seconds after a promotion in which it may be rolled back
_COMPARED = 7 * 86_400.0  # seconds before a promotion that it is compared with
_ENOUGH = 200  # searches of each version that a comparison needs
_FAILED = 0.01  # allowed rise of the share of searches that fail
_SLOWER = 2.0  # ratio to the p95 before the promotion
_SLOW = 0.05  # seconds of p95 below which no version counts as slow
_BY_ITSELF = 1.5  # ratio of search times in a direct comparison; below it the machine is the cause, not the version
_AGAIN = 3600.0  # seconds until an expensive check may run again
_MORE = 100  # new, distinct queries after which a promotion is reviewed again


class Guard:
    """Supervision of the last promotion."""

    def __init__(
        self,
        kb: KnowledgeBase,
        generator: str | Sequence[str] | None = None,
        bounds: Callable[[], isolate.Bounds | str] = isolate.Bounds,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """Store the arguments; nothing is checked yet.

        Args:
            kb: The knowledge base.
            generator: As for `KnowledgeBase.adapt`.
            bounds: Returns the limits of a review by the language model, or the reason why none may run now.
            meanwhile: Called regularly during a review.
        """
        self._kb, self._generator, self._bounds, self._meanwhile = kb, generator, bounds, meanwhile
        self._reviewed: tuple[int, int] | None = None
        self._next: dict[str, float] = {}  # time at which each expensive check may run again

    def poll(self, stopping: threading.Event) -> None:
        """Roll back to the version before the last promotion if there is a reason."""
        event = self._kb.engine.store.registry.promotion()
        if event is None or self._kb.pinned:
            return
        since = datetime.fromisoformat(event["at"]).timestamp()
        if not 0 <= time.time() - since < _WATCHED:
            return
        version, before = event["version"], event["before"]
        reason = self._opens(version, before) or self._signals(version, before, since) or self._utility(event, stopping)
        if reason:
            logger.warning("version %d is rolled back: %s", version, reason)
            self._kb.rollback(before, started=_NAME, reason=reason)

    def _opens(self, version: int, before: int) -> str | None:
        """Reason if the version cannot be opened although the one before it can, else None."""
        store = self._kb.engine.store
        try:
            store.adapter(store.registry.version(version))
        except RagselfError as error:
            turns = review.in_turns(store, version, before) if self._may("open") else None
            if turns is not None and turns.failed == 1.0 and turns.failed_before == 0.0:
                return f"it cannot be opened: {error}"
            raise
        return None

    def _signals(self, version: int, before: int, since: float) -> str | None:
        path = self._kb.path / SIGNALS
        if not path.exists():
            return None
        with closing(SignalLog(path)) as log:
            now, usual = log.of(version, since), log.of(before, since - _COMPARED, since)
        fails, slow = failing(now, usual), slower(now, usual)
        if not (fails or slow) or not self._may("turns"):
            return None
        # Tells the version from the machine or a server as the cause.
        turns = review.in_turns(self._kb.engine.store, version, before)
        if fails and turns.failed > turns.failed_before + _FAILED:
            failed = f"{turns.failed:.0%} fail, and {turns.failed_before:.0%} with version {before}"
            return f"{fails}; compared directly, {failed}"
        if slow and turns.times >= _BY_ITSELF:
            return f"{slow}; compared directly, it takes {turns.times:.1f} times as long as version {before}"
        logger.info("%s, but not due to version %d: compared with version %d %s", fails or slow, version, before, turns)
        return None

    def _may(self, what: str) -> bool:
        """Whether an expensive check may run now; if so, its waiting time starts again."""
        now = time.monotonic()
        if now < self._next.get(what, now):
            return False
        self._next[what] = now + _AGAIN
        return True

    def _utility(self, event: Mapping[str, Any], stopping: threading.Event) -> str | None:
        version = event["version"]
        queries = self._kb.engine.traffic.total
        if self._reviewed is None or self._reviewed[0] != version:
            self._reviewed = version, event["seen"]["queries"]
        bounds = self._bounds()
        if queries - self._reviewed[1] < _MORE or isinstance(bounds, str) or not self._may("review"):
            return None
        self._reviewed = version, queries
        job = isolate.Job("review", self._kb.path, self._kb.config, {}, self._generator, _NAME, bounds)
        try:
            result = isolate.run(job, stopping, meanwhile=self._meanwhile)
        except (isolate.Stopped, RagselfError) as error:
            logger.warning("the last promotion could not be reviewed: %s", error or "it was stopped")
            return None
        if result is None:
            return None
        found = Review(**result)
        worse = fall(found)
        if worse is None:
            self._kb.engine.record("review", f"the promotion stands: {describe(found)}", _NAME)
        return worse


def failing(now: Signals, before: Signals) -> str | None:
    """Reason if more searches fail with a version than with the one before it, else None."""
    if min(now.searches, before.searches) < _ENOUGH:
        return None
    failed, usual = now.failed / now.searches, before.failed / before.searches
    if failed > usual + _FAILED:
        return f"{failed:.1%} of {now.searches:,} searches failed, {usual:.1%} before"
    return None


def slower(now: Signals, before: Signals) -> str | None:
    """Reason if searches take longer with a version than with the one before it, whatever the cause, else None."""
    if min(now.searches, before.searches) < _ENOUGH:
        return None
    if now.p95 > max(_SLOWER * before.p95, _SLOW):
        return f"95 % of searches take up to {now.p95 * 1000:.0f} ms, {before.p95 * 1000:.0f} ms before"
    return None


def fall(found: Review) -> str | None:
    """Reason if a language model judges the results of a version worse than those of the one before it, else None."""
    return None if found.high >= 0 else describe(found)


def describe(found: Review) -> str:
    """Result of a comparison of two versions, in words."""
    return (
        f"LM utility fell for {found.fell:.0%} and rose for {found.rose:.0%} of {found.queries} queries since then "
        f"({found.change:+.3f}, interval {found.low:+.3f} to {found.high:+.3f})"
    )
