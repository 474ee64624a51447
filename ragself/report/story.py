"""What there is to tell about a knowledge base, gathered from its history, its versions and a few queries."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.adapter import Adapter
from ragself.config import ProbesConfig
from ragself.engine.engine import Store
from ragself.knowledge_base import KnowledgeBase
from ragself.monitoring.search_log import SIGNALS, SignalLog, Signals
from ragself.probes.probes import make
from ragself.progress import Progress, silent
from ragself.schema import Chunk, Status

_ASKED = 300  # queries that are looked up in both versions
_SHOWN = 8  # of them that are shown
_DEPTH = 5  # documents that are shown of each
_COMPARED = 10  # documents that are compared
_BLOCK = 2000  # documents mapped at once: bounds memory, whatever the corpus
_SNIPPET = 280  # letters of a document
_SINCE = 7 * 86_400.0  # seconds of which searches are told


@dataclass(frozen=True, slots=True)
class Place:
    """A document in one of the two lists of a query.

    Attributes:
        title: Its title or source.
        text: Its beginning.
        rank: In this list, 1 is first.
        other: In the other list, None beyond the compared ones.
    """

    title: str
    text: str
    rank: int
    other: int | None


@dataclass(frozen=True, slots=True)
class Changed:
    """A query whose results changed.

    Attributes:
        query: The query.
        kind: Where it comes from, as of `Probe`.
        overlap: Share of the first documents that both versions have.
        before, after: The first documents of each.
    """

    query: str
    kind: str
    overlap: float
    before: Sequence[Place]
    after: Sequence[Place]


@dataclass(frozen=True, slots=True)
class Story:
    """All that the page tells.

    Attributes:
        name: Of the knowledge base's folder, without the path.
        status: What it holds.
        remembered: How many distinct queries are remembered.
        passes: Events of passes, oldest first, each with its ``report``.
        events: The whole history, oldest first.
        compared: Numbers of the versions whose results are compared, the earlier first; None where there is one only.
        changed: Queries whose results changed most.
        unchanged: Share of the queries looked up whose first documents are the same.
        asked: How many queries were looked up.
        searches: How searching went lately, by version.
        at: When it was gathered, seconds since 1970.
    """

    name: str
    status: Status
    remembered: int
    passes: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    compared: tuple[int, int] | None
    changed: Sequence[Changed]
    unchanged: float
    asked: int
    searches: Mapping[int, Signals]
    at: float


def gather(kb: KnowledgeBase, progress: Progress = silent) -> Story:
    """Read what there is, and look up some queries in the live version and the one before it.

    Raises:
        EncoderError: The embedding model cannot be loaded, which looking up needs.
    """
    store, status, events = kb.store(), kb.status(), kb.history()
    compared = _compared(store, status)
    remembered = kb.asked()
    changed: list[Changed] = []
    if compared is not None:
        changed = _look_up(store, remembered, compared, progress)
    return Story(
        name=kb.path.name,
        status=status,
        remembered=len(remembered),
        passes=[event for event in events if "report" in event],
        events=events,
        compared=compared,
        changed=[one for one in changed if one.overlap < 1][:_SHOWN],
        unchanged=sum(one.overlap == 1 for one in changed) / max(len(changed), 1),
        asked=len(changed),
        searches=_searches(kb, status),
        at=time.time(),
    )


def _compared(store: Store, status: Status) -> tuple[int, int] | None:
    live, before = status.live.number, store.registry.before()
    before = 0 if before is None else before
    return None if live == before else (before, live)


def _searches(kb: KnowledgeBase, status: Status) -> dict[int, Signals]:
    if not (kb.path / SIGNALS).exists():
        return {}
    with closing(SignalLog(kb.path / SIGNALS)) as log:
        found = {version.number: log.of(version.number, time.time() - _SINCE) for version in status.versions}
    return {number: signals for number, signals in found.items() if signals.searches}


def _look_up(store: Store, asked: Mapping[str, int], versions: tuple[int, int], progress: Progress) -> list[Changed]:
    """Queries in both versions by exact search, those that changed most first."""
    chunks = store.journal.chunks()
    if not chunks:
        return []
    held = [p for p in make(chunks, asked, ProbesConfig(), 0).probes if p.kind == "traffic" or p.split != "train"]
    held.sort(key=lambda probe: (probe.kind != "traffic", -probe.weight, probe.kind != "title", probe.id))
    held = held[:_ASKED]
    queries = [probe.text for probe in held]
    tops = [
        _first(store, chunks, queries, store.adapter(store.registry.version(number)), progress) for number in versions
    ]
    out = []
    for row, probe in enumerate(held):
        before, after = (top[row].tolist() for top in tops)
        same = len(set(before[:_DEPTH]) & set(after[:_DEPTH])) / max(len(before[:_DEPTH]), 1)
        out.append(
            Changed(probe.text, probe.kind, same, _places(chunks, before, after), _places(chunks, after, before))
        )
    return sorted(out, key=lambda one: one.overlap)


def _first(
    store: Store, chunks: Sequence[Chunk], queries: list[str], adapter: Adapter | None, progress: Progress
) -> NDArray[np.int64]:
    """Rows of the nearest documents of each query, (queries, compared) at most, nearest first."""
    texts = [chunk.text for chunk in chunks]
    base = store.base.documents(texts, progress)
    asked = store.base.queries(queries, progress)
    asked = asked if adapter is None else adapter.queries(asked, queries)
    scores = np.empty((len(queries), len(texts)), dtype=np.float32)
    for start in range(0, len(texts), _BLOCK):
        block = slice(start, start + _BLOCK)
        vectors = base[block] if adapter is None else adapter.documents(base[block], texts[block])
        scores[:, block] = asked @ vectors.T
    return np.asarray(np.argsort(-scores, axis=1, kind="stable")[:, :_COMPARED])


def _places(chunks: Sequence[Chunk], rows: Sequence[int], other: Sequence[int]) -> list[Place]:
    places = []
    for rank, row in enumerate(rows[:_DEPTH], 1):
        chunk = chunks[row]
        text = " ".join(chunk.shown.split())
        shown = text if len(text) <= _SNIPPET else text[:_SNIPPET].rsplit(" ", 1)[0] + " …"
        source = chunk.source.rsplit("/", 1)[-1]  # the page may be sent to others: no local paths
        places.append(Place(chunk.title or source, shown, rank, other.index(row) + 1 if row in other else None))
    return places
