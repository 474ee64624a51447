"""Versions to switch between: settings with which a pass promotes, and a version that shares the live collection."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ragself import KnowledgeBase
from ragself.adapters.ranking import Ranking

PROMOTING: dict[str, Any] = {
    "train": {"adapters": ["residual"]},  # whose documents have other vectors: a collection of its own is built
    "gate": {"gain": 0.0, "confidence": 0.51, "margin": 1.0},  # any rise will do, and no loss is looked at
    "teacher": {"weight": 3.0},  # so heavy that whoever learns from it rises by it
}
"""Settings that have nearly every pass end with a switch to a new collection."""


def shared(kb: KnowledgeBase) -> int:
    """Register a version that ranks as the live one with other weights of words, in the same collection; its number."""
    store = kb.engine.store
    live = store.registry.version(store.registry.live())
    ranking = store.ranking(live)
    other = Ranking(ranking.adapter, replace(ranking.weights, bm25=2.0 * ranking.weights.bm25))
    number = store.registry.next_number()
    version = store.draft(number, other, live)
    assert store.shares(version, live)
    store.registry.add(version)
    return number
