"""Takes a promotion back when what happens after it turns bad: it failed, it is slow, or it finds worse."""

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

if TYPE_CHECKING:  # which starts this
    from ragself.knowledge_base import KnowledgeBase

logger = logging.getLogger(__name__)

_NAME = "guard"  # in the history
_WATCHED = 7 * 86_400.0  # seconds after a promotion in which it may be taken back
_COMPARED = 7 * 86_400.0  # seconds before it that it is compared with
_ENOUGH = 200  # searches of each version that are needed to compare them
_FAILED = 0.01  # share of searches that may fail more than before
_SLOWER = 2.0  # times the p95 of before
_SLOW = 0.05  # seconds of p95 below which nothing is slow
_BY_ITSELF = 1.5  # times as long as the version before, in turns with it: less is the machine, not the version
_AGAIN = 3600.0  # seconds until anything of this that takes time is done again
_MORE = 100  # queries that were never asked before, after which a promotion is looked at again


class Guard:
    """Watches the last promotion."""

    def __init__(
        self,
        kb: KnowledgeBase,
        generator: str | Sequence[str] | None = None,
        bounds: Callable[[], isolate.Bounds | str] = isolate.Bounds,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """Name what is watched; nothing is done yet.

        Args:
            kb: The knowledge base.
            generator: As for `KnowledgeBase.review`.
            bounds: What comparing by a language model may take now, or why it may not be done.
            meanwhile: Called now and then while that is done.
        """
        self._kb, self._generator, self._bounds, self._meanwhile = kb, generator, bounds, meanwhile
        self._reviewed: tuple[int, int] | None = None
        self._next: dict[str, float] = {}  # when each of what takes time may be done again

    def look(self, stopping: threading.Event) -> None:
        """Roll back to the version before the last promotion where there is reason to."""
        event = self._kb.promotion()
        if event is None or self._kb.pinned:
            return
        since = datetime.fromisoformat(event["at"]).timestamp()
        if not 0 <= time.time() - since < _WATCHED:
            return
        version, before = event["version"], event["before"]
        reason = self._opens(version, before) or self._signals(version, before, since) or self._utility(event, stopping)
        if reason:
            logger.warning("version %d is taken back: %s", version, reason)
            self._kb.rollback(before, started=_NAME, reason=reason)

    def _opens(self, version: int, before: int) -> str | None:
        """That the version cannot even be opened, though the one before it can, or None."""
        store = self._kb.store()
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
        turns = review.in_turns(self._kb.store(), version, before)  # is it the version, or the machine, or a server?
        if fails and turns.failed > turns.failed_before + _FAILED:
            return f"{fails}; in turns {turns.failed:.0%}, and {turns.failed_before:.0%} of version {before}"
        if slow and turns.times >= _BY_ITSELF:
            return f"{slow}; {turns.times:.1f} times in turns with version {before}"
        logger.info("%s, but not by version %d: in turns with version %d %s", fails or slow, version, before, turns)
        return None

    def _may(self, what: str) -> bool:
        """Whether something that takes time may be done now; if so, it is being done."""
        now = time.monotonic()
        if now < self._next.get(what, now):
            return False
        self._next[what] = now + _AGAIN
        return True

    def _utility(self, event: Mapping[str, Any], stopping: threading.Event) -> str | None:
        version = event["version"]
        asked = self._kb.total_queries()
        if self._reviewed is None or self._reviewed[0] != version:
            self._reviewed = version, event["seen"]["queries"]
        bounds = self._bounds()
        if asked - self._reviewed[1] < _MORE or isinstance(bounds, str) or not self._may("review"):
            return None
        self._reviewed = version, asked
        job = isolate.Job("review", self._kb.path, self._kb.config, {}, self._generator, _NAME, bounds)
        try:
            result = isolate.run(job, stopping, meanwhile=self._meanwhile)
        except (isolate.Stopped, RagselfError) as error:
            logger.warning("the last promotion could not be looked at again: %s", error or "it was stopped")
            return None
        if result is None:
            return None
        found = Review(**result)
        worse = lowered(found)
        if worse is None:
            self._kb.record("review", f"the promotion stands: {compared(found)}", _NAME)
        return worse


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
    return None if found.high >= 0 else compared(found)


def compared(found: Review) -> str:
    """What came of comparing two versions, in words."""
    return (
        f"LM utility fell for {found.fell:.0%} and rose for {found.rose:.0%} of {found.queries} queries asked since "
        f"({found.change:+.3f}, interval {found.low:+.3f} to {found.high:+.3f})"
    )
