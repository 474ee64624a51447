"""Data of the report, gathered from the history, the versions and a few queries of a knowledge base."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.protocol import Adapter
from ragself.config import ProbesConfig
from ragself.engine.version_store import VersionStore
from ragself.knowledge_base import KnowledgeBase
from ragself.monitoring.search_log import SIGNALS, SignalLog, Signals
from ragself.probes.probes import make
from ragself.progress import Progress, silent
from ragself.schema import Chunk, Status

_ASKED = 300  # queries to search for in both versions
_SHOWN = 8  # of these queries, how many to show
_DEPTH = 5  # documents to show for each query
_COMPARED = 10  # documents to compare for each query
_BLOCK = 2000  # documents mapped at once: bounds memory for any corpus
_SNIPPET = 280  # characters of a document to show
_SINCE = 7 * 86_400.0  # seconds up to now whose searches are reported


@dataclass(frozen=True, slots=True)
class Place:
    """A document in one of the two result lists of a query.

    Attributes:
        title: Its title or source.
        text: Its beginning.
        rank: Rank in this list, from 1.
        other: Rank in the other list; None if it is not among the compared documents there.
    """

    title: str
    text: str
    rank: int
    other: int | None


@dataclass(frozen=True, slots=True)
class Changed:
    """A query whose results changed.

    Attributes:
        query: Text of the query.
        kind: Origin of the query, as in `Probe`.
        overlap: Share of the first documents that both versions return.
        before, after: The first documents of each version.
    """

    query: str
    kind: str
    overlap: float
    before: Sequence[Place]
    after: Sequence[Place]


@dataclass(frozen=True, slots=True)
class ReportData:
    """Content of the report.

    Attributes:
        name: Name of the knowledge base's folder, without the path.
        status: Contents of the knowledge base.
        remembered: Number of distinct recorded queries.
        passes: Events of passes, oldest first, each with its ``report``.
        events: The whole history, oldest first.
        compared: Numbers of the two versions whose results are compared, the earlier first; None if there is
            only one version.
        changed: Queries whose results changed most.
        unchanged: Share of the compared queries whose first documents are the same.
        asked: Number of compared queries.
        searches: Recent search statistics, by version.
        at: Time of gathering, seconds since 1970.
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


def gather(kb: KnowledgeBase, progress: Progress = silent) -> ReportData:
    """Gather the content of the report. Searches for some queries in the live version and the one before it.

    Raises:
        EncoderError: The embedding model, which these searches need, cannot be loaded.
    """
    store, status, events = kb.engine.store, kb.status(), kb.history()
    compared = _compared(store, status)
    remembered = kb.recorded_queries()
    changed: list[Changed] = []
    if compared is not None:
        changed = _look_up(store, remembered, compared, progress)
    return ReportData(
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


def _compared(store: VersionStore, status: Status) -> tuple[int, int] | None:
    live, before = status.live.number, store.registry.before()
    before = 0 if before is None else before
    return None if live == before else (before, live)


def _searches(kb: KnowledgeBase, status: Status) -> dict[int, Signals]:
    if not (kb.path / SIGNALS).exists():
        return {}
    with closing(SignalLog(kb.path / SIGNALS)) as log:
        found = {version.number: log.of(version.number, time.time() - _SINCE) for version in status.versions}
    return {number: signals for number, signals in found.items() if signals.searches}


def _look_up(
    store: VersionStore, asked: Mapping[str, int], versions: tuple[int, int], progress: Progress
) -> list[Changed]:
    """Results of queries in both versions by exact search, most changed first."""
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
    store: VersionStore, chunks: Sequence[Chunk], queries: list[str], adapter: Adapter | None, progress: Progress
) -> NDArray[np.int64]:
    """Rows of the nearest documents of each query, nearest first, (queries, compared) at most."""
    texts = [chunk.text for chunk in chunks]
    base = store.base.documents(texts, progress)
    query_vectors = store.base.queries(queries, progress)
    query_vectors = query_vectors if adapter is None else adapter.queries(query_vectors, queries)
    scores = np.empty((len(queries), len(texts)), dtype=np.float32)
    for start in range(0, len(texts), _BLOCK):
        block = slice(start, start + _BLOCK)
        vectors = base[block] if adapter is None else adapter.documents(base[block], texts[block])
        scores[:, block] = query_vectors @ vectors.T
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
