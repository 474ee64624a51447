"""Rolls back to an earlier version while searches and other writers continue."""

from __future__ import annotations

from contextlib import nullcontext

from ragself.engine.engine import Engine
from ragself.engine.live import Live
from ragself.errors import InputError, StoreError
from ragself.index.reindex import apply_changes
from ragself.memory import gc_paused
from ragself.schema import Version


def roll_back(engine: Engine, live: Live, to: int | None, started: str, reason: str) -> Version:
    """Make an earlier version live.

    Args:
        engine: The open parts.
        live: The live snapshot of this process.
        to: Number of the version; None means the one that was live before.
        started: Person or program that started the rollback, for the history.
        reason: Reason, for the history.

    Raises:
        InputError: There is no such version, or it is live.
        StoreError: Another version has become live meanwhile, or the version cannot be read.
    """
    store, registry = engine.store, engine.store.registry
    stamp, number = registry.stamp(), registry.live()
    target = registry.version(_before(engine, number) if to is None else to)
    if target.number == number:
        raise InputError(f"Version {number} is live already. Versions here: {_numbers(engine)}.")
    store.ranking(target)  # raises if it cannot be read
    with store.turn.taken():  # no other process writes to its collection meanwhile
        _prepare(engine, live, target)
    with live.prepared(target.number) as snapshot, store.turn.taken(), gc_paused():  # already warm
        if registry.stamp() != stamp:
            raise StoreError(f"Version {registry.live()} has become live meanwhile. Try again.")
        apply_changes(store.journal, target.collection, snapshot.index, store.base, snapshot.embedder.adapter)
        why = f"from version {number}" + (f": {reason}" if reason else "")
        registry.point(target.number, "rollback", why, started=started)
        live.switch(snapshot)
    return target


def _prepare(engine: Engine, live: Live, target: Version) -> None:
    """Repair the collection of a version if necessary, and apply pending changes to it.

    Nothing is done if it shares an up-to-date collection with the live version.
    """
    store, journal = engine.store, engine.store.journal
    shared = store.shares(target, store.registry.pointed())
    if target.collection in journal.unsettled() or not store.built(target):  # a write to it was interrupted
        with live.paused() if shared else nullcontext():
            store.repair(target)
            engine.writer.begin_generation()
    if shared and not journal.pending(journal.applied(target.collection)):
        return
    with store.filling(target) as index:
        if apply_changes(journal, target.collection, index, store.base, store.adapter(target)):
            engine.writer.begin_generation()  # open connections of this process do not show these changes


def _before(engine: Engine, live: int) -> int:
    before = engine.store.registry.before()
    if before is None:
        raise InputError(f"Version {live} has nothing before it. Versions here: {_numbers(engine)}.")
    return before


def _numbers(engine: Engine) -> str:
    return ", ".join(str(version.number) for version in engine.store.registry.versions())
