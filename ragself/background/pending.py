"""Inputs of a pass, and their changes since the last pass."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from datetime import datetime
from typing import Any

from ragself.config import Config
from ragself.engine.engine import Engine
from ragself.schema import Pending


def inputs(engine: Engine, queries: Counter[str], config: Config) -> dict[str, Any]:
    """Identify the inputs of a pass, for the history.

    Args:
        engine: The open parts of the knowledge base.
        queries: Queries that the caller passed, and how often each was asked.
        config: Settings of the pass.
    """
    settings = config.model_dump(mode="json", exclude={"watch": True, "queries": True, "generator": {"pairs"}})
    return {
        "head": engine.store.journal.head,
        "queries": engine.traffic.total,
        "given": _digest(sorted(queries.elements())),
        "settings": _digest(settings),
    }


def pending(engine: Engine, queries: Counter[str], config: Config) -> tuple[Pending, float | None]:
    """Changes since the last pass. Arguments as for `inputs`.

    Returns:
        The changes, and the time when the last pass ended, in seconds since 1970; None if there was no pass.
    """
    journal = engine.store.journal
    now = inputs(engine, queries, config)
    last = next((event for event in reversed(engine.store.registry.history()) if "seen" in event), None)
    if last is None:
        return Pending(len(journal), now["queries"]), None
    seen = last["seen"]
    other = next((f"other {key}" for key in ("settings", "given") if seen[key] != now[key]), "")
    changes = Pending(journal.pending(seen["head"]), max(now["queries"] - seen["queries"], 0), other)
    return changes, datetime.fromisoformat(last["at"]).timestamp()


def _digest(value: object) -> str:
    return hashlib.blake2b(
        json.dumps(value, sort_keys=True).encode("utf-8", "surrogatepass"), digest_size=8
    ).hexdigest()
